"""Which kernel runs a packed linear layer, with which block sizes."""

from __future__ import annotations

from dataclasses import dataclass

from qcore_backend_cuda.layout import planes

__all__ = ["Config", "candidates", "default_config"]


@dataclass(frozen=True)
class Config:
    """One way to run a layer.

    Attributes:
        kind: ``"gemv"``, ``"dot"``, or ``"dense"``: decode the whole weight for one call, then a dense product.
        rows: weight rows a program.
        across: byte lanes a program takes at once (gemv), or input rows a program (dot).
        warps: warps a program.
        stages: depth of the software pipeline; 1: bytes are loaded where they are used.
        split: programs that share the columns of a row (dot).
        asm: whether codes are decoded four at a time in PTX.
        shared: whether all threads of a program have all its rows and share the input (gemv); it then takes as many
            lanes at once as its threads load inputs.
        fraction: whether codes of up to 4 bits are decoded to fractions, without zero points, for inputs of 16 bits.
        fused: whether each program makes the codes of a float input for itself (gemv, shared).
    """

    kind: str
    rows: int
    across: int
    warps: int
    stages: int
    split: int = 1
    asm: bool = True
    shared: bool = False
    fraction: bool = False
    fused: bool = False

    def __str__(self) -> str:
        """Return it in short."""
        split = f" split{self.split}" if self.split > 1 else ""
        how = "" if self.asm else " plain"
        how = " fraction" if self.fraction else how
        how += " fused" if self.fused else ""
        across = "shared" if self.shared else str(self.across)
        return f"{self.kind} {self.rows}x{across} w{self.warps} s{self.stages}{split}{how}"


def default_config(
    count: int, rows: int, cols: int, *, integer: bool, wide: bool, widths: tuple[int, ...] = (4,)
) -> Config:
    """Return what runs a layer where nothing was measured: on an H200, what was fastest or near it.

    Args:
        count: rows of input.
        rows: outputs.
        cols: features.
        integer: whether the input is int8.
        wide: whether a float input is float32, which no tensor core multiplies exactly.
        widths: those of the rows. Several planes of bytes in flight leave room for too few programs.
    """
    if count <= 2 and integer:
        return Config("gemv", 8, 256, 4, 1)
    if count <= 2 and not wide:
        stages = 3 if all(len(planes(bits)) == 1 for bits in widths) else 1
        return Config("gemv", 8, 0, 2, stages, shared=True, fraction=True)
    if count <= (16 if wide else 2):
        return Config("gemv", 8 if rows < 4096 else 16, 512 if cols >= 4096 else 256, 4, 1)
    if count <= 128 and not wide:
        across = 16 if count <= 16 else 32 if count <= 32 else 64
        split = (4 if rows < 4096 else 2 if rows < 16384 else 1) if cols >= 2048 else 1
        return (
            Config("dot", 128, across, 4, 3, split)
            if count <= 16 and not integer
            else Config("dot", 64, across, 4, 4, split)
        )
    return Config("dense", 128, 128, 8, 4)


def candidates(count: int, *, integer: bool, wide: bool) -> list[Config]:
    """Return the configurations that a search tries, for ``count`` rows of input.

    Args:
        count: rows of input.
        integer: whether the input becomes int8.
        wide: whether a float input is float32.
    """
    found: list[Config] = []
    if count <= 4 or wide:
        found += [Config("gemv", *sizes) for sizes in ((4, 512, 4, 1), (8, 256, 4, 1), (8, 512, 4, 1), (16, 512, 8, 1))]
        found += _shared((4, 2, 1), (8, 2, 1), (4, 2, 3), (8, 2, 3), (8, 4, 3))
    if count <= 4 and integer:
        found += _shared((8, 1, 1), (4, 1, 1), (8, 1, 3), (4, 1, 3))
        found += _shared((8, 2, 1), (16, 2, 1), (8, 2, 3), (8, 4, 1), fused=True)
    elif count <= 4 and not wide:
        found += _shared((4, 2, 1), (8, 2, 1), (4, 2, 3), (8, 2, 3), (4, 2, 4), (8, 2, 4), (8, 4, 3), fraction=True)
    if not wide and count <= 256:
        across = 16 if count <= 16 else 32 if count <= 32 else 64
        found += [Config("dot", rows, across, warps, stages, split) for rows, warps, stages, split in _DOTS]
    if not wide and count > 16:
        found.append(Config("dot", 128, 64, 4, 3))
    if not wide and count > 128:
        found += [Config("dot", 128, across, 8, 3) for across in ((128, 256) if integer else (128,))]
    if count > 16:
        found.append(Config("dense", 128, 128, 8, 4))
    return found


_DOTS = (
    (64, 4, 4, 1),
    (64, 4, 6, 1),
    (64, 4, 3, 2),
    (64, 4, 5, 2),
    (64, 4, 4, 4),
    (128, 4, 3, 2),
    (128, 8, 3, 4),
)
"""Rows, warps, stages and splits."""


def _shared(*sizes: tuple[int, int, int], fraction: bool = False, fused: bool = False) -> list[Config]:
    """Return configurations whose threads share the input, by rows, warps and stages."""
    return [
        Config("gemv", rows, 0, warps, stages, shared=True, fraction=fraction, fused=fused)
        for rows, warps, stages in sizes
    ]
