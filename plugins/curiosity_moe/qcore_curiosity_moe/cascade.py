"""Escalation by softmax margin: the simplest rule that spends bits on hard samples, and a baseline for routing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Cascade", "margin"]


def margin(logits: Tensor) -> Tensor:
    """Return how far the largest softmax probability of each row is above the second, (rows,) in 0..1."""
    best = torch.softmax(logits, dim=-1).topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


class Cascade(nn.Module):
    """Stages in turn, the cheapest first; a row goes on while its margin is below the stage's threshold.

    A stage's logits end in a float layer, so a margin may differ by its rounding (some 1e-7) between batch sizes, and a
    row that lies as close as that to the threshold may go either way.

    Attributes:
        stages: networks that return logits (rows, classes), two classes or more.
        thresholds: float32 (stages - 1,); 0 sends no row on.
    """

    thresholds: Tensor

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.register_buffer("thresholds", torch.zeros(len(self.stages) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the last stage that each row reached."""
        return self.escalate(x)[0]

    def escalate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (rows, classes), the last stage int64 (rows,), and the margin at the first stage (rows,)."""
        logits: Tensor = self.stages[0](x)
        first = margins = margin(logits)
        reached = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        rows = torch.arange(len(x), device=x.device)
        for index, stage in enumerate(self.stages):
            if index:
                kept = margins < self.thresholds[index - 1]
                rows = rows[kept]
                if rows.numel() == 0:
                    break
                part: Tensor = stage(x[rows])
                logits = logits.index_copy(0, rows, part)
                reached = reached.index_fill(0, rows, index)
                margins = margin(part)
        return logits, reached, first

    @torch.no_grad()
    def fit_thresholds(self, x: Tensor, share: float) -> None:
        """Set the thresholds so that each stage sends on ``share`` of the calibration rows ``x`` that reach it."""
        training = self.training
        self.eval()
        for index in range(len(self.thresholds)):
            logits: Tensor = self.stages[index](x)
            margins = margin(logits)
            self.thresholds[index] = _threshold(margins, share)
            x = x[margins < self.thresholds[index]]
        self.train(training)


def _threshold(margins: Tensor, share: float) -> Tensor:
    """Return the value that at most ``share`` of ``margins`` lie below."""
    if len(margins) == 0:
        return margins.new_zeros(())
    count = int(share * len(margins))
    if count >= len(margins):
        return margins.new_tensor(float("inf"))
    return margins.sort().values[count]
