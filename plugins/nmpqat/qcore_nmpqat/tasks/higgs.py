"""The task ``higgs``: collisions that made a Higgs boson, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch

from qcore.errors import UsageError
from qcore.tasks.base import TaskData
from qcore.tasks.paths import locate
from qcore_nmpqat.tasks.arrays import PackedFile, as_classes
from qcore_nmpqat.tasks.base import TabularTask, split_as_folds
from qcore_nmpqat.tasks.config import HiggsConfig
from qcore_nmpqat.tasks.numbers import read_numbers

__all__ = ["Higgs"]

CLASS_NAMES: Final = ("background", "signal")
_JETS: Final = tuple(f"jet{jet}_{kind}" for jet in range(1, 5) for kind in ("pt", "eta", "phi", "btag"))
FEATURE_NAMES: Final = (
    "lepton_pT",
    "lepton_eta",
    "lepton_phi",
    "missing_energy_magnitude",
    "missing_energy_phi",
    *_JETS,
    *("m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb"),
)

_ROWS: Final = 11_000_000
_TESTED: Final = 500_000
"""The last rows of UCI's file are its test set."""

_PAGE: Final = "archive.ics.uci.edu/dataset/280/higgs"
_PACKED: Final = "higgs_15k.npz"
_UCI: Final = "HIGGS.csv"
_NEEDS: Final = f"UCI HIGGS: {_UCI} or {_UCI}.gz, or a packed npz ({_PACKED})"


class Higgs(TabularTask):
    """Simulated collisions: 21 measured features and 7 derived ones, 2 classes, up to 11,000,000 rows.

    Reads:

    - a packed npz: X (n, 28), y (n,) 0 or 1, names (28,), and split (n,), 0 train and 1 test. The usual one has 14,999
      rows, far fewer than papers train on;
    - UCI's ``HIGGS.csv``, plain or gzipped. Its last 500,000 rows are tested if it is read whole, which takes some GB
      of memory and many minutes; with ``limit`` the first rows are read alone. Rows are independent: the first are as
      good as any.

    Source: P. Baldi, P. Sadowski, D. Whiteson, "Searching for Exotic Particles in High-Energy Physics with Deep
    Learning", Nature Communications 5, 2014.
    """

    Config = HiggsConfig
    config: HiggsConfig

    def load(self) -> TaskData:
        """Return inputs (n, 28) float32 and targets (n,).

        Raises:
            DataError: the data are missing or damaged.
            UsageError: ``limit`` is more than the file's rows.
        """
        known = [f"{folder}{name}" for name in (_PACKED, f"{_UCI}.gz", _UCI) for folder in ("higgs/", "")]
        path = locate(self.config.data, known, (), task=self.name, needs=_NEEDS, page=_PAGE)
        found = _packed(path) if path.suffix == ".npz" else _csv(path, self.config.limit)
        limit, folds = self.config.limit, found.folds
        if limit is not None and limit > len(found):
            raise UsageError(
                f"{path} has {len(found)} rows, fewer than limit={limit}", "lower the limit, or leave it out"
            )
        if limit is not None or self.config.split == "random":
            folds = None
        return TaskData(
            inputs=found.inputs[:limit],
            targets=found.targets[:limit],
            folds=folds,
            feature_names=found.feature_names,
            class_names=CLASS_NAMES,
            source=f"UCI HIGGS, {path}" if limit is None else f"UCI HIGGS, {path}; the first {limit} rows",
        )


def _packed(path: Path) -> TaskData:
    file = PackedFile(path, ("y", "X", "names", "split"))
    return TaskData(
        inputs=torch.from_numpy(file.matrix("X", len(FEATURE_NAMES)).astype(np.float32)),
        targets=file.classes("y", 2),
        folds=file.folds(),
        feature_names=file.names("names", len(FEATURE_NAMES)),
    )


def _csv(path: Path, limit: int | None) -> TaskData:
    rows = read_numbers(path, width=len(FEATURE_NAMES) + 1, limit=limit)
    whole = len(rows) == _ROWS
    return TaskData(
        inputs=torch.from_numpy(rows[:, 1:].copy()),
        targets=as_classes(rows[:, 0], 2, f"{path}: its first column"),
        folds=split_as_folds(torch.arange(_ROWS) >= _ROWS - _TESTED) if whole else None,
        feature_names=FEATURE_NAMES,
    )
