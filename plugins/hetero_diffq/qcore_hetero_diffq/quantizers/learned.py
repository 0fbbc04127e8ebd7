"""What the quantizers of weights and of activations share: a learned step and range for each slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from qcore.quantizers import Quantizer
from qcore.quantizers.config import QuantizerConfig
from qcore_hetero_diffq.quantizers.config import LearnedConfig

__all__ = ["LARGEST_CODE", "LearnedGrid"]

LARGEST_CODE = 127
"""Of a signed slice: what 8 bits hold."""

_GAP = 1e-5
"""Boxes are shrunk by this, and a range is above its step by as much: the paper's numbers."""


class LearnedGrid(Quantizer):
    """A quantizer with parameters ``step`` and ``range``, which hold ``log2`` of them with ``learn="log"``.

    Attributes:
        step, range: float32 (rows or 1, groups or 1) each, parameters.
        level: int64 (rows or 1,), a buffer: 0 while the width is derived from step and range, else the width that
            stands still (:mod:`~qcore_hetero_diffq.quantizers.levels`).
        generator: where random surrogates draw from; None: one of its own, of seed 0, is made on first use.
        watching: whether backward passes take note of what the choice of widths needs.
    """

    config: LearnedConfig
    level: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.step = nn.Parameter(torch.empty(0, 1))
        self.range = nn.Parameter(torch.empty(0, 1))
        self.register_buffer("level", torch.empty(0, dtype=torch.int64))
        self.generator: torch.Generator | None = None
        self.watching = False
        self._looked: dict[str, tuple[Tensor, int, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_looked": {}}  # a copy has tensors of its own

    def generator_on(self, device: torch.device) -> torch.Generator:
        """Return the generator, on ``device``."""
        if self.generator is None or self.generator.device != device:
            seed = 0 if self.generator is None else self.generator.initial_seed()
            self.generator = torch.Generator(device).manual_seed(seed)
        return self.generator

    def look(self, name: str) -> Any:
        """Return the numbers of a buffer; a look halts a GPU's queue, so once for each change is enough."""
        tensor = cast(Tensor, getattr(self, name))
        if tensor.is_inference():  # such a tensor does not tell whether it was changed
            return tensor.tolist()
        seen = self._looked.get(name)
        if seen is None or seen[0] is not tensor or seen[1] != tensor._version:
            # The tensor is kept, as its id would be another's once it is gone.
            self._looked[name] = seen = (tensor, tensor._version, tensor.tolist())
        return seen[2]

    def steps(self) -> Tensor:
        """Return the step sizes, float32 like ``step``, differentiable."""
        return torch.exp2(self.step) if self.config.learn == "log" else self.step

    def ranges(self) -> Tensor:
        """Return the ranges, float32 like ``range``, differentiable."""
        return torch.exp2(self.range) if self.config.learn == "log" else self.range

    @torch.no_grad()
    def set_grid(self, step: Tensor, range: Tensor, level: Tensor | None = None) -> None:
        """Take steps and ranges, float32 (rows or 1, groups or 1), and levels, int64 (rows or 1,); None: all derived.

        They are not projected.
        """
        coded = (torch.log2(step), torch.log2(range)) if self.config.learn == "log" else (step, range)
        for parameter, values in zip((self.step, self.range), coded, strict=True):
            if parameter.shape == values.shape and parameter.device == values.device:
                parameter.copy_(values)  # optimizers hold the parameter
            else:
                parameter.data = values.clone()
        self.level = torch.zeros_like(step[:, 0], dtype=torch.int64) if level is None else level.clone()

    @torch.no_grad()
    def project(self) -> None:
        """Bring step and range into their boxes, the range above the step, and the largest code to at most 8 bits.

        Where the width stands still the range has no say.
        """
        range = _boxed(self.ranges().detach(), self.config.range_limits)
        boxed = _boxed(self.steps().detach(), self.config.step_limits)
        step = torch.minimum(boxed, range / (1 + _GAP))
        step = torch.maximum(step, range / (self.largest_code() + 0.25))  # below the tie, whatever log2 rounds
        self.set_grid(torch.where(self.level.unsqueeze(1) > 0, boxed, step), range, self.level)

    def largest_code(self) -> int:
        """Return the largest code that 8 bits hold."""
        return LARGEST_CODE

    def clip_gradients(self) -> None:
        """Clip the gradients of step and range to the step's size, as the paper does; only with ``learn="linear"``."""
        if self.config.learn == "log":
            return
        limit = self.steps().detach()
        for parameter in (self.step, self.range):
            if parameter.grad is not None:
                parameter.grad = torch.clamp(parameter.grad, -limit, limit)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Logarithms of steps in 16 bits would be other steps; and packed layers keep float32. Only devices change.
        return super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call,no-any-return]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of slices comes from the file.
        for name in ("step", "range"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, nn.Parameter(torch.empty_like(stored, device=self.level.device)))
        stored = state_dict.get(prefix + "level")
        if stored is not None:
            self.level = torch.empty_like(stored, device=self.level.device)
        load: Callable[..., None] = super()._load_from_state_dict
        load(state_dict, prefix, *args)


def _boxed(x: Tensor, limits: tuple[float, float]) -> Tensor:
    return x.clamp(limits[0] * (1 + _GAP), limits[1] * (1 - _GAP))
