from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from qcore.errors import DataError
from qcore_true4bit.tasks import archives
from qcore_true4bit.tasks.archives import archive_names, read_archive, read_folder


def test_the_wanted_files_are_read_and_nothing_is_written(tmp_path: Path, tarred: Any) -> None:
    path = tarred(tmp_path / "x.tar.gz", {"./f/a": b"1", "f/b": b"22", "f/c": b"3"})
    before = sorted(tmp_path.rglob("*"))
    assert archive_names(path) == {"f/a", "f/b", "f/c"}
    assert dict(read_archive(path, {"f/a", "f/b"})) == {"f/a": b"1", "f/b": b"22"}
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_lead_out_of_the_archive_lead_nowhere(tmp_path: Path, tarred: Any) -> None:
    (tmp_path / "in").mkdir()
    path = tarred(tmp_path / "in" / "x.tar.gz", {"../f/a": b"1", "/f/a": b"1", "f/../f/a": b"1"})
    with pytest.raises(DataError, match="lacks f/a"):
        list(read_archive(path, {"f/a"}))
    assert [found.name for found in sorted(tmp_path.rglob("*"))] == ["in", "x.tar.gz"]


def test_links_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for kind, name in ((tarfile.SYMTYPE, "f/a"), (tarfile.LNKTYPE, "f/b"), (tarfile.FIFOTYPE, "f/c")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret")
            archive.addfile(member)
    with pytest.raises(DataError, match="lacks f/a, f/b, f/c"):
        list(read_archive(tmp_path / "x.tar.gz", {"f/a", "f/b", "f/c"}))


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for content in (b"1", b"2"):
            member = tarfile.TarInfo("f/a")
            member.size = 1
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="f/a twice"):
        list(read_archive(tmp_path / "x.tar.gz", {"f/a"}))


def test_cut_and_damaged_archives_are_refused(tmp_path: Path, tarred: Any) -> None:
    content = bytes(range(256)) * 64
    path = tarred(tmp_path / "x.tar.gz", {"f/a": content, "f/b": content[::-1]})
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for raw in (b"", b"no archive", whole[:10], whole[: len(whole) // 2], whole[:-12], bytes(damaged)):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"x\.tar\.gz"):
            list(read_archive(path, {"f/a", "f/b"}))


def test_files_larger_than_any_official_one_are_refused(
    tmp_path: Path, tarred: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MAX_NBYTES", 100)
    path = tarred(tmp_path / "x.tar.gz", {"f/a": bytes(101)})
    with pytest.raises(DataError, match="101 bytes"):
        list(read_archive(path, {"f/a"}))
    (tmp_path / "a").write_bytes(bytes(101))
    with pytest.raises(DataError, match="101 bytes"):
        list(read_folder(tmp_path, ["a"]))


def test_folders_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert list(read_folder(tmp_path, ["b", "a"])) == [("b", b"b"), ("a", b"a")]
    with pytest.raises(DataError, match="c cannot be read: No such file"):
        list(read_folder(tmp_path, ["a", "c"]))


def test_errors_of_the_caller_pass_unchanged(tmp_path: Path, tarred: Any) -> None:
    path = tarred(tmp_path / "x.tar.gz", {"f/a": b"1"})
    with pytest.raises(OSError, match="mine"):
        for _ in read_archive(path, {"f/a"}):
            raise OSError("mine")
