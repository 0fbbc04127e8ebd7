"""bitsandbytes: 8-bit weights and activations a row (LLM.int8), and NF4 weights in blocks of 64."""

from __future__ import annotations

import importlib
from typing import Any, cast

from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.blocks import TOLERANCES
from qcore.measure.bench.timing import Call

__all__ = ["eight_bit", "four_bit"]

_BLOCK = 64


def eight_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a ``Linear8bitLt`` that keeps no float weight and treats no outliers apart."""
    layer = cast(nn.Linear, module)
    nbytes = layer.weight.numel() + 4 * layer.out_features
    return _loaded("Linear8bitLt", layer, x, nbytes, has_fp16_weights=False, threshold=0.0)


def four_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a ``Linear4bit`` of type NF4."""
    layer = cast(nn.Linear, module)
    nbytes = layer.weight.numel() // 2 + 4 * -(-layer.weight.numel() // _BLOCK)
    options = {"compute_dtype": x.dtype, "quant_type": "nf4", "compress_statistics": False}
    return _loaded("Linear4bit", layer, x, nbytes, TOLERANCES[4], **options)


def _loaded(
    name: str, layer: nn.Linear, x: Tensor, nbytes: int, tolerance: float | None = None, **options: Any
) -> Contender:
    library: Any = importlib.import_module("bitsandbytes")
    state = {key: value.cpu() for key, value in layer.state_dict().items()}

    def again() -> Call:
        made = getattr(library.nn, name)(layer.in_features, layer.out_features, bias=layer.bias is not None, **options)
        made.load_state_dict(state)
        on_device = made.to(x.device)  # this quantizes
        return lambda: on_device(x)

    return Contender(kind="peer", call=again(), again=again, weight_nbytes=nbytes, tolerance=tolerance)
