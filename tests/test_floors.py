"""The house of design.md, section 3: a room imports only from floors below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "qcore"

FLOORS = (
    "tensor",
    "backends",
    "quantizers",
    "routers",
    "nn",
    "export",
    "measure",
    "tasks",
    "training",
    "methods",
    "runs",
    "cli",
)
"""Bottom to top."""

OUTSIDE = {
    "__init__",
    "__main__",
    "api",
    "builtin",
    "errors",
    "foreign",
    "hookspecs",
    "lazy",
    "plugins",
    "registry",
    "testing",
}
"""What stands beside the floors: all may import it, and it may import all."""

EXCEPTIONS = {
    ("methods/base.py", "qcore.runs.report"): "the type of what Method.sections() returns, for type checkers alone",
}
"""Imports from a floor above, each with its reason."""


def rooms() -> set[str]:
    return {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def imported(source: str) -> Iterator[str]:
    """Yield each module of qcore that ``source`` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import, which this test does not follow"
            if node.module == "qcore":
                yield from (f"qcore.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def from_above(room: str, source: str) -> list[str]:
    """Return what a module of ``room`` imports from floors above it."""
    floors = [(name, name.split(".")[1]) for name in imported(source) if name.startswith("qcore.")]
    return [name for name, floor in floors if floor in FLOORS and FLOORS.index(floor) > FLOORS.index(room)]


def test_every_room_has_its_floor() -> None:
    assert rooms() == set(FLOORS) | OUTSIDE


def test_no_module_imports_from_a_floor_above() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for room in FLOORS
        for path in (ROOT / room).rglob("*.py")
        for name in from_above(room, path.read_text(encoding="utf-8"))
    }
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    "source",
    [
        "import qcore.nn.plan",
        "from qcore.nn import PlanBuilder",
        "from qcore import nn",
        "def late():\n    from qcore.nn.plan import compile_plan",
        "if TYPE_CHECKING:\n    from qcore.nn.plan import PlanBuilder",
    ],
)
def test_an_import_is_seen_wherever_it_stands(source: str) -> None:
    assert len(from_above("routers", source)) == 1
    assert from_above("nn", source) == [] == from_above("cli", source)
