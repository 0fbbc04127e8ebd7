"""What a model and its optimizers hold between two steps, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcore_true4bit.resident.layers import ResidentLayer

__all__ = ["StateBytes", "state_nbytes"]


@dataclass(frozen=True)
class StateBytes:
    """Bytes of tensors; each storage counts once.

    Attributes:
        weights: parameters and buffers of the model: codes, scales, biases, norms and their statistics.
        optimizer: moments and residuals of resident layers, and the state of torch's optimizers.
        gradients: what ``.grad`` of the parameters holds now.
    """

    weights: int
    optimizer: int
    gradients: int

    @property
    def total(self) -> int:
        """Weights and optimizer state together, without gradients."""
        return self.weights + self.optimizer


def state_nbytes(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> StateBytes:
    """Return the bytes that ``model`` and ``optimizers`` hold."""
    seen: set[int] = set()
    optimizer = _count(_resident_state(model), seen)
    optimizer += _count(_optimizer_state(optimizers), seen)
    weights = _count([*model.parameters(), *model.buffers()], seen)
    gradients = _count((p.grad for p in model.parameters() if p.grad is not None), seen)
    return StateBytes(weights, optimizer, gradients)


def _resident_state(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, ResidentLayer):
            yield from module.moments.buffers()
            if module.residual is not None:
                yield module.residual


def _optimizer_state(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Tensor]:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _count(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
