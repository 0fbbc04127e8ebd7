"""Fields of bytes to numbers, four lanes at a time, in PTX.

A compiler that sees a shift and a mask of each lane works on one lane at a time; these lines work on the four bytes of
a register. They compute what :func:`qcore_backend_cuda.kernels.decode.fields` says, number for number. The interpreter
knows no PTX, so that every kernel can do without.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["FIELDS_ASM", "assembly"]

_KINDS = ("int8", "float16", "bfloat16", "float32")
_PLANE = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def assembly(bits: int, kind: str) -> tuple[str, ...]:
    """Return the lines of each step, or none where a plain conversion serves as well.

    Args:
        bits: width of the codes.
        kind: the dtype of the numbers: ``int8``, ``float16``, ``bfloat16`` or ``float32``.

    The operands are: outputs (one register of int8, two of 16-bit floats, four of float32), then one register of four
    bytes for each of three planes.
    """
    if bits == 8 and kind in ("int8", "bfloat16"):
        return ()  # already signed bytes; bfloat16 holds no byte beside a constant
    outputs = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4}[kind]
    steps = 8 // _PLANE[bits][-1]
    return tuple(
        "{\n" + "\n".join([".reg .b32 t, u, c;", *_field(bits, step, outputs), *_numbers(kind, bits)]) + "\n}"
        for step in range(steps)
    )


def _field(bits: int, step: int, first: int) -> Iterator[str]:
    """Yield what puts the unsigned codes of four lanes into the bytes of ``t``; ``$first`` is the first input."""
    if bits == 8:
        yield f"xor.b32 t, ${first}, 0x80808080;"
        return
    low = 0
    for place, width in enumerate(_PLANE[bits]):
        into = "u" if place else "t"
        shift = step * width % 8 - low  # to the right; the field ends at bit ``low`` of its byte
        mask = ((1 << width) - 1 << low) * 0x01010101
        how = f"shr.b32 {into}, ${first + place}, {shift};" if shift >= 0 else ""
        how = how or f"shl.b32 {into}, ${first + place}, {-shift};"
        yield how
        yield f"and.b32 {into}, {into}, {mask:#010x};"
        if place:
            yield "or.b32 t, t, u;"
        low += width


def _numbers(kind: str, bits: int) -> Iterator[str]:
    """Yield what turns the bytes of ``t`` into numbers, by way of floats in whose mantissa a byte stands."""
    if kind == "int8":
        yield "mov.b32 $0, t;"
    elif kind == "float16":  # 0x6400 is 1024
        yield "mov.b32 c, 0x64646464;"
        yield "prmt.b32 $0, t, c, 0x4140;"
        yield "prmt.b32 $1, t, c, 0x4342;"
        yield "mov.b32 c, 0x64006400;"
        yield "sub.f16x2 $0, $0, c;"
        yield "sub.f16x2 $1, $1, c;"
    elif kind == "bfloat16":  # 0x4300 is 128, 0x3F80 is 1, 0xC300 is -128
        yield "mov.b32 c, 0x43434343;"
        yield "prmt.b32 $0, t, c, 0x4140;"
        yield "prmt.b32 $1, t, c, 0x4342;"
        yield "mov.b32 u, 0x3F803F80;"
        yield "mov.b32 c, 0xC300C300;"
        yield "fma.rn.bf16x2 $0, $0, u, c;"
        yield "fma.rn.bf16x2 $1, $1, u, c;"
    else:  # 0x47000000 is 32768, and a byte at bit 8 of its mantissa counts ones
        yield "mov.b32 c, 0x47000000;"
        for lane in range(4):
            yield f"prmt.b32 ${lane}, t, c, {0x7404 | lane << 4:#06x};"
        for lane in range(4):
            yield f"add.f32 ${lane}, ${lane}, 0fC7000000;"


FIELDS_ASM = {(bits, kind): assembly(bits, kind) for bits in range(1, 9) for kind in _KINDS}
"""The lines by width and dtype."""
