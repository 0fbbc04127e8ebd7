"""Fields of bytes to numbers, four lanes at a time, in PTX.

A compiler that sees a shift and a mask of each lane works on one lane at a time; these lines work on the four bytes of
a register. They compute what :func:`qcore_backend_cuda.kernels.decode.fields` says, number for number. The interpreter
knows no PTX, so that every kernel can do without.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

__all__ = ["assembly"]

_PLANE = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@cache
def assembly(bits: int, kind: str, offset: float = 0.0) -> tuple[str, ...]:
    """Return the lines of each step, or none where there are none: a plain conversion and addition then serve.

    Args:
        bits: width of the codes.
        kind: the dtype of the numbers: ``int8``, ``float16``, ``bfloat16`` or ``float32``; or ``fraction``, the float32
            numbers ``1 + code / 2**bits`` of up to 4 bits.
        offset: what is added to floats; a fraction in 16 bits has no lines.

    The operands are: outputs (one register of int8, two of 16-bit floats, four of float32), then one register of four
    bytes for each of three planes.
    """
    if bits == 8 and kind in ("int8", "bfloat16"):
        return ()  # already signed bytes; bfloat16 holds no byte beside a constant
    if "16" in kind and offset != int(offset):
        return ()
    outputs = {"int8": 1, "float16": 2, "bfloat16": 2}.get(kind, 4)
    raised = 7 - bits if kind == "fraction" else 0
    steps = 8 // _PLANE[bits][-1]
    return tuple(
        "{\n" + "\n".join([".reg .b32 t, u, c;", *_field(bits, step, outputs, raised), *_numbers(kind, offset)]) + "\n}"
        for step in range(steps)
    )


def _field(bits: int, step: int, first: int, raised: int) -> Iterator[str]:
    """Yield what puts the unsigned codes of four lanes into the bytes of ``t``, ``raised`` bits above their ends.

    ``$first`` is the first input. Raised codes have the upper bit of their bytes set.
    """
    if bits == 8:
        yield f"xor.b32 t, ${first}, 0x80808080;"
        return
    low = raised
    for place, width in enumerate(_PLANE[bits]):
        into = "u" if place else "t"
        shift = step * width % 8 - low  # to the right; the field ends at bit ``low`` of its byte
        mask = ((1 << width) - 1 << low) * 0x01010101
        how = f"shr.b32 {into}, ${first + place}, {shift};" if shift >= 0 else ""
        how = how or f"shl.b32 {into}, ${first + place}, {-shift};"
        yield how
        if raised and len(_PLANE[bits]) == 1:  # the mask and the bit that :func:`_numbers` asks for, at once
            yield f"mov.b32 u, {mask:#010x};"
            yield "mov.b32 c, 0x80808080;"
            yield "lop3.b32 t, t, u, c, 0xEA;"
            return
        yield f"and.b32 {into}, {into}, {mask:#010x};"
        if place:
            yield "or.b32 t, t, u;"
        low += width
    if raised:
        yield "or.b32 t, t, 0x80808080;"


def _numbers(kind: str, offset: float) -> Iterator[str]:
    """Yield what turns the bytes of ``t`` into numbers, by way of floats in whose mantissa a byte stands."""
    if kind == "int8":
        yield "mov.b32 $0, t;"
    elif kind == "fraction":  # 0x3F80 is the upper half of 1, and the bits below are halves, quarters and so on
        yield "mov.b32 c, 0x3F000000;"
        for lane in range(4):
            yield f"prmt.b32 ${lane}, t, c, {0x7044 | lane << 8:#06x};"
    elif kind == "float16":  # 0x6400 is 1024
        yield "mov.b32 c, 0x64646464;"
        yield "prmt.b32 $0, t, c, 0x4140;"
        yield "prmt.b32 $1, t, c, 0x4342;"
        yield f"mov.b32 c, {_twice(struct.pack('<e', offset - 1024))};"
        yield "add.f16x2 $0, $0, c;"
        yield "add.f16x2 $1, $1, c;"
    elif kind == "bfloat16":  # 0x4300 is 128, 0x3F80 is 1
        yield "mov.b32 c, 0x43434343;"
        yield "prmt.b32 $0, t, c, 0x4140;"
        yield "prmt.b32 $1, t, c, 0x4342;"
        yield "mov.b32 u, 0x3F803F80;"
        yield f"mov.b32 c, {_twice(struct.pack('<f', offset - 128)[2:])};"
        yield "fma.rn.bf16x2 $0, $0, u, c;"
        yield "fma.rn.bf16x2 $1, $1, u, c;"
    else:  # 0x47000000 is 32768, and a byte at bit 8 of its mantissa counts ones
        yield "mov.b32 c, 0x47000000;"
        for lane in range(4):
            yield f"prmt.b32 ${lane}, t, c, {0x7404 | lane << 4:#06x};"
        for lane in range(4):
            yield f"add.f32 ${lane}, ${lane}, 0f{struct.pack('>f', offset - 32768).hex()};"


def _twice(half: bytes) -> str:
    """Return two numbers of 16 bits as a constant."""
    return f"0x{int.from_bytes(half, 'little') * 0x10001:08x}"
