"""Small data sets in the forms that the tasks read, and the real ones where QCORE_DATA has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qcore_nmpqat.tasks import covertype, higgs
from qcore_nmpqat.tasks.mesh import DELAYS, DROPS

Arrays = dict[str, NDArray[Any]]
Pack = Callable[..., Path]

ROWS = 40
_GIVEN = os.environ.get("QCORE_DATA")


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)


@pytest.fixture
def research_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the folder of the research data in QCORE_DATA, as it was when the tests were started."""
    if not _GIVEN or not Path(_GIVEN).is_dir():
        pytest.skip("no research data: set QCORE_DATA")
    monkeypatch.setenv("QCORE_DATA", _GIVEN)
    return Path(_GIVEN)


@pytest.fixture
def made() -> dict[str, Arrays]:
    """Arrays of each packed set, by the name of its task."""
    generator = np.random.default_rng(0)
    split = (np.arange(ROWS) % 4 == 0).astype(np.uint8)

    def numbers(columns: int) -> NDArray[np.float32]:
        return generator.normal(size=(ROWS, columns)).astype(np.float32)

    def names(prefix: str, count: int) -> NDArray[np.str_]:
        return np.array([f"{prefix}{i}" for i in range(count)])

    return {
        "covertype": {
            "X_num": generator.integers(-100, 7000, (ROWS, 10)).astype(np.int16),
            "X_bin": generator.integers(0, 2, (ROWS, 44)).astype(np.uint8),
            "y": (np.arange(ROWS) % 7).astype(np.uint8),
            "names": np.array(covertype.FEATURE_NAMES),
            "split": split,
        },
        "higgs": {
            "X": numbers(28),
            "y": (np.arange(ROWS) % 2).astype(np.uint8),
            "names": np.array(higgs.FEATURE_NAMES),
            "split": split,
        },
        "poqemon_qoe": {
            "X": numbers(5),
            "names": names("QoA", 5),
            "X_feedback": generator.integers(0, 5, (ROWS, 4)).astype(np.uint8),
            "names_feedback": names("QoF", 4),
            "X_user": generator.integers(0, 3, (ROWS, 3)).astype(np.uint8),
            "names_user": names("QoU", 3),
            "y": (np.arange(ROWS) % 5).astype(np.uint8),
            "group": (np.arange(ROWS) // 4).astype(np.int32),
            "split": split,
        },
        "vod": {
            "X": numbers(3),
            "names": names("cpu", 3),
            "y_frames_per_s": generator.uniform(10, 30, ROWS).astype(np.float32),
            "time": np.arange(ROWS),
            "split": split,
        },
        "mesh": {
            "X": np.arange(ROWS * 8, dtype=np.float32).reshape(ROWS, 8),
            "names": np.array(["p11", "p21", "b1", "b2", "l1", "l2", "cl1", "cl2"]),
            "Y": generator.uniform(0.01, 0.1, (ROWS, 6)).astype(np.float32),
            "names_y": np.array([*DELAYS, *DROPS]),
            "split": split,
        },
    }


@pytest.fixture
def pack(tmp_path: Path, made: Mapping[str, Arrays]) -> Pack:
    """Write the packed file of a task, with some arrays changed; None leaves an array out."""

    def write(task: str, **changes: Any) -> Path:
        arrays = {key: array for key, array in (made[task] | changes).items() if array is not None}
        path = tmp_path / f"{task}.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Path]:
    """Write X.csv and Y.csv of the given lines, and return their folder."""

    def write(x: str, y: str, suffix: str = ".csv") -> Path:
        (tmp_path / f"X{suffix}").write_text(x, encoding="utf-8")
        (tmp_path / f"Y{suffix}").write_text(y, encoding="utf-8")
        return tmp_path

    return write
