"""The task ``poqemon_qoe``: how people rate videos on their phones."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from qcore.tasks.base import TaskData
from qcore.tasks.paths import locate
from qcore_nmpqat.tasks.arrays import PackedFile
from qcore_nmpqat.tasks.base import TabularTask
from qcore_nmpqat.tasks.config import PoqemonQoeConfig

__all__ = ["PoqemonQoe"]

CLASS_NAMES: Final = ("bad", "poor", "fair", "good", "excellent")
"""Opinion scores 1 to 5 as ITU-T P.800 names them."""

_PAGE: Final = "github.com/Lamyne/Poqemon-QoE-Dataset"
_PACKED: Final = "poqemon_qoe.npz"
_ARRAYS: Final = ("y", "X", "names", "X_feedback", "names_feedback", "X_user", "names_user", "group", "split")
_NEEDS: Final = f"the PoQeMoN set packed as {_PACKED}, with the arrays {', '.join(_ARRAYS)}"


class PoqemonQoe(TabularTask):
    """Video views on phones in mobile networks, each rated from 1 to 5: 1,543 rows of 181 testers, 5 classes.

    ``features``:

    - ``objective`` (default): 33 facts of player, network and phone;
    - ``full``: those, 4 part ratings (start, interruptions, audio, video) that the tester gave **with** the answer, and
      the tester's sex, age and level of study. The part ratings leak: the rating of the audio alone correlates 0.84
      with the answer, and accuracy rises from about 0.56 to 0.78. The "QoE" figures of arXiv:2605.25054 are of that
      height. State which features a result used.

    ``split``: ``file`` tests a fixed fifth of the views, whose testers were mostly seen in training; ``group`` draws
    folds that share no tester, for people who are new.

    Source: L. Amour, S. Souihi, S. Hoceini, A. Mellouk, "Building a Large Dataset for Model-based QoE Prediction in
    the Mobile Environment", ACM MSWiM 2015. No licence is stated; it holds sex and age of pseudonymous persons.
    """

    Config = PoqemonQoeConfig
    config: PoqemonQoeConfig

    def load(self) -> TaskData:
        """Return inputs (n, 33) or (n, 40) float32 and targets (n,).

        Raises:
            DataError: the data are missing or damaged.
        """
        known = (f"poqemon_qoe/{_PACKED}", _PACKED)
        path = locate(self.config.data, known, (), task=self.name, needs=_NEEDS, page=_PAGE)
        file = PackedFile(path, _ARRAYS)
        parts = ("", "_feedback", "_user") if self.config.features == "full" else ("",)
        columns = [file.matrix(f"X{part}") for part in parts]
        names = [file.names(f"names{part}", x.shape[1]) for part, x in zip(parts, columns, strict=True)]
        leaks = " and what the tester said, which leaks the answer" if self.config.features == "full" else ""
        return TaskData(
            inputs=torch.from_numpy(np.hstack(columns).astype(np.float32)),
            targets=file.classes("y", len(CLASS_NAMES)),
            groups=file.whole("group") if self.config.split == "group" else None,
            folds=file.folds() if self.config.split == "file" else None,
            feature_names=tuple(name for part in names for name in part),
            class_names=CLASS_NAMES,
            source=f"PoQeMoN, {path}: objective features{leaks}",
        )
