"""The choice of widths for inputs: what each would cost, and the least loss within some bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcore_hetero_diffq.budget.knapsack import choose
from qcore_hetero_diffq.quantizers.losses import ACTIVATION_LEVELS, RATIOS

if TYPE_CHECKING:
    from torch import Tensor

    from qcore_hetero_diffq.budget.activations import ActivationSizes, Counting
    from qcore_hetero_diffq.quantizers.activation import Activation

__all__ = ["Chosen", "InputChoices"]

Chosen = dict[str, int]
"""Path of a layer to the index of its input's level."""


@dataclass(frozen=True)
class InputChoices:
    """What inputs choose among.

    Attributes:
        levels: widths, rising.
        losses: path to float64 (levels, ratios), what each width and share of the range costs.
        ranges: path to the range that was learned, float32 (1, 1).
        widths: path to the width that was learned.
        sizes: numbers of each input, and when they live.
        counting: how inputs are counted together.
    """

    levels: tuple[int, ...]
    losses: dict[str, NDArray[np.float64]]
    ranges: dict[str, Tensor]
    widths: dict[str, int]
    sizes: ActivationSizes
    counting: Counting

    @classmethod
    def of(
        cls, inputs: dict[str, Activation], levels: tuple[int, ...], sizes: ActivationSizes, counting: Counting
    ) -> InputChoices:
        """Return the choices of these quantizers."""
        losses = {path: _noted(quantizer, levels, sizes.counts[path]) for path, quantizer in inputs.items()}
        ranges = {path: quantizer.ranges().detach().clone() for path, quantizer in inputs.items()}
        widths = {path: int(quantizer.bits().detach()) for path, quantizer in inputs.items()}
        return cls(levels, losses, ranges, widths, sizes, counting)

    def within(self, step: int) -> InputChoices:
        """Return choices in which no width gains that is more than ``step`` bits above the learned one."""
        capped = {
            path: _no_gain_above(losses, self.levels, self.widths[path] + step) for path, losses in self.losses.items()
        }
        return replace(self, losses=capped)

    def options(self) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Return bytes and losses of each input's levels, where inputs add up."""
        levels = np.asarray(self.levels, dtype=np.float64)
        costs = [levels * self.sizes.counts[path] / 8 for path in self.losses]
        return costs, [losses.min(axis=1) for losses in self.losses.values()]

    def solve(self, capacity: float) -> Chosen | None:
        """Return the choice of least loss that takes at most ``capacity`` bytes, or None."""
        if self.counting != "sum":
            return self._lowered_to(capacity)
        chosen = choose(*self.options(), capacity)
        return None if chosen is None else dict(zip(self.losses, chosen, strict=True))

    def shares(self, count: int) -> Iterator[float]:
        """Yield bytes that inputs might be given, from what the narrowest take to what the widest do."""
        largest = self.nbytes(dict.fromkeys(self.losses, len(self.levels) - 1))
        yield from np.linspace(self.levels[0] / self.levels[-1], 1, count) * largest

    def nbytes(self, chosen: Chosen) -> float:
        """Return the bytes that a choice takes."""
        widths = {path: float(self.levels[index]) for path, index in chosen.items()}
        return self.sizes.nbits(widths, self.counting) / 8 if widths else 0.0

    def loss(self, chosen: Chosen) -> float:
        """Return what a choice loses."""
        return sum(float(self.losses[path][index].min()) for path, index in chosen.items())

    def grid(self, path: str, index: int) -> tuple[int, Tensor]:
        """Return the level of an input, and the range that is best for it, float32 (1, 1)."""
        return self.levels[index], self.ranges[path] * RATIOS[int(self.losses[path][index].argmin())]

    def _lowered_to(self, capacity: float) -> Chosen | None:
        """Lower what loses least for a byte among inputs that live where too much is, then raise what still fits."""
        chosen = dict.fromkeys(self.losses, len(self.levels) - 1)
        groups = [sorted(group) for group in self._groups()]
        for paths in groups:
            while self._taken(paths, chosen) > capacity:
                lower = [path for path in paths if chosen[path]]
                if not lower:
                    return None
                chosen[min(lower, key=lambda path: self._price(path, chosen[path]))] -= 1
        while raised := [path for path in chosen if self._can_rise(path, chosen, groups, capacity)]:
            chosen[max(raised, key=lambda path: self._price(path, chosen[path] + 1))] += 1
        return chosen

    def _groups(self) -> Iterable[Iterable[str]]:
        return self.sizes.together if self.counting == "peak" else [{path} for path in self.losses]

    def _can_rise(self, path: str, chosen: Chosen, groups: list[list[str]], capacity: float) -> bool:
        if chosen[path] + 1 == len(self.levels) or self._price(path, chosen[path] + 1) <= 0:
            return False
        wider = {**chosen, path: chosen[path] + 1}
        return all(self._taken(paths, wider) <= capacity for paths in groups if path in paths)

    def _price(self, path: str, index: int) -> float:
        """Return what the level ``index`` saves, against the one below, for a byte."""
        losses = self.losses[path].min(axis=1)
        bits = self.levels[index] - self.levels[index - 1]
        return float((losses[index - 1] - losses[index]) / (bits * max(self.sizes.counts[path], 1)))

    def _taken(self, paths: Iterable[str], chosen: Chosen) -> float:
        return sum(self.sizes.counts[path] * self.levels[chosen[path]] for path in paths) / 8


def _noted(quantizer: Activation, levels: tuple[int, ...], count: int) -> NDArray[np.float64]:
    """Return what each width and share of the range costs, float64 (levels, ratios).

    Without any gradient noted: the variance of a rounding, for each number the same.
    """
    if not float(quantizer.seen):
        errors = 4.0 ** -np.asarray(levels, dtype=np.float64) * count
        return np.repeat(errors[:, None], len(RATIOS), axis=1)
    rows = [ACTIVATION_LEVELS.index(level) for level in levels]
    noted: NDArray[np.float64] = (quantizer.losses / quantizer.seen).double().cpu().numpy()
    return noted[rows]


def _no_gain_above(losses: NDArray[np.float64], levels: tuple[int, ...], most: int) -> NDArray[np.float64]:
    allowed = np.asarray(levels) <= most
    best = losses[allowed].min() if allowed.any() else losses.max()
    return np.where(allowed[:, None], losses, np.maximum(losses, best))
