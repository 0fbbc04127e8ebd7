"""gemlite: weights of 4 and 2 bits in groups of columns, and int8 with activations quantized at each call."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.blocks import BLOCK, round_to_blocks
from qcore.measure.bench.timing import Call

__all__ = ["dynamic_int8", "four_bit", "two_bit"]


def four_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer of 4-bit weights with zero point 8, a scale a group of 128 columns."""
    return _weight_only(cast(nn.Linear, module), x, 4)


def two_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer of 2-bit weights with zero point 2, a scale a group of 128 columns."""
    return _weight_only(cast(nn.Linear, module), x, 2)


def dynamic_int8(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer of int8 weights a row and activations a token."""
    layer, helper = cast(nn.Linear, module), importlib.import_module("gemlite.helper")

    def again() -> Call:
        made = helper.A8W8_INT8_dynamic(device=str(x.device), dtype=x.dtype).from_linear(layer, del_orig=False)
        return lambda: made(x)

    return Contender(kind="peer", call=again(), again=again, weight_nbytes=layer.weight.numel())


def _weight_only(layer: nn.Linear, x: Tensor, bits: int) -> Contender:
    if layer.in_features % BLOCK:
        raise ValueError(f"{layer.in_features} columns are no multiple of {BLOCK}")
    library: Any = importlib.import_module("gemlite")
    rounded = round_to_blocks(layer.weight.detach().float().cpu().numpy(), bits)
    codes = torch.from_numpy(rounded.codes).reshape(layer.weight.shape).to(x.device)
    scales = torch.from_numpy(rounded.scales).to(x.device, x.dtype)
    kind = library.DType.BF16 if x.dtype is torch.bfloat16 else library.DType.FP16

    def again() -> Call:
        made = library.GemLiteLinear(
            bits, BLOCK, layer.in_features, layer.out_features, input_dtype=kind, output_dtype=kind
        )
        made.pack(codes, scales.clone(), 1 << (bits - 1), layer.bias)
        return lambda: made(x)

    values = torch.from_numpy(rounded.values).to(x.device)
    return Contender(
        kind="peer",
        call=again(),
        again=again,
        weight_nbytes=rounded.codes.size * bits // 8 + scales.numel() * scales.element_size(),
        expected=F.linear(x.float(), values, layer.bias.float()),
    )
