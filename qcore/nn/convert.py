"""The verbs that make a model low-bit: ``quantize`` swaps layers by rules, ``calibrate`` fills static scales."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from qcore.errors import DataError
from qcore.nn.layers import QuantConv2d, QuantLayer, make_layer
from qcore.nn.models import architecture_of
from qcore.nn.rules import Rule, Rules, assign
from qcore.quantizers.base import Quantizer, check_finite
from qcore.quantizers.make import QuantizerRef, make_quantizer
from qcore.registry import Registry
from qcore.tensor.integer import as_tokens

__all__ = ["calibrate", "quantize", "replace_modules"]

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
    made: dict[int, QuantLayer] = {}  # a layer that stands in several places stays one layer
    layers: dict[str, nn.Module] = {}
    for path, rule in chosen.items():
        layer = model.get_submodule(path)
        if id(layer) not in made:
            made[id(layer)] = _quantized(layer, path, rule, registry)
        layers[path] = made[id(layer)]
    return replace_modules(model, layers)


def _quantized(layer: nn.Module, path: str, rule: Rule, registry: Registry | None) -> QuantLayer:
    prefix = f"{path}." if path else ""
    weight = _named(rule.weight, f"{prefix}weight", registry)
    inputs = _named(rule.input, f"{prefix}input", registry)
    check_finite(cast(Tensor, layer.weight), f"{prefix}weight")
    return make_layer(layer, weight, inputs)


def replace_modules(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put each of ``layers`` at its path and return the model; the path ``""`` is the model itself."""
    for path, layer in layers.items():
        if not path:
            if architecture_of(model) is not None:
                layer.architecture = model.architecture
            return layer
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer)
    _leave_fast_paths(model, set(layers.values()))
    return model


def _leave_fast_paths(model: nn.Module, layers: set[nn.Module]) -> None:
    """Make torch's transformer layers call their linear layers; in eval mode they read the weights themselves."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and {module.linear1, module.linear2} & layers:
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder) and not layers.isdisjoint(module.modules()):
            module.use_nested_tensor = False


def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Fill the static ranges of input quantizers from ``batches``, in place; return ``model``.

    The batches run through the model in eval mode with its inputs left float, so that one layer's range does not depend
    on another's that is not set yet. Weights stay quantized. Ranges found before are found anew.

    Raises:
        DataError: there is no batch, or a layer is never reached, such as an expert that no sample visits; no range
            has changed then.
        QuantizationError: a layer's input holds NaN or infinity.
    """
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and layer.input_quantizer is not None and _is_static(layer.input_quantizer)
    }
    if not layers:
        return model
    seen = {path: _Recorder(isinstance(layer, QuantConv2d)) for path, layer in layers.items()}
    count = 0
    with _recording(model, layers, seen), torch.no_grad():
        for batch in batches:
            model(batch)
            count += 1
    if count == 0:
        raise DataError("calibration got no batch")
    unreached = [path for path, recorder in seen.items() if not recorder.parts]
    if unreached:
        raise DataError(
            f"no calibration sample reaches the layer{'s' * (len(unreached) > 1)} {', '.join(unreached)}",
            "give more samples, or quantize it dynamically",
        )
    for path, layer in layers.items():
        cast(Quantizer, layer.input_quantizer).initialize(seen[path].inputs())
    return model


def _is_static(quantizer: Quantizer) -> bool:
    return quantizer.needs_calibration or not getattr(quantizer.config, "dynamic", True)


@contextmanager
def _recording(model: nn.Module, layers: dict[str, QuantLayer], seen: dict[str, _Recorder]) -> Iterator[None]:
    quantizers = {path: layer.input_quantizer for path, layer in layers.items()}
    training = [module for module in model.modules() if module.training]
    handles = []
    for path, layer in layers.items():
        layer.input_quantizer = None
        handles.append(layer.register_forward_pre_hook(seen[path]))
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for handle in handles:
            handle.remove()
        for path, layer in layers.items():
            layer.input_quantizer = quantizers[path]


class _Recorder:
    """A hook that keeps a layer's inputs as (tokens, features).

    Past :data:`CALIBRATION_ELEMENTS` it keeps every second token, then every fourth, and so on; the tokens that hold
    the smallest and the largest number are always kept, so that a range that must hold all does.
    """

    def __init__(self, is_image: bool) -> None:
        self.is_image = is_image
        self.parts: list[Tensor] = []
        self.extremes: Tensor | None = None
        self.step = 1

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        tokens = (x if x.dim() == 4 else x.unsqueeze(0)).flatten(1) if self.is_image else as_tokens(x)
        if not tokens.numel():
            return
        self.extremes = _extreme_tokens(tokens if self.extremes is None else torch.cat([self.extremes, tokens]))
        self.parts.append(tokens[:: self.step].clone())
        while sum(part.numel() for part in self.parts) > CALIBRATION_ELEMENTS and sum(map(len, self.parts)) > 1:
            self.step *= 2
            self.parts = [torch.cat(self.parts)[::2]]

    def inputs(self) -> Tensor:
        """Return what was kept, (tokens, features)."""
        kept = torch.cat(self.parts)
        return kept if self.extremes is None or self.step == 1 else torch.cat([kept, self.extremes])


def _extreme_tokens(tokens: Tensor) -> Tensor:
    features = tokens.shape[1]
    return tokens[[int(tokens.argmin()) // features, int(tokens.argmax()) // features]]


def _named(reference: QuantizerRef | None, name: str, registry: Registry | None) -> Quantizer | None:
    if reference is None:
        return None
    quantizer = make_quantizer(reference, registry)
    quantizer.tensor_name = name
    return quantizer
