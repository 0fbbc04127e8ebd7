"""What a run is told: defaults < file < environment < flags. Each later one wins, key by key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qcore.errors import ConfigError, UsageError, did_you_mean

__all__ = ["collect", "parse_assignments", "parse_seeds", "parse_workers", "read_file"]


TEXT = (str, "text in quotes")
WANTED: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "plugin": TEXT,
    "task": ((str, dict), "text in quotes, or a table [task]"),
    "backend": TEXT,
    "out": TEXT,
    "method": (dict, "a table [method]"),
}
"""Types of what is looked at before ``RunConfig`` checks the rest."""


def collect(
    file: Path | None, flags: Mapping[str, Any], assignments: Iterable[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the options of a run, as ``qcore.runs.config.RunConfig`` takes them, and ``out``.

    Args:
        file: a TOML file, or None.
        flags: what was given on the command line; None where a flag was not given.
        assignments: ``key=value`` of ``--set``; ``task.key=value`` is an option of the task.
        environment: ``QCORE_WORKERS`` and ``QCORE_BACKEND`` are looked at.

    Raises:
        UsageError: the file, an assignment or a number is malformed.
    """
    values: dict[str, Any] = {"settings": {}, "task_options": {}}
    for layer in (read_file(file) if file else {}, from_environment(environment), from_assignments(assignments), flags):
        values = _merge(values, {key: value for key, value in layer.items() if value is not None})
    return _with_task_for_data(values)


def read_file(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file: keys of a run, ``[method]`` and ``[task]``, whose ``name`` names the task.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a value of a wrong type.
    """
    from qcore.runs.config import RunConfig

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    known = [*(RunConfig.model_fields.keys() - {"settings", "task_options"}), "method", "out"]
    for key in data:
        if key not in known:
            raise ConfigError(f"{path}: unknown option {key!r}", did_you_mean(key, known))
    for key, (types, wanted) in WANTED.items():
        if key in data and not isinstance(data[key], types):
            raise ConfigError(f"{path}: {key} must be {wanted}, got {data[key]!r}")
    task, method = data.pop("task", {}), data.pop("method", {})
    options = {"name": task} if isinstance(task, str) else dict(task)
    name = options.pop("name", None)
    if not isinstance(name, str | None):
        raise ConfigError(f"{path}: name in [task] must be {TEXT[1]}, got {name!r}")
    return {**data, "task": name, "settings": method, "task_options": options}


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that environment variables give; ``QCORE_DATA`` is looked at by the tasks."""
    workers = environment.get("QCORE_WORKERS")
    return {
        "workers": parse_workers(workers, "QCORE_WORKERS") if workers else None,
        "backend": environment.get("QCORE_BACKEND") or None,
    }


def from_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the method's and the task's options that ``--set`` gives."""
    values = parse_assignments(assignments)
    task = values.pop("task", {})
    if not isinstance(task, dict):
        raise UsageError(f"--set task={task}: the task is named by --task", "its options: --set task.key=value")
    return {"settings": values, "task_options": task}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return ``key=value`` pairs as data: JSON where the value is JSON, else text; ``a.b=c`` nests.

    Raises:
        UsageError: one of them is malformed.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not sign or not all(parts):
            raise UsageError(f"--set {assignment}: not of the form key=value", "such as: --set epochs=20")
        nested: Any = _value(text)
        for part in reversed(parts):
            nested = {part: nested}
        values = _merge(values, nested)
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``lower`` with ``upper`` laid over it; tables are merged key by key."""
    merged = dict(lower)
    for key, value in upper.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_task_for_data(values: dict[str, Any]) -> dict[str, Any]:
    """Name the task that reads the data, where data were given but no task."""
    data = values["task_options"].get("data")
    if values.get("task") is not None or data is None:
        return values
    from qcore.tasks.paths import resolve_data

    folder = resolve_data(str(data), "the run", "a csv, parquet or npz file, or a folder of images").is_dir()
    return {**values, "task": "core/images" if folder else "core/table"}


def parse_seeds(text: str | None) -> int | list[int] | None:
    """Return a count of seeds, ``5``, or the seeds themselves, ``0,3,7``.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text}: not a number, nor numbers with commas", "such as 5, or 0,1,2") from None
    return numbers if "," in text else numbers[0]


def parse_workers(text: str | None, source: str = "--workers") -> int | str | None:
    """Return a number of processes, or ``auto``.

    Raises:
        UsageError: it is neither.
    """
    if text is None or text == "auto":
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{source} {text}: not a number of processes", "such as 2, or auto")
    return number
