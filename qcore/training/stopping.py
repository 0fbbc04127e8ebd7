"""Early stopping: the best epoch so far, by a validation score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

__all__ = ["Best"]


@dataclass
class Best:
    """The best epoch so far.

    Attributes:
        higher_is_better: direction of the score.
        min_delta: by how much a score must be better to count.
        score: the best score, None before the first.
        epoch: its epoch, from 1; 0 before the first.
        waited: epochs since.
        state: the weights of that epoch, empty unless they were kept.
    """

    higher_is_better: bool
    min_delta: float = 0.0
    score: float | None = None
    epoch: int = 0
    waited: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def update(self, score: float, epoch: int) -> bool:
        """Take in the score of ``epoch`` and return whether it is the best; NaN never is."""
        if math.isnan(score) or not self._is_better(score):
            self.waited += 1
            return False
        self.score, self.epoch, self.waited = score, epoch, 0
        return True

    def keep(self, model: nn.Module) -> None:
        """Keep a copy of the weights of ``model``."""
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Give ``model`` the weights that were kept, if any were."""
        if self.state:
            model.load_state_dict(self.state)

    def _is_better(self, score: float) -> bool:
        if self.score is None:
            return True
        gain = score - self.score if self.higher_is_better else self.score - score
        return gain > self.min_delta
