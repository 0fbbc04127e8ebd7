from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError, UsageError
from qcore.tasks import make_folds
from qcore_true4bit.tasks.cifar import Cifar10, Cifar100

Kind = tuple[type[Any], str]
Files = dict[str, bytes]
Write = Callable[..., Files]

BINARY10, PYTHON10 = (Cifar10, "cifar-10-batches-bin"), (Cifar10, "cifar-10-batches-py")
BINARY100, PYTHON100 = (Cifar100, "cifar-100-binary"), (Cifar100, "cifar-100-python")
KINDS = (BINARY10, PYTHON10, BINARY100, PYTHON100)
ARCHIVES = {
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
}
NAMES100 = [f"thing_{number}" for number in range(100)]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)


@pytest.fixture
def content(pickled: Any, pixels: Any) -> Callable[[Kind], tuple[Files, NDArray[np.uint8], list[int]]]:
    """Make the files of a form, and the pixels and labels that they hold in the task's order."""

    def make(kind: Kind, per_batch: int = 200) -> tuple[Files, NDArray[np.uint8], list[int]]:
        task, folder = kind
        names = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
        names = names if task is Cifar10 else ("train", "test")
        files, all_pixels, all_labels = {}, [], []
        for name in names:
            data, labels = pixels(per_batch), [number % (10 if task is Cifar10 else 100) for number in range(per_batch)]
            all_pixels.append(data)
            all_labels += labels
            files |= _file(kind, name, data, labels, pickled)
        if task is Cifar100:
            meta = pickled({"fine_label_names": NAMES100, "coarse_label_names": ["a"]})
            files |= {"meta": meta} if folder.endswith("python") else {"fine_label_names.txt": _lines(NAMES100)}
        return files, np.concatenate(all_pixels), all_labels

    return make


def _file(kind: Kind, name: str, data: NDArray[np.uint8], labels: list[int], pickled: Any) -> Mapping[str, bytes]:
    task, folder = kind
    if "bin" not in folder:
        coarse = {} if task is Cifar10 else {"coarse_labels": [0] * len(labels)}
        key = "labels" if task is Cifar10 else "fine_labels"
        return {name: pickled({"batch_label": name, **coarse, key: labels, "data": data, "filenames": ["x.png"]})}
    column = np.array(labels, dtype=np.uint8)[:, None]
    columns = [column, data] if task is Cifar10 else [np.full_like(column, 99), column, data]
    return {f"{name}.bin": np.concatenate(columns, axis=1).tobytes()}


def _lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def unpacked(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def task_of(kind: Kind, data: Path | None, **options: Any) -> Any:
    return kind[0](kind[0].Config(**{"data": None if data is None else str(data), "verify": False} | options))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
@pytest.mark.parametrize("as_archive", [True, False], ids=["archive", "folder"])
def test_every_form_gives_the_same_data(
    kind: Kind, as_archive: bool, content: Any, tarred: Any, tmp_path: Path
) -> None:
    files, expected, labels = content(kind)
    if as_archive:
        path = tarred(tmp_path / "any.tar.gz", {f"{kind[1]}/{name}": raw for name, raw in files.items()})
    else:
        path = unpacked(tmp_path / kind[1], files)
    task = task_of(kind, path)
    data = task.data
    assert data.inputs.dtype == torch.uint8 and tuple(data.inputs.shape) == (len(expected), 3, 32, 32)
    assert data.inputs.flatten(1).equal(torch.from_numpy(expected))
    assert data.targets.tolist() == labels
    assert data.folds is not None and data.folds.tolist() == [-1] * (len(labels) - 200) + [0] * 200
    assert ("python version" if "py" in kind[1] else "binary version") in data.source
    assert "not verified" in data.source
    fold = make_folds(task)
    assert len(fold) == 1 and len(fold[0].test) == 200
    assert task.metric == "accuracy" and task.higher_is_better and task.out_features == task.classes


def test_class_names_are_the_official_ones(content: Any, tmp_path: Path) -> None:
    for kind in KINDS:
        data = task_of(kind, unpacked(tmp_path / kind[1], content(kind)[0])).data
        assert data.class_names == (tuple(NAMES100) if kind[0] is Cifar100 else Cifar10.class_names)
    assert Cifar10.class_names[0] == "airplane" and Cifar10.class_names[9] == "truck"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_data_are_found_under_their_usual_names(
    kind: Kind, content: Any, tarred: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = content(kind)[0]
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    unpacked(tmp_path / kind[0].__name__.lower() / kind[1], files)
    assert str(tmp_path / kind[0].__name__.lower() / kind[1]) in task_of(kind, None).data.source
    unpacked(tmp_path / kind[1], files)
    assert str(tmp_path / kind[1]) in task_of(kind, None).data.source
    archive = tarred(tmp_path / ARCHIVES[kind[1]], {f"{kind[1]}/{name}": raw for name, raw in files.items()})
    assert str(archive) in task_of(kind, None).data.source
    assert task_of(kind, tmp_path).data.digest == task_of(kind, archive).data.digest


@pytest.mark.parametrize("task", [Cifar10, Cifar100])
def test_missing_data_say_what_is_needed_and_where_it_is(
    task: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="QCORE_DATA is not set") as caught:
        _ = task().data
    assert "www.cs.toronto.edu/~kriz/cifar.html" in str(caught.value)
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="holds none of") as caught:
        _ = task().data
    for form in task.forms:
        assert form.archive in caught.value.message and f"{form.folder}/{form.train[0]}" in caught.value.message
    assert ("cifar10_jpeg.npz" in caught.value.message) == (task is Cifar10)


def test_other_checksums_are_refused(content: Any, tarred: Any, tmp_path: Path) -> None:
    files = content(PYTHON10)[0]
    path = tarred(tmp_path / "cifar-10-python.tar.gz", {f"{PYTHON10[1]}/{name}": raw for name, raw in files.items()})
    with pytest.raises(DataError, match=r"has the MD5 [0-9a-f]{32}, expected c58f30108f718f92721af3b95e74349a\n"):
        _ = task_of(PYTHON10, path, verify=True).data
    with pytest.raises(DataError, match=r"expected c32a1\w+ or c58f3\w+\n.*task\.verify=false"):
        _ = task_of(PYTHON10, path.rename(tmp_path / "any.tgz"), verify=True).data
    folder = unpacked(tmp_path / PYTHON10[1], files)
    with pytest.raises(DataError, match=r"data_batch_1 has the MD5 .* expected c99cafc152244af753f735de768cd75f"):
        _ = task_of(PYTHON10, folder, verify=True).data


def test_extracted_records_are_checked_by_their_counts(content: Any, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / BINARY10[1], content(BINARY10)[0])
    with pytest.raises(DataError, match="1000 training images, expected 50000") as caught:
        _ = task_of(BINARY10, folder, verify=True).data
    assert "no checksums of these files are published" in caught.value.message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_cut_off_files_are_refused(kind: Kind, content: Any, tmp_path: Path) -> None:
    files = content(kind)[0]
    folder = unpacked(tmp_path / kind[1], files)
    last = next(name for name in files if "test" in name)
    for length in (0, 1000, len(files[last]) - 1):
        (folder / last).write_bytes(files[last][:length])
        with pytest.raises(DataError, match=last):
            _ = task_of(kind, folder).data
    (folder / last).unlink()
    with pytest.raises(DataError, match=f"{last} cannot be read"):
        _ = task_of(kind, folder).data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1])
def test_labels_beyond_the_classes_are_refused(kind: Kind, pickled: Any, content: Any, tmp_path: Path) -> None:
    files = content(kind)[0]
    name = next(name for name in files if "test" in name)
    data = np.zeros((1, 3072), dtype=np.uint8)
    files |= _file(kind, name.removesuffix(".bin"), data, [100], pickled)
    with pytest.raises(DataError, match=r"labels run from 100 to 100, but there are \d+ classes"):
        _ = task_of(kind, unpacked(tmp_path / kind[1], files)).data


def test_pickled_batches_of_another_shape_are_refused(pickled: Any, content: Any, pixels: Any, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / PYTHON10[1], content(PYTHON10)[0])
    for entries, match in (
        ({"labels": [1, 2]}, "no array 'data'"),
        ({"data": pixels(2)[:, :12], "labels": [1, 2]}, "no array 'data'"),
        ({"data": pixels(2)}, "no list 'labels'"),
        ({"data": pixels(2), "labels": ["1", "2"]}, "no list 'labels'"),
        ({"data": pixels(2), "labels": [1]}, "2 images and 1 labels"),
    ):
        (folder / "test_batch").write_bytes(pickled(entries))
        with pytest.raises(DataError, match=match):
            _ = task_of(PYTHON10, folder).data


def test_an_evil_batch_is_refused_and_runs_nothing(content: Any, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / PYTHON10[1], content(PYTHON10)[0])
    command = f"touch {tmp_path / 'touched'}".encode()
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(U" + bytes([len(command)]) + command + b"tR.")
    with pytest.raises(DataError, match=r"test_batch is not a batch .*it names 'os\.system'"):
        _ = task_of(PYTHON10, folder).data
    assert not (tmp_path / "touched").exists()


def test_class_names_must_be_a_hundred_different_ones(content: Any, pickled: Any, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / BINARY100[1], content(BINARY100)[0])
    for names in (NAMES100[:99], [*NAMES100[:99], NAMES100[0]]):
        (folder / "fine_label_names.txt").write_bytes(_lines(names))
        with pytest.raises(DataError, match="names 99 different classes, expected 100"):
            _ = task_of(BINARY100, folder).data
    (folder / "fine_label_names.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="no list of class names"):
        _ = task_of(BINARY100, folder).data
    folder = unpacked(tmp_path / PYTHON100[1], content(PYTHON100)[0])
    (folder / "meta").write_bytes(pickled({"fine_label_names": [1]}))
    with pytest.raises(DataError, match="no list 'fine_label_names'"):
        _ = task_of(PYTHON100, folder).data


def test_archives_of_something_else_are_refused(tarred: Any, tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar.gz", {"../data_batch_1": b"", "other/data_batch_1": b""})
    with pytest.raises(DataError, match="no archive of CIFAR-10: it lacks cifar-10-batches-bin/data_batch_1.bin or"):
        _ = task_of(PYTHON10, path).data
    (tmp_path / "y.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"y\.tar\.gz is no tar\.gz archive"):
        _ = task_of(PYTHON10, tmp_path / "y.tar.gz").data


def test_a_limit_is_the_same_of_each_class(content: Any, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / BINARY10[1], content(BINARY10)[0])
    data = task_of(BINARY10, folder, limit=50).data
    assert data.targets.bincount().tolist() == [10] * 10 and len(data) == 100
    with pytest.raises(UsageError, match="each of 10 classes"):
        _ = task_of(BINARY10, folder, limit=9).data
