"""History: what training did, an epoch a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["History"]


@dataclass
class History:
    """Rows of ``{"phase", "epoch", "epochs", "train_loss", "metric", "validation", "lr"}``, in order.

    A row of a phase with ``after_epoch`` has its findings as ``observed``. ``epoch`` counts from 1 within its phase;
    ``train_loss`` is the mean over the epoch's samples, penalty included; ``validation`` is the task's primary
    ``metric`` on the validation part, None where there is none; ``lr`` is that of the first optimizer at the epoch's
    last step.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, int] = field(default_factory=dict)
    """Phase to the epoch whose weights it ended with."""

    state_nbytes: dict[str, int] = field(default_factory=dict)
    """``weights`` and ``optimizer``: bytes of the tensors that training held, those of the phase that held most."""

    @property
    def epochs(self) -> int:
        """Epochs trained, over all phases."""
        return len(self.rows)

    def note_state(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Count what a phase held: parameters and saved buffers; optimizer states and buffers that are not saved."""
        saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        buffers = [buffer for buffer in model.buffers() if id(buffer) not in saved]
        states = [value for optimizer in optimizers for entry in optimizer.state.values() for value in entry.values()]
        found = {
            "weights": _nbytes([*model.state_dict().values()]),
            "optimizer": _nbytes([*buffers, *(value for value in states if isinstance(value, Tensor))]),
        }
        if sum(found.values()) > sum(self.state_nbytes.values()):
            self.state_nbytes = found

    def to_jsonl(self) -> str:
        """Return one JSON object a line."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
