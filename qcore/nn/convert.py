"""The verbs that make a model low-bit: ``quantize`` swaps layers by rules, ``calibrate`` fills static scales."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qcore.errors import DataError
from qcore.nn.layers import QuantConv2d, QuantLayer, make_layer
from qcore.nn.rules import Rules, assign
from qcore.quantizers.base import Quantizer
from qcore.quantizers.make import QuantizerRef, make_quantizer
from qcore.registry import Registry

__all__ = ["calibrate", "quantize", "replace_module"]

CALIBRATION_ELEMENTS = 1 << 20
"""Elements of a layer's input that calibration keeps; more are thinned out evenly, so memory stays bounded."""


def quantize(model: nn.Module, rules: Rules, *, inplace: bool = False, registry: Registry | None = None) -> nn.Module:
    """Return ``model`` with the layers that ``rules`` match replaced by quantized ones.

    Args:
        model: any module; it is left alone unless ``inplace``.
        rules: ordered patterns, see :data:`qcore.nn.rules.Rules`.
        inplace: change ``model`` itself, to save memory.
        registry: where quantizers are looked up; None for the default framework's.

    Raises:
        PatternError: a pattern matches no layer.
        UnknownNameError, ConfigError: a rule names no quantizer, or gives it bad options.
        QuantizationError: a weight holds NaN or infinity.
    """
    chosen = assign(model, rules)
    model = model if inplace else copy.deepcopy(model)
    for path, rule in chosen.items():
        weight = _named(rule.weight, f"{path}.weight", registry)
        inputs = _named(rule.input, f"{path}.input", registry)
        model = replace_module(model, path, make_layer(model.get_submodule(path), weight, inputs))
    return model


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put ``module`` at ``path`` and return the model; the path ``""`` is the model itself."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return model


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Fill the static ranges of input quantizers from ``batches``, in place; return ``model``.

    The batches run through the model with its inputs left float, so that one layer's range does not depend on
    another's that is not set yet. Weights stay quantized.

    Raises:
        DataError: there is no batch, or a layer is never reached, such as an expert that no sample visits.
    """
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and layer.input_quantizer is not None and _is_static(layer.input_quantizer)
    }
    if not layers:
        return model
    seen: dict[str, list[Tensor]] = {path: [] for path in layers}
    with _recording(layers, seen), torch.no_grad():
        count = sum(1 for batch in batches if model(batch) is not None)
    if count == 0:
        raise DataError("calibration got no batch")
    for path, layer in layers.items():
        if not seen[path]:
            raise DataError(
                f"no calibration sample reaches the layer {path}", "give more samples, or quantize it dynamically"
            )
        if layer.input_quantizer is not None:
            layer.input_quantizer.initialize(torch.cat(seen[path]))
    return model


def _is_static(quantizer: Quantizer) -> bool:
    return quantizer.needs_calibration or not getattr(quantizer.config, "dynamic", True)


@contextmanager
def _recording(layers: dict[str, QuantLayer], seen: dict[str, list[Tensor]]) -> Iterator[None]:
    quantizers = {path: layer.input_quantizer for path, layer in layers.items()}
    handles = []
    for path, layer in layers.items():
        layer.input_quantizer = None
        handles.append(layer.register_forward_pre_hook(_recorder(seen[path], isinstance(layer, QuantConv2d))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for path, layer in layers.items():
            layer.input_quantizer = quantizers[path]


class _recorder:  # noqa: N801 - a hook, used like a function
    def __init__(self, seen: list[Tensor], is_image: bool) -> None:
        self.seen, self.is_image = seen, is_image

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].detach().flatten(1) if self.is_image else args[0].detach().reshape(-1, args[0].shape[-1])
        self.seen.append(rows)
        if sum(part.numel() for part in self.seen) > CALIBRATION_ELEMENTS and sum(map(len, self.seen)) > 1:
            self.seen[:] = [torch.cat(self.seen)[::2]]


def _named(reference: QuantizerRef | None, name: str, registry: Registry | None) -> Quantizer | None:
    if reference is None:
        return None
    quantizer = make_quantizer(reference, registry)
    quantizer.tensor_name = name.removeprefix(".")
    return quantizer
