"""Fixtures: plugins made by hand, as folders of metadata on ``sys.path``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qcore.plugins import Framework

Publish = Callable[..., Path]

GOOD = """
from qcore import QuantizerSpec, hookimpl

@hookimpl
def qcore_quantizers():
    return [QuantizerSpec(name="plain", target="qcore.quantizers.integer:IntQuantizer", summary="for tests")]
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No switches from outside, a working directory of its own, and no module of a test left behind."""
    for variable in ("QCORE_PLUGINS", "QCORE_DISABLE_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Return a function that makes an installed plugin: its module and its dist-info, in a folder on ``sys.path``."""

    def make(
        name: str,
        source: str = GOOD,
        *,
        distribution: str | None = None,
        version: str = "1.0",
        group: str = "qcore.plugins.v1",
        folder: str = "site",
        module: str | None = None,
        entry_points: str | None = None,
    ) -> Path:
        distribution = distribution or f"qcore-{name.replace('_', '-')}"
        module = module or f"{distribution.replace('-', '_')}_module"
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: a plugin of the tests\n"
        )
        with (info / "entry_points.txt").open("a") as file:
            file.write(entry_points or f"[{group}]\n{name} = {module}\n")
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        return site

    return make


@pytest.fixture
def load() -> Callable[..., Framework]:
    """Return a function that loads the named plugins alone, whatever else is installed."""
    return lambda *names: Framework(only=names, config={})
