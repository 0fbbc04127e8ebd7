"""Provenance: which code a plugin was, so that a run can be told from another."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType

__all__ = ["code_root", "files_sha256", "is_editable"]


def code_root(module: ModuleType) -> Path | None:
    """Return the folder of the module's top package, or the file of a module that stands alone, or None."""
    top = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(top, "__file__", None) or getattr(module, "__file__", None)
    if file is None:
        return None
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path


def files_sha256(root: Path, *, salt: str = "") -> str:
    """Return the hash over a file, or over every file below a folder: relative names and contents, caches left out."""
    digest = sha256(salt.encode())
    for file in sorted(_files(root)):
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        digest.update(f"\0{name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return [file for file in root.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def is_editable(distribution: Distribution) -> bool:
    """Return whether the distribution was installed with ``pip install -e`` (PEP 610)."""
    try:
        record = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(record.get("dir_info", {}).get("editable", False))
    except (OSError, ValueError, AttributeError):  # absent or damaged: nobody says that it is
        return False
