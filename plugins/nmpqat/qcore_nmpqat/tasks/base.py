"""What the plugin's tasks share: the paper's metrics first, its network, and rows that lie in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore.tasks.base import Task

__all__ = ["TabularTask", "split_as_folds", "time_parts"]

HIDDEN = (512, 512, 512, 512)
"""Widths of the MLP of arXiv:2605.25054: "4-layer, 512 neurons per layer"."""

_BLOCKS = 50


class TabularTask(Task):
    """Rows of features in their original units, scored as in the paper."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``scores`` returns: accuracy or mse, the paper's measures, come first."""
        if self.problem == "regression":
            return ("mse", "r2", "mae")
        return ("accuracy", "f1_macro", "f1_weighted", "nll", "ece")

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return ``core/mlp`` with the paper's four hidden layers of 512."""
        name, options = super().default_model()
        return name, options | {"hidden": HIDDEN}

    @property
    def name(self) -> str:
        """The task's id, for messages."""
        return self.spec_id or f"nmpqat/{type(self).__name__.lower()}"


def split_as_folds(tested: Tensor) -> Tensor:
    """Return (n,) int64 folds: 0 where ``tested`` (n,) bool, else -1, which is never tested."""
    return tested.long() - 1


def time_parts(rows: int, test_share: float) -> tuple[Tensor, Tensor]:
    """Return folds and groups, (rows,) int64 each, that test the end of a trace.

    Neighbours in a trace resemble each other, so samples that are drawn one by one tell little of the future. Here the
    last ``test_share`` of the rows is the one fold, and the rows before it are 50 groups of neighbours, so that the
    validation part is drawn in whole groups as well.
    """
    tested = min(max(round(test_share * rows), 1), rows - 1)
    before = rows - tested
    folds = torch.cat([torch.full((before,), -1), torch.zeros(tested, dtype=torch.int64)])
    groups = torch.arange(before) * min(_BLOCKS, before) // before
    return folds, torch.cat([groups, torch.full((tested,), int(groups[-1]) + 1)])
