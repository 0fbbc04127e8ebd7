"""Modelled energy: the arithmetic of a model's matrix products, counted and priced. Not a measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from qcore.nn.layers import QuantLayer
from qcore.nn.packed import PackedLayer
from qcore.tensor.encoded import largest_code

__all__ = ["PICOJOULES", "SOURCE", "ModelledEnergy", "count_macs", "modelled_energy"]

SOURCE = "M. Horowitz, ISSCC 2014, 45 nm at 0.9 V: arithmetic of matrix products only, no data movement"

PICOJOULES = {
    "fp32": 3.7 + 0.9,  # multiply, add
    "int8": 0.2 + 0.1,  # 8-bit multiply, 32-bit add
    "add": 0.1,  # 32-bit add: a product with -1, 0 or 1 takes no multiplier
}
"""Energy of one multiply-accumulate, in pJ. The table knows no integers below 8 bits: they are priced as 8 bits."""


@dataclass(frozen=True, kw_only=True)
class ModelledEnergy:
    """Modelled energy of a batch.

    Attributes:
        joules: of all multiply-accumulates of the batch.
        macs: multiply-accumulates of the batch, by kind: ``fp32``, ``int8`` (integer codes of up to 8 bits on both
            sides) and ``add`` (weights of -1, 0 and 1 alone, integer activations).
        samples: of the batch; in a mixture, they decide which experts count.
        source: the table, and what it leaves out.
    """

    joules: float
    macs: dict[str, int]
    samples: int
    source: str = SOURCE

    @property
    def joules_per_sample(self) -> float:
        """Joules of one sample, on average over the batch."""
        return self.joules / self.samples

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data; joules a sample are under ``value``, as those of measured energy."""
        return {"value": self.joules_per_sample, "per": "sample", **asdict(self)}


def modelled_energy(model: nn.Module, inputs: Tensor) -> ModelledEnergy:
    """Run ``model`` on ``inputs`` (n, ...) and price what was executed.

    Only matrix products and convolutions count: no norms, activations, quantization of activations, nor any access to
    memory, which often takes more. Floats of any width are priced as fp32.
    """
    macs = count_macs(model, inputs)
    joules = 1e-12 * sum(price * macs[kind] for kind, price in PICOJOULES.items())
    return ModelledEnergy(joules=joules, macs={kind: macs[kind] for kind in PICOJOULES}, samples=len(inputs))


def count_macs(model: nn.Module, inputs: Tensor) -> Counter[str]:
    """Return the multiply-accumulates that ``model`` executes in eval mode on ``inputs``, by kind.

    Float ones are counted where torch dispatches them, so that products outside of layers count as well. Quantized
    layers count by their shapes, whatever a backend does inside.
    """
    macs: Counter[str] = Counter()
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops, _layers_counted(model, macs, flops):
            model(inputs)
    finally:
        model.train(training)
    macs["fp32"] += flops.get_total_flops() // 2
    return macs


@contextmanager
def _layers_counted(model: nn.Module, macs: Counter[str], flops: FlopCounterMode) -> Iterator[None]:
    """Add what quantized layers execute to ``macs``, and take off what torch dispatches inside of them."""
    before: list[int] = []

    def enter(layer: nn.Module, args: Any) -> None:
        before.append(flops.get_total_flops())

    def leave(layer: nn.Module, args: Any, output: Tensor) -> None:
        macs["fp32"] -= (flops.get_total_flops() - before.pop()) // 2
        assert isinstance(layer, QuantLayer | PackedLayer)
        _add_layer(macs, layer, output.numel() * layer.weight.shape[1:].numel())  # outputs times terms

    layers = [layer for layer in model.modules() if isinstance(layer, QuantLayer | PackedLayer)]
    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_layer(macs: Counter[str], layer: QuantLayer | PackedLayer, products: int) -> None:
    """Add a layer's products: two coded sides compute in integers, all else in floats."""
    if layer.input_quantizer is None or (isinstance(layer, QuantLayer) and layer.weight_quantizer is None):
        macs["fp32"] += products
        return
    if isinstance(layer, PackedLayer):
        encoding, bits = layer.weight.encoding, layer.weight.row_bits().tolist()
    else:
        coded = layer.coded_weight()
        encoding, bits = coded.encoding, [coded.bits] if isinstance(coded.bits, int) else coded.bits.tolist()
    additions = products * sum(largest_code(encoding, width) == 1 for width in bits) // len(bits)
    macs["add"] += additions
    macs["int8"] += products - additions
