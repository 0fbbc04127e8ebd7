"""Reading CIFAR in one of its published forms, from the archive or from the folder it was extracted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcore.errors import DataError
from qcore.tasks.parts import Part, from_arrays
from qcore_true4bit.tasks.archives import archive_names, read_archive, read_folder
from qcore_true4bit.tasks.checksums import check_digest, file_digest, md5
from qcore_true4bit.tasks.cifar_forms import Batch, Form

__all__ = ["Official", "read_official"]


@dataclass(frozen=True, eq=False)
class Official:
    """What was read.

    Attributes:
        train: training part.
        test: test part.
        class_names: as the files give them; empty if they do not.
        source: which form was read from where, and what was verified.
    """

    train: Part
    test: Part
    class_names: tuple[str, ...]
    source: str


def read_official(path: Path, forms: Sequence[Form], *, title: str, verify: bool) -> Official:
    """Read the first of ``forms`` that ``path`` holds.

    Args:
        path: an archive, or the first training file of an extracted one.
        forms: of the data set.
        title: of the data set, for messages.
        verify: whether checksums other than the published ones are refused.

    Raises:
        DataError: damaged, cut off, of unknown content, or of another checksum.
    """
    extracted = next((form for form in forms if path.name == form.train[0]), None)
    if extracted is not None:
        return _parse(_folder_files(path.parent, extracted, verify), extracted, _folder_source(path, extracted, verify))
    form = _archive_form(path, forms, title, verify)
    return _parse(_archive_files(path, form), form, f"{path}{', MD5 as published' if verify else ', not verified'}")


def _archive_form(path: Path, forms: Sequence[Form], title: str, verify: bool) -> Form:
    if verify:
        found = file_digest(path, "md5")
        likely = [form for form in forms if form.archive == path.name] or forms
        check_digest(str(path), "MD5", found, [form.md5 for form in likely])
        return next(form for form in likely if form.md5 == found)
    names = archive_names(path)
    for form in forms:
        if f"{form.folder}/{form.train[0]}" in names:
            return form
    wanted = " or ".join(f"{form.folder}/{form.train[0]}" for form in forms)
    raise DataError(f"{path} is no archive of {title}: it lacks {wanted}")


def _archive_files(path: Path, form: Form) -> Iterator[tuple[str, bytes]]:
    for name, content in read_archive(path, {f"{form.folder}/{name}" for name in form.files}):
        yield name.removeprefix(f"{form.folder}/"), content


def _folder_files(folder: Path, form: Form, verify: bool) -> Iterator[tuple[str, bytes]]:
    for name, content in read_folder(folder, form.files):
        if verify and name in form.file_md5:
            check_digest(str(folder / name), "MD5", md5(content), [form.file_md5[name]])
        yield name, content


def _folder_source(path: Path, form: Form, verify: bool) -> str:
    if not verify:
        return f"{path.parent}, not verified"
    if form.file_md5:
        return f"{path.parent}, MD5 of the files as published"
    return f"{path.parent}, sizes and labels checked (no checksums of these files are published)"


def _parse(files: Iterator[tuple[str, bytes]], form: Form, source: str) -> Official:
    batches: dict[str, Batch] = {}
    names: tuple[str, ...] = ()
    for name, content in files:
        if name == form.names:
            names = form.read_names(content, name)
        else:
            batches[name] = form.read(content, name)
    train = [batches[name] for name in form.train]
    return Official(_part(train), _part([batches[form.test]]), names, f"{form.title}, {source}")


def _part(batches: list[Batch]) -> Part:
    return from_arrays(
        np.concatenate([batch.pixels for batch in batches]), np.concatenate([batch.labels for batch in batches])
    )
