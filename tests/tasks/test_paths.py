from __future__ import annotations

from pathlib import Path

import pytest

from qcore.errors import DataError
from qcore.tasks.paths import resolve_data


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
