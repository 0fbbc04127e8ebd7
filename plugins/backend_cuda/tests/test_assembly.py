"""The PTX lines, run by a small machine that knows the few instructions they use."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
import pytest

from qcore_backend_cuda.kernels.assembly import assembly
from qcore_backend_cuda.layout import planes, steps

OUTPUTS = {"int8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "fraction": 4}
Word = np.uint32


def floats(word: int, kind: str) -> np.ndarray:
    """Return what a register holds."""
    if kind == "f16x2":
        return np.array([word & 0xFFFF, word >> 16], dtype=np.uint16).view(np.float16).astype(np.float64)
    if kind == "bf16x2":
        return np.array([word << 16 & 0xFFFFFFFF, word & 0xFFFF0000], dtype=Word).view(np.float32).astype(np.float64)
    return np.array([word], dtype=Word).view(np.float32).astype(np.float64)


def register(values: np.ndarray, kind: str) -> int:
    """Return the register of values that need no rounding."""
    if kind == "f16x2":
        found = (
            int(values.astype(np.float16).view(np.uint16)[0]) | int(values.astype(np.float16).view(np.uint16)[1]) << 16
        )
    elif kind == "bf16x2":
        low, high = values.astype(np.float32).view(Word)
        assert not (low | high) & 0xFFFF, "a result is no bfloat16"
        found = int(low >> 16) | int(high)
    else:
        found = int(values.astype(np.float32).view(Word)[0])
    assert np.array_equal(floats(found, kind), values), "a result was rounded"
    return found


def permuted(a: int, b: int, selector: int) -> int:
    every = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    return int.from_bytes(bytes(every[selector >> 4 * i & 7] for i in range(4)), "little")


BITWISE: dict[str, Callable[[int, int], int]] = {
    "shr.b32": lambda a, b: a >> b,
    "shl.b32": lambda a, b: a << b & 0xFFFFFFFF,
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "xor.b32": lambda a, b: a ^ b,
}


def run(lines: str, inputs: list[int], outputs: int) -> list[int]:
    """Return the output registers."""
    registers = {f"${outputs + i}": word for i, word in enumerate(inputs)}

    def value(name: str) -> int:
        if name.startswith("0f"):
            return int(struct.unpack(">I", bytes.fromhex(name[2:]))[0])
        return registers[name] if name in registers else int(name, 0)

    for line in lines.replace("{", "").replace("}", "").split(";"):
        if not line.strip() or line.strip().startswith(".reg"):
            continue
        name, target, *given = re.split(r"[\s,]+", line.strip())
        values = [value(word) for word in given]
        kind = name.rpartition(".")[2]
        if name in BITWISE:
            registers[target] = BITWISE[name](*values)
        elif name == "mov.b32":
            registers[target] = values[0]
        elif name == "lop3.b32":
            assert values[3] == 0xEA
            registers[target] = values[0] & values[1] | values[2]
        elif name == "prmt.b32":
            registers[target] = permuted(*values)
        elif name.startswith("add"):
            registers[target] = register(floats(values[0], kind) + floats(values[1], kind), kind)
        elif name.startswith("fma"):
            a, b, c = (floats(word, kind) for word in values)
            registers[target] = register(a * b + c, kind)
        else:
            raise AssertionError(f"an instruction that this machine does not know: {name}")
    return [registers[f"${i}"] for i in range(outputs)]


def numbers(words: list[int], kind: str) -> list[float]:
    if kind == "int8":
        return [float(byte) for byte in words[0].to_bytes(4, "little")]
    how = {"float16": "f16x2", "bfloat16": "bf16x2"}.get(kind, "f32")
    return [float(value) for word in words for value in floats(word, how)]


@pytest.mark.parametrize("kind", list(OUTPUTS))
@pytest.mark.parametrize("bits", range(1, 9))
def test_lines_decode_four_lanes(bits: int, kind: str) -> None:
    drawn = np.random.default_rng(bits)
    for offset in (0.0, -(2.0 ** (bits - 1)), -1.0, -((1 << bits) - 1) / 2):
        if kind in ("int8", "fraction") and offset or kind == "fraction" and bits > 4:
            continue
        lines = assembly(bits, kind, offset)
        plain = bits == 8 and kind in ("int8", "bfloat16") or "16" in kind and offset != int(offset)
        assert len(lines) == (0 if plain else steps(bits))
        for step, text in enumerate(lines):
            for _ in range(5):
                bytes_ = drawn.integers(0, 256, (3, 4))
                codes, low = np.zeros(4, dtype=np.int64), 0
                for plane, width in enumerate(planes(bits)):
                    codes |= (bytes_[plane] >> (step * width % 8) & ((1 << width) - 1)) << low
                    low += width
                codes = codes ^ 128 if bits == 8 else codes
                inputs = [int.from_bytes(bytes(row.tolist()), "little") for row in bytes_]
                wanted = 1 + codes / 2.0**bits if kind == "fraction" else codes + offset
                assert numbers(run(text, inputs, OUTPUTS[kind]), kind) == wanted.tolist()
