from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from qcore.errors import QcoreError
from qcore.runs.files import atomic_write, atomic_write_json, make_folder, read_json, remove_stale


def test_a_write_makes_the_folder_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QcoreError, match=r"summary\.json.*No space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    path = atomic_write_json(tmp_path / "a.json", {"nan": float("nan"), "list": [float("inf"), 1.5], 3: ("ä",)})
    assert json.loads(path.read_text(encoding="utf-8")) == {"nan": None, "list": [None, 1.5], "3": ["ä"]}


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QcoreError, match="cannot make"):
        make_folder(tmp_path / "file" / "below")


def test_missing_and_damaged_json_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(QcoreError, match="cannot read"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(QcoreError, match="damaged"):
        read_json(tmp_path / "torn.json")


def test_only_temporary_files_are_swept_away(tmp_path: Path) -> None:
    kept = [tmp_path / "model.safetensors", tmp_path / "notes.tmp.txt"]
    stale = tmp_path / "float" / ".model.safetensors.abc123.tmp"
    stale.parent.mkdir()
    for path in (*kept, stale):
        path.write_text("")
    remove_stale(tmp_path)
    assert not stale.exists()
    assert all(path.exists() for path in kept)
