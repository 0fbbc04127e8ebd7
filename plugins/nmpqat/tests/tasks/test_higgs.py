from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcore.errors import DataError, UsageError
from qcore_nmpqat.tasks import higgs
from qcore_nmpqat.tasks.higgs import FEATURE_NAMES, Higgs


def task(data: Path, **options: Any) -> Higgs:
    return Higgs(Higgs.Config(data=str(data), **options))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rows = np.random.default_rng(2).normal(size=(30, 29))
    rows[:, 0] = np.arange(30) % 2
    text = "\n".join(",".join(f"{value:.18e}" for value in row) for row in rows)
    path = tmp_path / "HIGGS.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_a_part_of_uci_s_file_has_no_split_of_its_own(csv: Path) -> None:
    data = task(csv).data
    assert data.folds is None and data.feature_names == FEATURE_NAMES
    assert data.targets.tolist() == [i % 2 for i in range(30)]
    assert float(data.inputs[0, 0]) == pytest.approx(np.random.default_rng(2).normal(size=(30, 29))[0, 1])


def test_the_whole_file_is_tested_on_its_end(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(higgs, "_ROWS", 30)
    monkeypatch.setattr(higgs, "_TESTED", 8)
    folds = task(csv).data.folds
    assert folds is not None and folds.tolist() == [-1] * 22 + [0] * 8
    assert task(csv, split="random").data.folds is None


def test_a_limit_reads_the_first_rows_and_draws_folds(csv: Path, pack: Any) -> None:
    whole, some = task(csv).data, task(csv, limit=12).data
    assert some.inputs.equal(whole.inputs[:12]) and some.folds is None and "the first 12 rows" in some.source
    packed = task(pack("higgs"), limit=12).data
    assert len(packed) == 12 and packed.folds is None
    for path in (csv, pack("higgs")):
        with pytest.raises(UsageError, match="fewer than limit=41"):
            _ = task(path, limit=41).data


@pytest.mark.parametrize("kept", [0, 20, -20])
def test_a_truncated_archive_is_refused(kept: int, csv: Path) -> None:
    csv.write_bytes(csv.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read|holds no rows"):
        _ = task(csv).data


def test_labels_other_than_0_and_1_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "HIGGS.csv"
    np.savetxt(path, np.full((3, 29), 2.0), delimiter=",")
    with pytest.raises(DataError, match="its first column holds other labels than 0 to 1"):
        _ = task(path).data
