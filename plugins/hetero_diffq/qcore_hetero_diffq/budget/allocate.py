"""The exact end of a budget: widths that fit it, in bytes that are counted on the file itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qcore
from qcore_hetero_diffq.budget.candidates import Candidates, weight_candidates
from qcore_hetero_diffq.budget.frontier import Frontier, layer_frontier
from qcore_hetero_diffq.budget.inputs import Chosen, InputChoices
from qcore_hetero_diffq.budget.knapsack import choose
from qcore_hetero_diffq.budget.ledger import Limits
from qcore_hetero_diffq.budget.sensitivity import error_weights
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.quantizers.levels import LEVELS, row_nbytes
from qcore_hetero_diffq.quantizers.losses import ACTIVATION_LEVELS

if TYPE_CHECKING:
    from qcore_hetero_diffq.budget.ledger import Rules, Usage
    from qcore_hetero_diffq.quantizers.sliced import Sliced

__all__ = ["Allocation", "Search", "set_uniform"]

BLOCK_NBYTES = 130
"""A further width of a layer in a file: entry, checksum and codec; :class:`Search` measures what is off."""
ORDER_NBYTES = 110
"""The entry and checksum of a row order."""
ATTEMPTS = 8
CLOSE = 0.002
"""A budget of which less than this share is left over is not searched any closer."""
SPENT = 0.02
SHARES = 16
"""Shares of a budget for both that inputs are tried with, where these do not add up."""
WIDEST = 8


@dataclass(frozen=True)
class Allocation:
    """Widths for a network.

    Attributes:
        weights: path to (levels, int64 (rows or 1,); steps, float32 (rows or 1, groups or 1)).
        inputs: path to (level; range, float32 (1, 1)).
        loss: second-order estimate of what they cost.
        nbytes: estimate of what each limit of :class:`Limits` counts.
    """

    weights: dict[str, tuple[Tensor, Tensor]]
    inputs: dict[str, tuple[int, Tensor]]
    loss: float
    nbytes: dict[str, float]

    def apply(self, model: nn.Module) -> None:
        """Let the widths of ``model`` stand still at these."""
        quantizers, inputs = weights_of(model), inputs_of(model)
        for path, (levels, steps) in self.weights.items():
            quantizers[path][1].set_levels(levels, steps)
        for path, (level, range) in self.inputs.items():
            inputs[path].set_level(level, range)


class Search:
    """Looks for the widths of least loss under limits.

    The loss is the second-order estimate with the diagonal Fisher information: half the squared error times the running
    mean of squared gradients, which the quantizers noted while they were ``watching``.

    Args:
        model: with widths that are derived or stand still; what its limits do not count stays as it is.
        limits: what is allowed.
        rules: how bytes are counted.
        levels: what a row of weights chooses among.
        input_levels: what an input chooses among.
        samples: of a batch that gradients were noted of.
        trust: in these gradients, see :func:`~qcore_hetero_diffq.budget.sensitivity.error_weights`.
        learned: first look among widths of at most one bit above those that rows and inputs have now, then of two, and
            only then among all, should less leave bytes over.
    """

    def __init__(
        self,
        model: nn.Module,
        limits: Limits,
        rules: Rules,
        *,
        levels: tuple[int, ...] = LEVELS,
        input_levels: tuple[int, ...] = ACTIVATION_LEVELS,
        samples: int = 1,
        trust: float = 1.0,
        learned: bool = False,
    ) -> None:
        self.model, self.limits, self.rules, self.samples, self.trust = model, limits, rules, samples, trust
        self.levels, self.input_levels = tuple(sorted(levels)), tuple(sorted(input_levels))
        self.free_weights = limits.weights is not None or limits.both is not None
        self.free_inputs = limits.activations is not None or limits.both is not None
        self.steps = (1, 2, WIDEST) if learned else (WIDEST,)

    def smallest(self) -> Usage:
        """Return what the smallest choice takes; ``model`` is left with it."""
        set_uniform(
            self.model,
            self.levels[0] if self.free_weights else None,
            self.input_levels[0] if self.free_inputs else None,
        )
        return self.rules.usage(self.model)

    def run(self) -> Allocation | None:
        """Return the widths of least loss that keep all limits, and let them stand still; None if nothing does.

        What is in a file beside the codes depends on the choice, so the file is made, looked at, and the choice made
        again with what is left or missing.
        """
        self.candidates = {path: self._candidates(path) for path in weights_of(self.model)} if self.free_weights else {}
        inputs = inputs_of(self.model) if self.free_inputs else {}
        all_inputs = InputChoices.of(inputs, self.input_levels, self.rules.sizes, self.rules.counting)
        self.error_weights = self._error_weights()
        self.widths = {path: quantizer.row_bits() for path, (_, quantizer) in weights_of(self.model).items()}
        least = self.smallest()
        if least.exceeds(self.limits):
            return None
        sortable = _sortable(self.model) if self.free_weights and self.rules.count_metadata else set()
        found = None
        for step in self.steps:
            self.frontiers = {path: self._frontier(path, path in sortable, step) for path in self.candidates}
            self.inputs = all_inputs.within(step)
            cheapest = sum(float(frontier.costs[0]) for frontier in self.frontiers.values())
            self.base = least.weights - cheapest if self.frontiers else 0.0
            closer = self._closing_in()
            found = closer or found
            if closer is not None and self._is_spent(self.rules.usage(self.model)):
                break
        if found is None:
            return self._lowest(least)
        found.apply(self.model)
        return found

    def _is_spent(self, usage: Usage) -> bool:
        return all(limit - usage.of(name) <= SPENT * limit for name, limit in self.limits.items())

    def _closing_in(self) -> Allocation | None:
        limits, best, tried, over = self.limits, None, set[Limits](), 0
        while limits not in tried and (len(tried) < ATTEMPTS or best is None):
            tried.add(limits)
            found = self._solve(limits)
            if found is None:
                break
            found.apply(self.model)
            usage = self.rules.usage(self.model)
            fits = not usage.exceeds(self.limits)
            if fits and (best is None or found.loss < best.loss):
                best = found
            estimated = [(name, limit) for name, limit in self.limits.items() if name != "activations"]
            left = {name: limit - usage.of(name) for name, limit in estimated}
            if all(0 <= left[name] <= CLOSE * limit for name, limit in estimated):
                break
            over = 0 if fits else over + 1
            limits = self._moved(limits, found, left, over)
        if best is not None:
            best.apply(self.model)
        return best

    def _moved(self, limits: Limits, found: Allocation, left: dict[str, int], over: int) -> Limits:
        """Return limits by which what was ``found`` would have come out right; what is too large is not found again.

        Args:
            limits: by which it was found.
            found: the choice.
            left: bytes that it leaves of each limit whose bytes are estimated: those of inputs are exact.
            over: how many choices in a row were too large: they are left behind ever faster.
        """
        moved = {}
        for name, nbytes in left.items():
            moved[name] = getattr(limits, name) + nbytes * (1 << max(0, over - 1))
            if nbytes < 0:
                moved[name] = min(moved[name], math.ceil(found.nbytes[name]) - 1)
        return replace(limits, **{name: max(0, limit) for name, limit in moved.items()})

    def _lowest(self, least: Usage) -> Allocation:
        """Return the narrowest weights, with the best inputs that are left room for."""
        weights = {
            path: (torch.full((len(c.errors),), self.levels[0], device=c.steps.device), c.steps[0])
            for path, c in self.candidates.items()
        }
        limit = self.limits.activations if self.limits.both is None else self.limits.both - least.weights
        inputs = {path: self.inputs.grid(path, i) for path, i in (self._solve_inputs(limit) or {}).items()}
        found = Allocation(weights, inputs, np.inf, {})
        found.apply(self.model)
        return found

    def _solve(self, limits: Limits) -> Allocation | None:
        """Return the choice of least loss by estimated costs; None if none fits."""
        if limits.both is None:
            weights = self._solve_weights(None if limits.weights is None else limits.weights - self.base)
            inputs = self._solve_inputs(limits.activations)
        elif self.rules.counting == "sum":
            return self._solve_together(limits.both - self.base)
        else:
            return self._solve_apart(limits.both - self.base)
        return None if weights is None or inputs is None else self._allocation(weights, inputs)

    def _solve_weights(self, capacity: float | None) -> dict[str, int] | None:
        if capacity is None:
            return {}
        frontiers = list(self.frontiers.values())
        chosen = choose([f.costs for f in frontiers], [f.losses for f in frontiers], capacity)
        return None if chosen is None else dict(zip(self.frontiers, chosen, strict=True))

    def _solve_inputs(self, capacity: float | None) -> Chosen | None:
        return {} if capacity is None else self.inputs.solve(capacity)

    def _solve_together(self, capacity: float) -> Allocation | None:
        frontiers = list(self.frontiers.values())
        costs, losses = self.inputs.options()
        chosen = choose([*(f.costs for f in frontiers), *costs], [*(f.losses for f in frontiers), *losses], capacity)
        if chosen is None:
            return None
        count = len(frontiers)
        weights = dict(zip(self.frontiers, chosen[:count], strict=True))
        return self._allocation(weights, dict(zip(self.inputs.losses, chosen[count:], strict=True)))

    def _solve_apart(self, capacity: float) -> Allocation | None:
        """Try shares of the capacity for inputs, where these do not add up."""
        best: Allocation | None = None
        for share in self.inputs.shares(SHARES):
            inputs = self.inputs.solve(share)
            weights = None if inputs is None else self._solve_weights(capacity - self.inputs.nbytes(inputs))
            if inputs is not None and weights is not None:
                found = self._allocation(weights, inputs)
                best = found if best is None or found.loss < best.loss else best
        return best

    def _allocation(self, weights: dict[str, int], inputs: Chosen) -> Allocation:
        loss = sum(float(self.frontiers[path].losses[i]) for path, i in weights.items()) + self.inputs.loss(inputs)
        chosen = {path: self._rows(path, self.frontiers[path], i) for path, i in weights.items()}
        taken = self.base + sum(float(self.frontiers[path].costs[i]) for path, i in weights.items())
        of_inputs = self.inputs.nbytes(inputs)
        nbytes = {"weights": taken, "activations": of_inputs, "both": taken + of_inputs}
        return Allocation(chosen, {path: self.inputs.grid(path, i) for path, i in inputs.items()}, loss, nbytes)

    def _rows(self, path: str, frontier: Frontier, index: int) -> tuple[Tensor, Tensor]:
        candidates = self.candidates[path]
        levels = torch.as_tensor(frontier.levels[index], device=candidates.steps.device)
        places = torch.searchsorted(torch.tensor(candidates.levels, device=levels.device), levels)
        return levels, candidates.steps[places, torch.arange(len(levels), device=levels.device)]

    def _candidates(self, path: str) -> Candidates:
        layer, quantizer = weights_of(self.model)[path]
        return weight_candidates(quantizer.slices(layer.weight.detach()), quantizer.ranges().detach(), self.levels)

    def _frontier(self, path: str, sortable: bool, step: int) -> Frontier:
        layer, quantizer = weights_of(self.model)[path]
        candidates = self.candidates[path]
        losses = (candidates.errors * self.error_weights[path].unsqueeze(1)).cpu().numpy() / 2
        losses = _no_gain_above(losses, self.levels, self.widths[path].cpu().numpy() + step)
        rows, cols = len(layer.weight), layer.weight[0].numel()
        whole = len(losses) == 1 and rows > 1
        costs = [row_nbytes(level, cols) * (rows if whole else 1) for level in self.levels]
        counted = self.rules.count_metadata
        order = 0 if sortable or not counted else 4 * rows + ORDER_NBYTES + len(path)
        block = BLOCK_NBYTES + len(path) if counted else 0
        return layer_frontier(self.levels, costs, losses, block_nbytes=block, order_nbytes=order)

    def _error_weights(self) -> dict[str, Tensor]:
        fisher, energies, numbers = {}, {}, {}
        for path in self.candidates:
            layer, quantizer = weights_of(self.model)[path]
            slices = quantizer.slices(layer.weight.detach())
            fisher[path] = self._fisher(quantizer)
            energies[path] = slices.double().square().sum(dim=(1, 2))
            numbers[path] = slices[0].numel()
        return error_weights(fisher, energies, numbers, self.trust)

    def _fisher(self, quantizer: Sliced) -> Tensor:
        """Return the mean squared gradient of a sample's loss for each row, float64 (rows or 1,).

        That of a batch's mean loss times the samples, as if they were independent. Without any noted: 1 for all.
        """
        if not float(quantizer.seen):
            return torch.ones(len(quantizer.level), dtype=torch.float64, device=quantizer.level.device)
        found = (quantizer.sensitivity / quantizer.seen).double() * self.samples
        return found + 1e-6 * found.mean()  # rows that no gradient reached are told apart by their error


@torch.no_grad()
def set_uniform(model: nn.Module, level: int | None, input_level: int | None) -> None:
    """Let all widths stand still: weights at ``level``, inputs at ``input_level``; None leaves them."""
    if level is not None:
        for layer, quantizer in weights_of(model).values():
            found = weight_candidates(quantizer.slices(layer.weight.detach()), quantizer.ranges().detach(), (level,))
            quantizer.set_levels(torch.full_like(quantizer.level, level), found.steps[0])
    if input_level is not None:
        for inputs in inputs_of(model).values():
            inputs.set_level(input_level, inputs.ranges().detach())


def _no_gain_above(losses: NDArray[np.float64], levels: tuple[int, ...], most: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``losses`` (rows, levels) in which no level of a row above ``most`` (rows,) is better than that one."""
    allowed = np.asarray(levels)[None, :] <= most.reshape(-1, 1)
    best = np.where(allowed, losses, np.inf).min(axis=1, keepdims=True)
    return np.where(allowed, losses, np.maximum(losses, best))


@torch.no_grad()
def _sortable(model: nn.Module) -> set[str]:
    """Return the layers whose rows packing sorts by width, so that no order is stored; widths of ``model`` change."""
    for _, quantizer in weights_of(model).values():
        if len(quantizer.level) > 1:
            quantizer.level[0], quantizer.level[1:] = 4, 3
    packed = qcore.pack(model, backend="reference")
    return {sorting.first for sorting in qcore.explain(packed).sortings if sorting.sorted}
