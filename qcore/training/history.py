"""History: what training did, an epoch a row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["History"]


@dataclass
class History:
    """Rows of ``{"phase", "epoch", "epochs", "train_loss", "metric", "validation", "lr"}``, in order.

    ``epoch`` counts from 1 within its phase; ``train_loss`` is the mean over the epoch's samples, penalty included;
    ``validation`` is the task's primary ``metric`` on the validation part, None where there is none; ``lr`` is that
    of the first optimizer at the epoch's last step.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, int] = field(default_factory=dict)
    """Phase to the epoch whose weights it ended with."""

    @property
    def epochs(self) -> int:
        """Epochs trained, over all phases."""
        return len(self.rows)

    def to_jsonl(self) -> str:
        """Return one JSON object a line."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)
