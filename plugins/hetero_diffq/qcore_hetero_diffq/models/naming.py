"""What the tensors of MobileNetV2 and EfficientNet-Lite are called elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from qcore_hetero_diffq.models.inverted import InvertedNetwork, InvertedResidual

__all__ = ["MARKS", "NAMINGS", "Naming", "tensor_names"]

Naming = Literal["torchvision", "timm", "tflite_folded", "qcore"]

NAMINGS: Final[tuple[Naming, ...]] = ("torchvision", "timm", "tflite_folded", "qcore")

MARKS: Final[dict[Naming, str]] = {
    "torchvision": "features.0.0.weight",
    "timm": "conv_stem.weight",
    "tflite_folded": "L00.weight",
    "qcore": "stem.conv.weight",
}
"""The stem's weight, by which a naming is told."""

_NORM: Final = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

Layer = tuple[str, str, str]
"""Path of a unit of ours, and the names of its convolution and of its norm elsewhere."""


def tensor_names(network: InvertedNetwork, naming: Naming) -> dict[str, str]:
    """Return the name elsewhere of each parameter and buffer of ``network``; only ``qcore`` has the scaler's."""
    if naming == "qcore":
        return {name: name for name in network.state_dict()}
    layers, head = _LAYERS[naming](network)
    own = [name for name in network.state_dict() if not name.startswith("scaler.")]
    found: dict[str, str] = {"head.weight": f"{head}.weight", "head.bias": f"{head}.bias"}
    for path, conv, norm in layers:
        found |= {f"{path}.conv.{part}": f"{conv}.{part}" for part in ("weight", "bias")}
        found |= {f"{path}.norm.{part}": f"{norm}.{part}" for part in _NORM}
    return {name: found[name] for name in own}


def _units(network: InvertedNetwork) -> Iterator[tuple[str, int, str, int]]:
    """Yield path of the block, its number from 0, part and place in it, of the units of all blocks."""
    number = 0
    for stage, blocks in enumerate(network.stages):
        for place, block in enumerate(blocks.children()):
            assert isinstance(block, InvertedResidual)
            parts = [part for part in ("expand", "depthwise", "project") if getattr(block, part) is not None]
            for index, part in enumerate(parts):
                yield f"{stage}.{place}", number, part, index
            number += 1


def _torchvision(network: InvertedNetwork) -> tuple[list[Layer], str]:
    layers: list[Layer] = [("stem", "features.0.0", "features.0.1")]
    last = 0
    for block, number, part, index in _units(network):
        last = number + 1
        conv = f"features.{last}.conv.{index}"
        names = (conv, f"features.{last}.conv.{index + 1}") if part == "project" else (f"{conv}.0", f"{conv}.1")
        layers.append((f"stages.{block}.{part}", *names))
    layers.append(("last", f"features.{last + 1}.0", f"features.{last + 1}.1"))
    return layers, "classifier.1"


def _timm(network: InvertedNetwork) -> tuple[list[Layer], str]:
    layers: list[Layer] = [("stem", "conv_stem", "bn1")]
    expands = {block for block, _, part, _ in _units(network) if part == "expand"}
    for block, _, part, index in _units(network):
        project = "conv_pwl" if block in expands else "conv_pw"
        conv = {"expand": "conv_pw", "depthwise": "conv_dw", "project": project}[part]
        layers.append((f"stages.{block}.{part}", f"blocks.{block}.{conv}", f"blocks.{block}.bn{index + 1}"))
    layers.append(("last", "conv_head", "bn2"))
    return layers, "classifier"


def _tflite_folded(network: InvertedNetwork) -> tuple[list[Layer], str]:
    paths = ["stem", *(f"stages.{block}.{part}" for block, _, part, _ in _units(network)), "last"]
    return [(path, f"L{place:02d}", f"L{place:02d}.norm") for place, path in enumerate(paths)], f"L{len(paths):02d}"


_LAYERS: Final[dict[Naming, Callable[[InvertedNetwork], tuple[list[Layer], str]]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "tflite_folded": _tflite_folded,
}
