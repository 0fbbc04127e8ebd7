"""atomic_write: a file appears whole or not at all, and what stood there still stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qcore.errors import QcoreError
from qcore.export import atomic_write


def fail(code: int, text: str) -> object:
    def raising(*args: object, **options: object) -> object:
        raise OSError(code, text)

    return raising


def test_the_file_is_written_and_no_other_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert atomic_write(path, b"one") == path
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_is_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        mode = atomic_write(tmp_path / "x", b"").stat().st_mode & 0o777
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert mode == 0o640


@pytest.mark.parametrize("step", ["os.fsync", "os.fdopen", "pathlib.Path.replace", "tempfile.mkstemp"])
@pytest.mark.parametrize(("code", "text"), [(28, "No space left on device"), (13, "Permission denied")])
def test_a_failure_at_any_step_leaves_what_was_there(
    step: str, code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"earlier")
    with monkeypatch.context() as patch:
        patch.setattr(step, fail(code, text))
        with pytest.raises(QcoreError, match=text) as caught:
            atomic_write(path, b"later")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder_of_that_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QcoreError, match="No such file"):
        atomic_write(tmp_path / "nope" / "x", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(QcoreError, match="directory"):
        atomic_write(tmp_path / "folder", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    temporary = tmp_path / ".x.tmp"
    temporary.touch()
    monkeypatch.setattr("tempfile.mkstemp", lambda **options: (full, str(temporary)))
    with pytest.raises(QcoreError, match=r"(?s)No space left on device.*earlier files are intact"):
        atomic_write(tmp_path / "x", b"data" * 10_000)
    assert list(tmp_path.iterdir()) == []
