"""What both tasks share: accuracy first, and the share of images whose class is among the five likeliest."""

from __future__ import annotations

from torch import Tensor

from qcore.tasks.base import Task

__all__ = ["ImageNetTask"]

_LIKELIEST = 5


class ImageNetTask(Task):
    """Images (n, 3, size, size) uint8 of 0 to 255, scored by top-1 accuracy."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``scores`` returns; accuracy is the primary one, as in the paper."""
        return ("accuracy", "accuracy_top5", "f1_weighted", "f1_macro", "nll", "ece")

    def scores(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return every metric of ``metrics`` for logits (n, classes) and classes (n,)."""
        likeliest = output.topk(min(_LIKELIEST, output.shape[1]), dim=1).indices
        hits = (likeliest == target[:, None]).any(dim=1)
        return super().scores(output, target) | {"accuracy_top5": float(hits.double().mean())}
