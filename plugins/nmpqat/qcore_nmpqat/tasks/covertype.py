"""The task ``covertype``: which trees grow where."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.paths import locate
from qcore_nmpqat.tasks.arrays import PackedFile, as_classes
from qcore_nmpqat.tasks.base import TabularTask
from qcore_nmpqat.tasks.config import CovertypeConfig
from qcore_nmpqat.tasks.numbers import read_numbers

__all__ = ["Covertype"]

CLASS_NAMES: Final = (
    "spruce/fir",
    "lodgepole pine",
    "ponderosa pine",
    "cottonwood/willow",
    "aspen",
    "douglas-fir",
    "krummholz",
)
FEATURE_NAMES: Final = (
    "Elevation",
    "Aspect",
    "Slope",
    "Horizontal_Distance_To_Hydrology",
    "Vertical_Distance_To_Hydrology",
    "Horizontal_Distance_To_Roadways",
    "Hillshade_9am",
    "Hillshade_Noon",
    "Hillshade_3pm",
    "Horizontal_Distance_To_Fire_Points",
    *(f"Wilderness_Area{number}" for number in range(1, 5)),
    *(f"Soil_Type{number}" for number in range(1, 41)),
)
_MEASURED: Final = 10

_PAGE: Final = "archive.ics.uci.edu/dataset/31/covertype"
_PACKED: Final = "covertype_93k.npz"
_UCI: Final = "covtype.data"
_SKLEARN: Final = "covertype/samples_py3"
_NEEDS: Final = f"UCI Covertype: {_UCI} or {_UCI}.gz, a packed npz ({_PACKED}), or scikit-learn's data folder"


class Covertype(TabularTask):
    """Forest cover of patches of 30 x 30 m from maps: 54 features, 7 classes, up to 581,012 rows.

    The ten measured features are in their original units (m, degrees, 0..255), the others 0 or 1.

    Reads:

    - a packed npz: X_num (n, 10), X_bin (n, 44), y (n,) 0..6, names (54,), and split (n,), 0 train and 1 test. The
      usual one is a sixth of all rows, drawn at random, so that results are not those of the full set;
    - UCI's ``covtype.data``, plain or gzipped, without a split;
    - the folder that scikit-learn's ``fetch_covtype`` keeps (``data_home``), if it is named by ``data``: scikit-learn
      reads its own copy with joblib, which runs what the file says, so name only a folder of your own making.

    Source: J. Blackard, "Covertype", UCI Machine Learning Repository, 1998, doi 10.24432/C50K5N.
    """

    Config = CovertypeConfig
    config: CovertypeConfig

    def load(self) -> TaskData:
        """Return inputs (n, 54) float32 and targets (n,).

        Raises:
            DataError: the data are missing or damaged.
        """
        known = [f"{folder}{name}" for name in (_PACKED, f"{_UCI}.gz", _UCI) for folder in ("covertype/", "")]
        inside = [_SKLEARN, "samples_py3"]
        path = locate(self.config.data, known, inside, task=self.name, needs=_NEEDS, page=_PAGE)
        if path.suffix == ".npz":
            return self._packed(path)
        if path.name == "samples_py3":
            return _fetched(path.parent.parent)
        rows = read_numbers(path, width=len(FEATURE_NAMES) + 1)
        return _data(rows[:, :-1], rows[:, -1], str(path))

    def _packed(self, path: Path) -> TaskData:
        file = PackedFile(path, ("y", "X_num", "X_bin", "names", "split"))
        measured, marks = file.matrix("X_num", _MEASURED), file.matrix("X_bin", len(FEATURE_NAMES) - _MEASURED)
        return TaskData(
            inputs=torch.from_numpy(np.hstack([measured, marks]).astype(np.float32)),
            targets=file.classes("y", len(CLASS_NAMES)),
            folds=file.folds() if self.config.split == "file" else None,
            feature_names=file.names("names", len(FEATURE_NAMES)),
            class_names=CLASS_NAMES,
            source=f"UCI Covertype, {path}",
        )


def _fetched(home: Path) -> TaskData:
    """Return what scikit-learn's loader finds in its own folder; nothing is fetched."""
    from sklearn.datasets import fetch_covtype

    try:
        found = fetch_covtype(data_home=str(home), download_if_missing=False)
        return _data(np.asarray(found.data), np.asarray(found.target), f"scikit-learn's copy in {home}")
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zlib.error, pickle.UnpicklingError) as error:
        reason = error or type(error).__name__
        raise DataError(f"scikit-learn cannot read its copy in {home}: {reason}", "fetch it again") from error


def _data(rows: NDArray[Any], labels: NDArray[Any], where: str) -> TaskData:
    """Return the data of (n, 54) features and of UCI's labels (n,) from 1 to 7."""
    return TaskData(
        inputs=torch.from_numpy(rows.astype(np.float32)),
        targets=as_classes(labels - 1, len(CLASS_NAMES), f"{where}: the cover type less 1"),
        feature_names=FEATURE_NAMES,
        class_names=CLASS_NAMES,
        source=f"UCI Covertype, {where}",
    )
