"""torch's own int8: dynamically quantized layers on both engines, and the bare product of codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.timing import Call

__all__ = ["fbgemm", "int8_nbytes", "int_mm", "onednn"]


def fbgemm(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return ``module`` with linear layers of int8 weights and 8-bit dynamic activations a tensor, by FBGEMM."""
    return _dynamic("fbgemm", module, x)


def onednn(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return the same by oneDNN."""
    return _dynamic("onednn", module, x)


def int_mm(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return the product of int8 codes with int8 codes as int32: no activations quantized, no scales, no bias."""
    layer = cast(nn.Linear, module)
    drawn = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, x.shape, dtype=torch.int8, generator=drawn).to(x.device)
    weight = torch.randint(-127, 128, layer.weight.shape, dtype=torch.int8, generator=drawn).to(x.device)

    def call_with(weight: Tensor) -> Call:
        columns = weight.t()  # a copy with contiguous columns is slower
        return lambda: torch._int_mm(codes, columns)

    return Contender(
        kind="peer",
        call=call_with(weight),
        again=lambda: call_with(weight.clone()),
        weight_nbytes=weight.numel(),
        expected=codes.float() @ weight.float().t(),
    )


def int8_nbytes(module: nn.Module) -> int:
    """Return bytes of ``module`` with a byte for each weight of a linear layer."""
    weights = {id(layer.weight): layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear)}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in weights and parameter.dim() > 1]
    return sum(weights.values()) + sum(parameter.numel() * parameter.element_size() for parameter in rest)


def _dynamic(engine: str, module: nn.Module, x: Tensor) -> Contender:
    def again() -> Call:
        quantized = _quantized(module, engine)
        return lambda: quantized(x)

    return Contender(kind="peer", call=again(), again=again, weight_nbytes=int8_nbytes(module))


def _quantized(module: nn.Module, engine: str) -> nn.Module:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    with _engine(engine):  # the engine that packs a weight runs it
        model: nn.Module = quantize(nn.Sequential(module), {nn.Linear}, dtype=torch.qint8)
    return cast(nn.Module, model[0])  # type: ignore[index]


@contextmanager
def _engine(name: str) -> Iterator[None]:
    backend: Any = torch.backends.quantized
    if name not in backend.supported_engines:
        raise RuntimeError(f"this build of torch has no engine {name}")
    before = backend.engine
    backend.engine = name
    try:
        yield
    finally:
        backend.engine = before
