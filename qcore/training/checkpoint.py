"""Checkpoints: the state of training after an epoch, from which a killed job goes on with the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qcore.errors import QcoreError
from qcore.export.atomic import atomic_write

__all__ = ["Checkpoint", "CheckpointFile"]

VERSION = 1


@dataclass
class Checkpoint:
    """Named tensors and plain data; names begin with the part they belong to, such as ``model.``.

    Attributes:
        tensors: parameters and all buffers of the model, the kept weights of the best epoch, optimizer states and
            states of generators.
        data: ``phase`` and ``epoch`` (both counts of what is done), the history and early stopping's state.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def put(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Add ``tensors`` as ``part``."""
        self.tensors |= {f"{part}.{name}": tensor.detach() for name, tensor in tensors.items()}

    def part(self, part: str) -> dict[str, Tensor]:
        """Return the tensors of ``part``."""
        prefix = f"{part}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def put_optimizers(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Add what the optimizers remember of each parameter."""
        for number, optimizer in enumerate(optimizers):
            state = optimizer.state_dict()["state"]
            named = {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
            self.put(f"optimizer.{number}", {key: value for key, value in named.items() if isinstance(value, Tensor)})

    def restore_optimizers(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Give the optimizers what they remembered."""
        for number, optimizer in enumerate(optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in self.part(f"optimizer.{number}").items():
                index, _, key = name.partition(".")
                state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def put_model(self, model: nn.Module) -> None:
        """Add parameters and buffers, those that are never saved in a model's file included."""
        self.put("model", _model_tensors(model))

    def fits(self, model: nn.Module) -> bool:
        """Return whether the model's tensors are those of the checkpoint, by name, shape and dtype."""
        return _outline(self.part("model")) == _outline(_model_tensors(model))

    @torch.no_grad()
    def restore_model(self, model: nn.Module) -> None:
        """Give the model its tensors, in place."""
        kept = self.part("model")
        for name, tensor in _model_tensors(model).items():
            tensor.copy_(kept[name])


class CheckpointFile:
    """Where checkpoints of one job go: one file, written whole at the end of an epoch, at most every ``every_s``.

    Args:
        path: a safetensors file.
        every_s: seconds between two checkpoints; short jobs never write one.
    """

    def __init__(self, path: Path, every_s: float = 30.0) -> None:
        self.path, self.every_s = path, every_s
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._last >= self.every_s

    def write(self, checkpoint: Checkpoint) -> None:
        """Write ``checkpoint`` in place of the one before.

        Raises:
            QcoreError: the disk is full, and the like; the one before still stands.
        """
        header = {"qcore_checkpoint": json.dumps({"version": VERSION, **checkpoint.data})}
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
        self._last = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise QcoreError(f"cannot make {self.path.parent}: {error.strerror or error}") from error
        atomic_write(self.path, save(tensors, header))

    def read(self) -> Checkpoint | str | None:
        """Return the checkpoint, None if there is none, or why it cannot be read."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                data = json.loads((file.metadata() or {})["qcore_checkpoint"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            return f"it is damaged: {error}"
        if not isinstance(data, dict) or data.pop("version", None) != VERSION:
            return "another version of qcore wrote it"
        if set(data) != {"phase", "epoch", "history", "best"} or "streams.order" not in tensors:
            return "it lacks a part"
        return Checkpoint(tensors, data)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _outline(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
