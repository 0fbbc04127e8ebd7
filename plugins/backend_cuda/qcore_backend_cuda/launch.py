"""Launches of the linear kernels: from tensors and a configuration to programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from qcore.tensor import ActivationScheme
from qcore.tensor.integer import TINY
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.kernels.assembly import assembly
from qcore_backend_cuda.kernels.linear import DP4A, dot_kernel, finish_kernel, gemv_kernel
from qcore_backend_cuda.layout import steps
from qcore_backend_cuda.machine import interpreted
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["Codes", "asm_lines", "launch", "launch_fused", "on_device", "scheme_numbers"]

_LARGEST = 2.0**128 - 2.0**106
_KINDS = {torch.int8: "int8", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


@dataclass(frozen=True, eq=False)
class Codes:
    """Rows of int8 inputs: ``code - zero_point = step * codes + less``.

    Attributes:
        codes: int8 (rows, stride), zeros beyond the features.
        scale: float32 (rows,).
        total: int32 (rows,), the sums of ``codes``.
        less: int32 (rows,); (1,) where it is 0 everywhere.
        step: 1, or 2 of odd codes.
        affine: whether ``less`` counts.
    """

    codes: Tensor
    scale: Tensor
    total: Tensor
    less: Tensor
    step: int
    affine: bool


@contextmanager
def _device(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device):
        yield


def on_device(x: Tensor) -> Any:
    """Return a context in which launches go to the device of ``x``."""
    return _device(x.device) if x.is_cuda and x.device.index != torch.cuda.current_device() else nullcontext()


def scheme_numbers(scheme: ActivationScheme) -> tuple[float, float, float]:
    """Return what kernels take: the lower limit of a bound or scale, the upper limit of a scale, the largest code."""
    largest = (1 << (scheme.bits - 1)) - 1 if scheme.symmetric else (1 << scheme.bits) - 1
    floor = max(scheme.floor, TINY) if scheme.symmetric else TINY
    return floor, _LARGEST / largest, float(largest)


def launch(x: Tensor, codes: Codes | None, weight: PackedWeight, y: Tensor, config: Config) -> None:
    """Write the outputs of a layer.

    Args:
        x: int8 codes (rows, stride), or floats (rows, cols).
        codes: what belongs to the codes, or None with floats.
        weight: the layer.
        y: (rows, weight rows).
        config: of the kinds ``gemv`` and ``dot``.
    """
    if not y.numel():
        return
    per_row = (codes.scale, codes.total, codes.less) if codes is not None else (weight.scale,) * 3
    facts = _facts(weight, codes is not None, 1 if codes is None else codes.step, codes is not None and codes.affine)
    with on_device(x):
        if config.kind == "gemv":
            shared = 16 // x.element_size() if config.shared and not weight.group_size else 0
            _gemv(x, per_row, weight, y, config, facts, shared, None, None)
        else:
            _dot(x, per_row, weight, y, config, facts)


def launch_fused(
    x: Tensor, scheme: ActivationScheme, fixed: Tensor | None, weight: PackedWeight, y: Tensor, config: Config
) -> None:
    """Write the outputs of an integer layer, each program making the codes of float ``x`` (rows, cols) for itself."""
    if y.numel():
        with on_device(x):
            facts = _facts(weight, True, 1, not scheme.symmetric)
            _gemv(x, (weight.scale,) * 3, weight, y, config, facts, 16 // x.element_size(), scheme, fixed)


def _gemv(
    x: Tensor,
    per_row: Sequence[Tensor],
    weight: PackedWeight,
    y: Tensor,
    config: Config,
    facts: dict[str, Any],
    shared: int,
    scheme: ActivationScheme | None,
    fixed: Tensor | None,
) -> None:
    integer = facts["INTEGER"]
    tile = weight.lanes if weight.group_size else max(config.across, weight.lanes)
    tile = shared * 32 * config.warps if shared else tile
    fraction = not integer and _in_fractions(x, weight, config)
    kind = "int8" if integer else "fraction" if fraction else "float32"
    dot4 = DP4A if integer and config.asm and _in_fours(weight, x, config, tile, scheme is not None) else ""
    numbers = (0.0, 0.0, 0.0) if scheme is None else scheme_numbers(scheme)
    blocks = sum(triton.cdiv(rows, config.rows) for rows in weight.counts)
    gemv_kernel[(blocks, len(x))](
        x, *per_row, *_tensors(weight), y, weight.rows, weight.cols, x.stride(0), weight.rows,
        0, weight.scale if fixed is None else fixed, *numbers,
        ROWS=config.rows, TILE=tile, DOT4=dot4, SHARED=shared, FRACTION=fraction,
        FUSED=scheme is not None, STATIC=fixed is not None, STAGES=config.stages,
        **facts, **_layout(weight, integer, kind, config), **_options(config, integer),
    )  # fmt: skip


def _dot(
    x: Tensor, per_row: Sequence[Tensor], weight: PackedWeight, y: Tensor, config: Config, facts: dict[str, Any]
) -> None:
    integer, count, parts = facts["INTEGER"], len(x), y
    if config.split > 1:
        dtype = torch.int32 if integer else torch.float32
        parts = torch.empty((config.split, count, weight.rows), dtype=dtype, device=x.device)
    blocks = sum(triton.cdiv(rows, config.rows) for rows in weight.counts)
    dot_kernel[(blocks * triton.cdiv(count, config.across), config.split)](
        x, *per_row, *_tensors(weight), y, parts, count, weight.rows, weight.cols, x.stride(0), weight.rows,
        ROWS=config.rows, INPUTS=config.across, SPLIT=config.split,
        **facts, **_layout(weight, integer, _KINDS[x.dtype], config), **_options(config, integer),
    )  # fmt: skip
    if config.split > 1:
        finish_kernel[(triton.cdiv(weight.rows, 256), count)](
            parts, *per_row, weight.scale, weight.offset, weight.total, weight.bias, weight.order, y,
            count, weight.rows, weight.rows, SPLIT=config.split, ROWS=256, **facts,
            num_warps=4, enable_fp_fusion=not integer,
        )  # fmt: skip


def _tensors(weight: PackedWeight) -> tuple[Tensor, ...]:
    # Signed bytes go from memory to the tensor cores as they lie.
    data = weight.data.view(torch.int8) if weight.integer and weight.widths == (8,) else weight.data
    return (
        data, weight.table, weight.scale, weight.zero, weight.offset, weight.total, weight.bias, weight.order,
    )  # fmt: skip


def _facts(weight: PackedWeight, integer: bool, step: int, affine: bool) -> dict[str, Any]:
    return {
        "A": weight.step,
        "AX": step,
        "INTEGER": integer,
        "GROUP": weight.group_size,
        "HAS_BIAS": weight.has_bias,
        "HAS_ORDER": weight.has_order,
        "AFFINE": affine,
    }


def _layout(weight: PackedWeight, integer: bool, kind: str, config: Config) -> dict[str, Any]:
    offsets = (0.0,) * len(weight.widths) if integer else weight.float_offsets()
    return {
        "SEGMENTS": len(weight.widths),
        "WIDTHS": weight.widths,
        "STEPS": tuple(steps(bits) for bits in weight.widths),
        "OFFSETS": offsets,
        "LANES": weight.lanes,
        "HAS_ZERO": weight.has_zero,
        "ASM": asm_lines(weight.widths, offsets, kind, config.asm),
    }


def _options(config: Config, integer: bool) -> dict[str, Any]:
    return {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": not integer}


def _in_fractions(x: Tensor, weight: PackedWeight, config: Config) -> bool:
    """Return whether codes come as fractions, and the sum of the inputs makes up for it."""
    wanted = config.kind == "gemv" and config.fraction and config.shared and config.asm and not interpreted()
    narrow = max(weight.widths) <= 4 and x.dtype in (torch.float16, torch.bfloat16)
    return wanted and narrow and not weight.has_zero and not weight.group_size


def _in_fours(weight: PackedWeight, x: Tensor, config: Config, tile: int, fused: bool) -> bool:
    """Return whether each thread's bytes come in runs of a row, as wide loads do: those that one sum takes in."""
    alone = 16 // x.element_size() if fused else 16
    aligned = (weight.data.data_ptr() | x.data_ptr() | x.stride(0) * x.element_size()) % 16 == 0
    return aligned and config.rows * tile >= alone * 32 * config.warps and not interpreted()


def asm_lines(widths: Sequence[int], offsets: Sequence[float], kind: str, asm: bool) -> tuple[str, ...]:
    """Return eight places for each width, the first ones with its lines."""
    if not asm or interpreted():
        return ()
    lines = (assembly(bits, kind, offset) for bits, offset in zip(widths, offsets, strict=True))
    return tuple(line for found in lines for line in (*found, *[""] * 8)[:8])
