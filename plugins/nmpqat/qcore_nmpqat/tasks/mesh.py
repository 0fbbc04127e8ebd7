"""The task ``mesh``: response times and drops of two services on a service mesh."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from qcore.tasks.base import TaskData
from qcore.tasks.paths import locate
from qcore_nmpqat.tasks.arrays import PackedFile
from qcore_nmpqat.tasks.base import TabularTask
from qcore_nmpqat.tasks.config import MeshConfig

__all__ = ["Mesh"]

DELAYS: Final = ("d11", "d12", "d21", "d22")
DROPS: Final = ("drop1", "drop2")
_SEVERAL: Final = {"delays": DELAYS, "drops": DROPS, "all": (*DELAYS, *DROPS)}

_FEATURES: Final = ("p11", "p21", "b1", "b2", "l1", "l2", "cl1", "cl2")
_OUTCOMES: Final = ("cl1", "cl2")
_MS: Final = 1000.0

_PAGE: Final = "github.com/foroughsh/KTH-traces"
_PACKED: Final = "kth_mesh_cnsm2022.npz"
_NEEDS: Final = f"the service-mesh traces of CNSM 2022 packed as {_PACKED}, with the arrays X, names, Y, names_y, split"


class Mesh(TabularTask):
    """Measurements of a real testbed: what two services were asked, and how they answered; 45,343 rows.

    Features: routing weights p11 and p21 (%), blocking b1 and b2, offered load l1 and l2, carried load cl1 and cl2
    (requests/s). Targets: response times dij of service i over node j, here in milliseconds, and dropped requests drop1
    and drop2 (requests/s). It stands in for the key-value store of arXiv:2605.25054, whose traces are large archives.

    ``target``: one of them, ``delays`` (all four), ``drops`` (both) or ``all``.

    - The file gives a response time of 0 where a route carried nothing. Such rows are left out: of a single response
      time's, some 8,700; where there are several, all rows in which one of them is 0. With ``idle=keep`` they stay, and
      most of the variance is then whether a route was used: of d12 139.5 ms^2 beside 20.6 without them.
    - Carried load is an outcome, as drops are (offered load less carried load less blocked load), so it is no feature
      where a drop is a target.

    Source: F. Shahab Samani, R. Stadler, "Dynamically meeting performance objectives for multiple services on a service
    mesh", CNSM 2022. No licence is stated.
    """

    Config = MeshConfig
    config: MeshConfig

    def load(self) -> TaskData:
        """Return inputs (n, 8), or (n, 6) for drops, and targets (n,) or (n, outputs), float32.

        Raises:
            DataError: the data are missing or damaged.
        """
        known = (f"kth_traces/{_PACKED}", _PACKED)
        path = locate(self.config.data, known, (), task=self.name, needs=_NEEDS, page=_PAGE)
        file = PackedFile(path, ("Y", "names_y", "X", "names", "split"))
        targets = _SEVERAL.get(self.config.target, (self.config.target,))
        y = _columns(file, "Y", "names_y", (*DELAYS, *DROPS), targets)
        delays = [name in DELAYS for name in targets]
        kept = (y[:, delays] != 0).all(axis=1) | (self.config.idle == "keep")
        features = tuple(name for name in _FEATURES if all(delays) or name not in _OUTCOMES)
        values = torch.from_numpy((y[kept] * np.where(delays, _MS, 1.0)).astype(np.float32))
        return TaskData(
            inputs=torch.from_numpy(_columns(file, "X", "names", _FEATURES, features)[kept].astype(np.float32)),
            targets=values if len(targets) > 1 else values.squeeze(1),
            folds=file.folds()[torch.from_numpy(kept)] if self.config.split == "file" else None,
            feature_names=features,
            target_names=targets if len(targets) > 1 else (),
            source=f"KTH service mesh, CNSM 2022, {path}",
        )


def _columns(
    file: PackedFile, key: str, names: str, expected: tuple[str, ...], wanted: tuple[str, ...]
) -> NDArray[Any]:
    """Return the ``wanted`` columns of an array that has the ``expected`` ones, in whatever order."""
    array, found = file.matrix(key, len(expected)), file.names(names, len(expected))
    if set(found) != set(expected):
        raise file.wrong(names, ", ".join(expected))
    return array[:, [found.index(name) for name in wanted]]
