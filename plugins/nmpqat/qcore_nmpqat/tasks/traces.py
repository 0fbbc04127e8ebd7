"""The tasks ``vod`` and ``kvs``: what clients see of a service, from statistics of its servers."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import DataError, UsageError, did_you_mean
from qcore.tasks.base import TaskData
from qcore.tasks.paths import locate
from qcore_nmpqat.tasks.arrays import PackedFile
from qcore_nmpqat.tasks.base import TabularTask, time_parts
from qcore_nmpqat.tasks.config import KvsConfig, TraceConfig, VodConfig
from qcore_nmpqat.tasks.numbers import read_header, read_numbers

__all__ = ["Kvs", "Vod"]

_PAGE: Final = "github.com/foroughsh/KTH-traces or github.com/rafaelpasquini/traces-jnsm-2017"
_PACKED: Final = "kth_vod_3600.npz"
_PAIR: Final = ("X.csv", "X.csv.gz")
_TIMES: Final = frozenset({"", "index", "unnamed: 0", "time", "timestamp"})
"""Columns, in small letters, that say when a row was measured: no features."""


class _Trace(TabularTask):
    config: Any

    def assemble(
        self, inputs: NDArray[Any], targets: NDArray[Any], names: tuple[str, ...], folds: Tensor | None, source: str
    ) -> TaskData:
        """Return the data, with the split and without the features that the options say."""
        options: TraceConfig = self.config
        kept = _kept(names, options.drop, source)
        groups = None
        if self.config.split == "time":
            if len(targets) < 4:
                raise DataError(f"{source}: {len(targets)} rows are too few to be split in time")
            folds, groups = time_parts(len(targets), options.test_share)
        return TaskData(
            inputs=torch.from_numpy(inputs[:, kept].astype(np.float32)),
            targets=torch.from_numpy(targets.astype(np.float32)),
            groups=groups,
            folds=None if self.config.split == "random" else folds,
            feature_names=tuple(names[place] for place in kept),
            source=source,
        )


class Vod(_Trace):
    """Video on demand: frames per second at a client, from operating-system statistics of the server.

    Reads a packed npz, X (n, features), names, y_frames_per_s (n,) and split (n,), of which the usual one is an hour
    with 12 statistics, a row a second; or a pair of files, see :class:`Kvs`, with the target column ``DispFrames``.

    ``split``: rows of neighbouring seconds resemble each other, so that random folds, also the file's, are kinder than
    the future is; ``time`` tests the end of the trace. A pair has no split of its own, and folds are drawn.

    Source: R. Yanggratoke et al., "Predicting service metrics for cluster-based services using real-time analytics",
    CNSM 2015. No licence is stated for the hour.
    """

    Config = VodConfig
    config: VodConfig

    def load(self) -> TaskData:
        """Return inputs (n, features) and targets (n,), frames/s, both float32.

        Raises:
            DataError: the data are missing or damaged.
        """
        known = [f"kth_traces/{_PACKED}", _PACKED, *(f"vod/{name}" for name in _PAIR)]
        needs = f"a trace of a video service: a packed npz ({_PACKED}), or X.csv beside Y.csv with DispFrames"
        path = locate(self.config.data, known, _PAIR, task=self.name, needs=needs, page=_PAGE)
        source = f"KTH video on demand, {path}"
        if path.suffix != ".npz":
            return self.assemble(*_read_pair(path, "DispFrames"), None, source)
        file = PackedFile(path, ("y_frames_per_s", "X", "names", "split"))
        x = file.matrix("X")
        names = file.names("names", x.shape[1])
        return self.assemble(x, file.numbers("y_frames_per_s"), names, file.folds(), source)


class Kvs(_Trace):
    """A key-value store: mean response times in ms, from statistics of its servers and of the network.

    Reads a pair of csv files, plain or gzipped: X.csv with a column a statistic, and Y.csv beside it with the measured
    service metrics; the same rows in both, by time. Columns that say the time are no features.

    The traces, of some 20,000 rows and 1,000 and more statistics each, are large archives of the KTH testbed: "KV
    periodic" and "KV flashcrowd" of JNSM 2017. Extract one and name its folder. ``nmpqat/mesh`` is the nearest set that
    is small.

    ``split``: as of :class:`Vod`, random folds are kinder than the future; ``time`` tests the end of the trace.

    Source: R. Yanggratoke et al., CNSM 2015; R. Stadler, R. Pasquini, V. Fodor, "Learning from Network Device
    Statistics", JNSM 2017.
    """

    Config = KvsConfig
    config: KvsConfig

    def load(self) -> TaskData:
        """Return inputs (n, features) and targets (n,), ms, both float32.

        Raises:
            DataError: the data are missing or damaged.
            UsageError: Y.csv has no such target.
        """
        known = [f"{folder}/{name}" for folder in ("kvs", "kth_traces/kvs") for name in _PAIR]
        needs = "a trace of the KTH key-value store, X.csv beside Y.csv with ReadsAvg and WritesAvg"
        path = locate(self.config.data, known, _PAIR, task=self.name, needs=needs, page=_PAGE)
        return self.assemble(*_read_pair(path, self.config.target), None, f"KTH key-value store, {path}")


def _read_pair(path: Path, target: str) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]:
    """Return features (n, features), the target (n,) and the features' names."""
    if not path.name.startswith("X"):
        raise DataError(
            f"{path} is no X.csv", "name the X.csv of a pair; its targets are read from the Y.csv beside it"
        )
    beside = path.with_name("Y" + path.name[1:])
    if not beside.is_file():
        raise DataError(f"{path} has no {beside.name} beside it", "put both files of the trace into one folder")
    names, metrics = read_header(path), read_header(beside)
    if target not in metrics:
        raise UsageError(f"{beside} has no column {target!r}", did_you_mean(target, metrics))
    features = [place for place, name in enumerate(names) if name.lower() not in _TIMES]
    if not features:
        raise DataError(f"{path} has no column but times: {', '.join(map(repr, names))}")
    x = read_numbers(path, columns=features, header=True, dtype=np.float64)
    y = read_numbers(beside, columns=[metrics.index(target)], header=True, dtype=np.float64)[:, 0]
    if len(x) != len(y):
        raise DataError(f"{path} has {len(x)} rows and {beside.name} has {len(y)}", "they are of different traces")
    _check_times(path, names, beside, metrics)
    return x, y, tuple(names[place] for place in features)


def _check_times(path: Path, names: list[str], beside: Path, metrics: list[str]) -> None:
    """Raise DataError if both files say the time of each row and do not agree."""
    shared = [name for name in names if name in metrics and name and name.lower() in _TIMES]
    for name in shared:
        times = (_texts(file, found.index(name)) for file, found in ((path, names), (beside, metrics)))
        differing = np.flatnonzero(np.not_equal(*times))
        if len(differing):
            raise DataError(f"{path} and {beside.name} differ in {name!r}, first in row {differing[0]}")


def _texts(path: Path, column: int) -> NDArray[Any]:
    texts: NDArray[Any] = read_numbers(path, columns=[column], header=True, dtype=str)[:, 0]
    return texts


def _kept(names: tuple[str, ...], drop: tuple[str, ...], source: str) -> list[int]:
    for pattern in drop:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{source}: {pattern!r} matches no feature", did_you_mean(pattern, names))
    return [place for place, name in enumerate(names) if not any(fnmatchcase(name, pattern) for pattern in drop)]
