"""What is seen of widths and budgets: after each epoch, and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qcore_hetero_diffq.budget.ledger import Ledger
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.quantizers.levels import stored_bits

if TYPE_CHECKING:
    from torch import nn

    from qcore.methods import Progress

__all__ = ["Watch", "observe_budget"]


@dataclass(frozen=True)
class Watch:
    """A Phase's ``after_epoch``.

    Attributes:
        told_at: the epoch, counted from 1, after which the widths of all rows are told too.
    """

    told_at: int

    def __call__(self, model: nn.Module, progress: Progress) -> dict[str, Any]:
        """Return mean bits, estimated bytes over limits, multipliers, and how many rows have which width."""
        ledger, whole = Ledger.of(model), progress.epoch + 1 == self.told_at
        names = [name for name, _ in ledger.limits.items()]
        found = weights_of(model)
        rows = {path: quantizer.row_bits() for path, (_, quantizer) in found.items()}
        told: dict[str, Any] = {
            "bits": mean_bits(model),
            "over": dict(zip(names, ledger.over(model).tolist(), strict=True)),
            "aim": dict(zip(names, ledger.aim.tolist(), strict=True)),
            "multiplier": dict(zip(names, ledger.multiplier.tolist(), strict=True)),
            "counts": {path: _counts(widths) for path, widths in rows.items()},
            "inputs": {path: float(quantizer.bits().detach()) for path, quantizer in inputs_of(model).items()},
        }
        return told | ({"widths": {path: widths.tolist() for path, widths in rows.items()}} if whole else {})


def mean_bits(model: nn.Module) -> float:
    """Return the mean of the bits that a quantized weight's code is stored in."""
    found = list(weights_of(model).values())
    shares = [stored_bits(quantizer.bits().detach()).mean() * layer.weight.numel() for layer, quantizer in found]
    return float(torch.stack(shares).sum()) / sum(layer.weight.numel() for layer, _ in found)


def observe_budget(model: nn.Module) -> dict[str, float]:
    """Return what claims need to know of ``model``; nothing without sliced weights.

    ``weight_bits``: mean bits of a code. With a budget also ``counts_file``, whether it is the file that is counted;
    ``limit_weights``, ``limit_activations`` or ``limit_both``, bytes, and ``taken_...``, what the network takes.
    """
    if not weights_of(model):
        return {}
    told = {"weight_bits": mean_bits(model)}
    ledger = next((module for module in model.modules() if isinstance(module, Ledger)), None)
    if ledger is None:
        return told
    usage = ledger.rules.usage(model)
    told["counts_file"] = float(ledger.rules.count_metadata)
    for name, limit in ledger.limits.items():
        told |= {f"limit_{name}": float(limit), f"taken_{name}": float(usage.of(name))}
    return told


def _counts(widths: torch.Tensor) -> dict[str, int]:
    values, counts = torch.unique(widths, return_counts=True)
    return {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
