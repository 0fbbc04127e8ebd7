from __future__ import annotations

from pathlib import Path

import pytest

from qcore.errors import DataError
from qcore.tasks.paths import locate, resolve_data


def test_the_working_directory_comes_before_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, names in ((here, ["a"]), (there, ["a", "b"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(str(folder))
    monkeypatch.chdir(here)
    monkeypatch.setenv("QCORE_DATA", str(there))
    assert resolve_data("a", "t", "a file").read_text() == str(here)
    assert resolve_data("b", "t", "a file").read_text() == str(there)
    assert resolve_data(str(there / "a"), "t", "a file").read_text() == str(there)


def test_missing_data_say_what_is_needed_and_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"core/table needs a file, but there is nothing at gone.csv or .*gone.csv"):
        resolve_data("gone.csv", "core/table", "a file")
    monkeypatch.delenv("QCORE_DATA")
    with pytest.raises(DataError, match="set QCORE_DATA"):
        resolve_data("gone.csv", "core/table", "a file")
    with pytest.raises(DataError, match="core/table needs a file"):
        resolve_data(None, "core/table", "a file")


def found(data: Path | None, names: tuple[str, ...] = ("set/a.npz", "a.csv"), inside: tuple[str, ...] = ()) -> Path:
    given = None if data is None else str(data)
    return locate(given, names, inside, task="x/y", needs="the set", page="example.org")


def test_a_set_is_where_the_user_says_or_under_its_usual_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    (tmp_path / "a.csv").touch()
    (tmp_path / "other.csv").touch()
    assert found(tmp_path / "other.csv") == tmp_path / "other.csv"
    assert found(tmp_path) == found(None) == tmp_path / "a.csv"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.npz").touch()
    assert found(None) == tmp_path / "set" / "a.npz"  # the first name is the best
    assert found(tmp_path / "set", names=(), inside=("a.npz",)) == tmp_path / "set" / "a.npz"


def test_a_set_that_is_not_found_says_what_to_get_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)
    with pytest.raises(DataError, match="x/y needs the set; no data were named and QCORE_DATA is not set") as caught:
        found(None)
    assert "get it from example.org" in str(caught.value)
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    for given in (None, tmp_path):
        with pytest.raises(DataError, match=r"holds none of set/a.npz, a.csv"):
            found(given)
