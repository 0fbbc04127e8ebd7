"""From a budget as it is written to a ledger, and whether it can be kept at all."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from qcore.nn.packing import packed_layers
from qcore_hetero_diffq.budget.allocate import Search, set_uniform
from qcore_hetero_diffq.budget.ledger import Ledger, Limits, Rules
from qcore_hetero_diffq.budget.sizes import Budget, format_nbytes
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.quantizers.levels import TERNARY, row_nbytes

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Asked", "check_feasible", "make_ledger", "measurable", "resolve", "start_bits"]

STIFFNESS = 1.0
LISTED = 3


@dataclass(frozen=True)
class Asked:
    """What a user asked for.

    Attributes:
        budget: the limit.
        of: what it counts: ``weights`` (the file), ``activations`` or ``both`` together.
        activations: a limit of their own for activations, or None.
    """

    budget: Budget
    of: str = "weights"
    activations: Budget | None = None

    def __post_init__(self) -> None:
        if self.of not in ("weights", "activations", "both"):
            raise ValueError(f"a budget is of weights, activations or both, not of {self.of!r}")
        if self.activations is not None and self.of != "weights":
            raise ValueError("activation_budget stands beside a budget of weights: leave 'of' at weights")


def make_ledger(model: nn.Module, asked: Asked, rules: Rules, levels: tuple[int, ...]) -> Ledger:
    """Return the ledger of a quantized, untrained ``model``, which is left alone.

    Raises:
        BudgetInfeasible: no choice of widths keeps the budget.
    """
    probe = measurable(model)
    limits = resolve(probe, asked, rules)
    check_feasible(probe, limits, rules, levels)
    return Ledger(limits, rules, _base_nbytes(probe, rules), STIFFNESS)


def measurable(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose size can be taken: ranges that no batch has told are 1, no width is derived."""
    probe = copy.deepcopy(model).eval()
    for quantizer in inputs_of(probe).values():
        if quantizer.needs_calibration:
            quantizer.initialize(torch.ones(1, 1, device=quantizer.level.device))
        if not int(quantizer.level):
            quantizer.set_level(quantizer.config.bits, quantizer.ranges().detach())
    return probe


def check_feasible(model: nn.Module, limits: Limits, rules: Rules, levels: tuple[int, ...]) -> None:
    """Raise unless the smallest widths keep ``limits``; the widths of ``model`` change.

    Raises:
        BudgetInfeasible: they do not; names the smallest size, and what is largest in it.
    """
    smallest = Search(model, limits, rules, levels=levels).smallest()
    for name, limit in limits.items():
        least = smallest.of(name)
        if least > limit:
            what = {"weights": "the file takes", "activations": "inputs take", "both": "file and inputs take"}[name]
            raise BudgetInfeasible(
                f"a budget of {format_nbytes(limit)} cannot be kept: at the narrowest widths {what} "
                f"{format_nbytes(least)}. Largest: {_largest(model, rules, name)}",
                f"allow at least {least:,} bytes, take a smaller network, or quantize more of it",
                smallest_nbytes=least,
            )


def resolve(model: nn.Module, asked: Asked, rules: Rules) -> Limits:
    """Return the limits in bytes; the widths of ``model`` change."""
    own = None if asked.activations is None else _activation_nbytes(asked.activations, rules)
    if asked.of == "activations":
        return Limits(activations=_activation_nbytes(asked.budget, rules))
    if asked.budget.nbytes is not None:
        limit = asked.budget.nbytes
    else:
        limit = _file_nbytes(model, asked.budget, rules)
        limit += _activation_nbytes(asked.budget, rules) if asked.of == "both" else 0
    return Limits(both=limit) if asked.of == "both" else Limits(weights=limit, activations=own)


def start_bits(model: nn.Module, ledger: Ledger) -> tuple[int | None, int | None]:
    """Return the widths of weights and of inputs to begin with, two above the mean that is allowed; None: not limited.

    Source: the authors' published configurations, ``floor(size) + 2``.
    """
    limits, counts = ledger.limits, ledger.rules.sizes.counts
    weights = sum(layer.weight.numel() for layer, _ in weights_of(model).values())
    numbers = max(sum(counts.values()), 1)
    if limits.both is not None:
        mean = 8 * (limits.both - ledger.base_nbytes) / (weights + numbers)
        return _start(mean), _start(mean)
    of_weights = None if limits.weights is None else 8 * (limits.weights - ledger.base_nbytes) / weights
    share = 1.0
    if ledger.rules.counting != "sum" and limits.activations is not None:
        share = ledger.rules.sizes.nbits(dict.fromkeys(counts, 1.0), ledger.rules.counting) / numbers
    of_inputs = None if limits.activations is None else 8 * limits.activations / (numbers * share)
    return (None if of_weights is None else _start(of_weights)), (None if of_inputs is None else _start(of_inputs))


def _start(mean: float) -> int:
    return max(3, min(8, math.floor(max(mean, 0.0)) + 2))


def _file_nbytes(model: nn.Module, budget: Budget, rules: Rules) -> int:
    """Return the bytes of a file with so many bits a weight, rows rounded up to bytes."""
    assert budget.bits is not None
    bits = Fraction(str(budget.bits))
    codes = sum(
        len(layer.weight) * math.ceil(layer.weight[0].numel() * bits / 8) for layer, _ in weights_of(model).values()
    )
    return _base_nbytes(model, rules) + codes


def _base_nbytes(model: nn.Module, rules: Rules) -> int:
    """Return what is counted of a file beside the codes; the widths of ``model`` change."""
    if not rules.count_metadata:
        return 0
    set_uniform(model, TERNARY, None)
    shapes = [(len(layer.weight), layer.weight[0].numel()) for layer, _ in weights_of(model).values()]
    return rules.usage(model).weights - sum(rows * row_nbytes(TERNARY, cols) for rows, cols in shapes)


def _activation_nbytes(budget: Budget, rules: Rules) -> int:
    if budget.nbytes is not None:
        return budget.nbytes
    assert budget.bits is not None
    return math.ceil(rules.sizes.nbits(dict.fromkeys(rules.sizes.counts, budget.bits), rules.counting) / 8)


def _largest(model: nn.Module, rules: Rules, name: str) -> str:
    sizes: dict[str, float] = {}
    if name != "activations":
        packed = packed_layers(model)
        sizes |= {f"{path}.weight": layer.weight.nbytes for path, layer in packed.items()}
        sizes |= {
            key: value.numel() * value.element_size()
            for key, value in model.state_dict().items()
            if not any(key.startswith(f"{path}.") for path in packed)
        }
    if name != "weights":
        quantizers = inputs_of(model)
        sizes |= {f"input of {p}": n * float(quantizers[p].bits().detach()) / 8 for p, n in rules.sizes.counts.items()}
    ranked = sorted(sizes, key=lambda key: -sizes[key])[:LISTED]
    return ", ".join(f"{key} ({format_nbytes(int(sizes[key]))})" for key in ranked)
