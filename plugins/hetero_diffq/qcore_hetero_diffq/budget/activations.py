"""What the inputs of quantized layers take, while one sample runs through a network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qcore.nn import QuantLayer
from qcore_hetero_diffq.network import inputs_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ActivationSizes", "Counting", "trace_inputs"]

Counting = Literal["sum", "max", "peak"]
"""How activations are counted: all inputs together; the largest; or the most that lives at one time."""


@dataclass(frozen=True)
class ActivationSizes:
    """Numbers a sample in each quantized input, and when they live.

    Attributes:
        counts: numbers of each layer's input, by its path, in the order in which layers run; 0 where one does not.
        together: sets of paths whose inputs are in memory at the same time, those only that no other set holds. An
            input lives from the operation that makes it to the last that reads it, a residual addition included.
    """

    counts: dict[str, int]
    together: tuple[frozenset[str], ...]

    def nbits(self, widths: Mapping[str, float], counting: Counting) -> float:
        """Return the bits that inputs of these ``widths`` take, counted so."""
        sizes = {path: self.counts[path] * widths[path] for path in self.counts}
        if counting == "sum":
            return sum(sizes.values())
        if counting == "max":
            return max(sizes.values(), default=0)
        return max((sum(sizes[path] for path in live) for live in self.together), default=0)


def trace_inputs(model: nn.Module, sample: Tensor) -> ActivationSizes:
    """Run one sample (1, ...) through ``model``, in eval mode and with inputs left float, and see what it keeps.

    Where a layer runs several times its largest input counts.
    """
    paths = {cast(QuantLayer, model.get_submodule(path)): path for path in inputs_of(model)}
    clock, training = _Clock(), [module for module in model.modules() if module.training]
    quantizers = {layer: layer.input_quantizer for layer in paths}
    with ExitStack() as stack:
        for layer, path in paths.items():
            stack.callback(setattr, layer, "input_quantizer", quantizers[layer])
            layer.input_quantizer = None
            hook = layer.register_forward_pre_hook(lambda _, args, path=path: clock.enter(path, args[0]))
            stack.callback(hook.remove)
        for module in training:
            stack.callback(setattr, module, "training", True)
        model.eval()
        with torch.no_grad(), clock:
            model(sample)
    samples = max(len(sample), 1)
    counts = {path: max(x.numel() // samples for x in tensors) for path, tensors in clock.inputs.items()}
    counts |= {path: 0 for path in paths.values() if path not in counts}
    return ActivationSizes(counts, clock.together())


class _Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when each tensor is made and last read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.made: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.kept: list[Tensor] = []  # an id is a tensor's own only while it lives
        self.inputs: dict[str, list[Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now += 1
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.read[_memory(tensor)] = self.now
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.made.setdefault(_memory(tensor), self.now)
                self.kept.append(tensor)
        return result

    def enter(self, path: str, x: Tensor) -> None:
        """Note the input of a layer."""
        self.inputs.setdefault(path, []).append(x)

    def together(self) -> tuple[frozenset[str], ...]:
        """Return the largest sets of inputs that live at one time."""
        lives: dict[str, list[tuple[int, int]]] = {
            path: [(self.made.get(_memory(x), 0), self.read.get(_memory(x), 0)) for x in tensors]
            for path, tensors in self.inputs.items()
        }
        moments = {end for spans in lives.values() for span in spans for end in span}
        sets = {frozenset(p for p, spans in lives.items() if any(a <= now <= b for a, b in spans)) for now in moments}
        largest = [live for live in sets if not any(live < other for other in sets)]
        return tuple(sorted(largest, key=sorted))


def _memory(tensor: Tensor) -> int:
    """Return what tells a tensor's memory from all others: views of it share it."""
    return tensor.untyped_storage().data_ptr()
