"""Sources: where a plugin's code comes from, and how it is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from qcore.errors import PluginError
from qcore.plugins.provenance import files_sha256

__all__ = ["Source", "import_object", "import_path", "is_path", "module_of"]


@dataclass(frozen=True)
class Source:
    """Code that a user named, not imported yet.

    Attributes:
        name: the plugin's name unless another is given.
        load: imports it.
        address: what names it in another process: a path or a module's name; None if nothing does.
        file: its path, if it was named by one.
    """

    name: str
    load: Callable[[], Any]
    address: str | None
    file: str | None = None

    @classmethod
    def of(cls, module: ModuleType | str | Path) -> Source:
        """Return the source for a module, a module's name, or a path."""
        if isinstance(module, ModuleType):
            return cls(module.__name__.rpartition(".")[2], lambda: module, _address(module))
        if is_path(module):
            path = Path(module).resolve()
            return cls(path.stem, partial(import_path, path), str(path), str(path))
        return cls(str(module).rpartition(".")[2], partial(import_object, str(module)), str(module))


def is_path(reference: str | Path) -> bool:
    """Return whether ``reference`` is a path: a ``Path``, or a string with a slash or the suffix ``.py``."""
    return isinstance(reference, Path) or reference.endswith(".py") or "/" in reference or os.sep in reference


def import_object(value: str) -> Any:
    """Import ``package.module`` or ``package.module:object``, the value of an entry point."""
    module, _, path = value.partition(":")
    found: Any = importlib.import_module(module.strip())
    for attribute in path.strip().split(".") if path else ():
        found = getattr(found, attribute)
    return found


def import_path(path: Path) -> ModuleType:
    """Import a ``.py`` file, or a folder with an ``__init__.py``, under a name of its own; ``sys.path`` is left alone.

    The name carries a hash of path and content: one file is one module, and an edited file is a new one. The module
    is in ``sys.modules`` before it runs, so that its relative imports and its dataclasses work.

    Raises:
        PluginError: there is no such file, or it is no Python.
    """
    path = path.resolve()
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file():
        raise PluginError(f"there is no plugin file {source}")
    if source.suffix != ".py":
        raise PluginError(f"{source} is not a Python file")
    name = f"qcore_local_{path.stem.replace('-', '_')}_{files_sha256(path, salt=str(path))[:12]}"
    return sys.modules.get(name) or _execute(name, source)


def _execute(name: str, source: Path) -> ModuleType:
    inside = [str(source.parent)] if source.name == "__init__.py" else None
    loader = _Uncached(name, str(source))
    spec = spec_from_file_location(name, source, loader=loader, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise PluginError(f"{source} cannot be imported")
    module = module_from_spec(spec)
    sys.modules[name] = module
    finished = False
    try:
        spec.loader.exec_module(module)
        finished = True
    finally:
        if not finished:
            sys.modules.pop(name, None)
    return module


class _Uncached(SourceFileLoader):
    """Compiles the source each time: a cached file edited twice within a second would still be its old self."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def module_of(plugin: Any) -> ModuleType:
    """Return the module of a plugin, which may be a module or an object in one."""
    if isinstance(plugin, ModuleType):
        return plugin
    return sys.modules[getattr(plugin, "__module__", None) or type(plugin).__module__]


def _address(module: ModuleType) -> str | None:
    if module.__name__ != "__main__" and getattr(module, "__spec__", None) is not None:
        return module.__name__
    return getattr(module, "__file__", None)
