from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import qcore

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))
FIXTURES = sorted(ROOT.glob("tests/fixtures/*/pyproject.toml"))
ALL = [ROOT / "pyproject.toml", *PLUGINS, *FIXTURES]


def read(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def requirements(path: Path) -> list[str]:
    """Return every requirement of a project: run time, extras, groups and build."""
    data = read(path)
    project = data["project"]
    found = [*project.get("dependencies", []), *data["build-system"]["requires"]]
    for extra in project.get("optional-dependencies", {}).values():
        found += extra
    for group in data.get("dependency-groups", {}).values():
        found += [item for item in group if isinstance(item, str)]
    return found


def distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def label(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def test_the_plugins_are_found():
    assert PLUGINS and FIXTURES


@pytest.mark.parametrize("path", ALL, ids=label)
def test_no_project_requires_the_foreign_package_called_qcore(path):
    assert "qcore" not in {distribution(requirement) for requirement in requirements(path)}


@pytest.mark.parametrize("path", [*PLUGINS, *FIXTURES], ids=label)
def test_a_plugin_pins_the_core_to_one_minor_version(path):
    major, minor = (int(part) for part in qcore.__version__.split(".")[:2])
    assert major == 0
    pins = [requirement for requirement in requirements(path) if distribution(requirement) == "qcore-ml"]
    assert [pin.replace(" ", "") for pin in pins] == [f"qcore-ml>=0.{minor},<0.{minor + 1}"]


def test_the_core_requires_no_plugin():
    assert not [r for r in requirements(ROOT / "pyproject.toml") if distribution(r).startswith("qcore")]


def test_torch_has_no_upper_bound():
    for path in ALL:
        assert not [r for r in requirements(path) if distribution(r) == "torch" and "<" in r]


@pytest.mark.parametrize("path", [*PLUGINS, *FIXTURES], ids=label)
def test_a_plugin_is_named_after_its_entry_point_and_its_package(path):
    data = read(path)
    entries = data["project"]["entry-points"]["qcore.plugins.v1"]
    (name,) = entries
    assert data["project"]["name"] == f"qcore-{name.replace('_', '-')}"
    assert entries[name].partition(".")[0] == f"qcore_{name}"
    assert (path.parent / f"qcore_{name}" / "__init__.py").is_file()


@pytest.mark.parametrize("path", ALL, ids=label)
def test_a_project_is_typed_and_has_a_readme(path):
    readme = path.parent / read(path)["project"]["readme"]
    assert readme.is_file() and readme.read_text(encoding="utf-8").strip()
    packages = [folder for folder in path.parent.glob("qcore*") if folder.is_dir()]
    assert packages
    for package in packages:
        assert (package / "py.typed").is_file()


def test_the_core_names_no_plugin():
    names = sorted(path.parent.name.replace("_", "[-_]") for path in PLUGINS)
    pattern = re.compile("|".join(rf"\b(?:qcore[-_])?{name}\b" for name in names))  # a paper may be cited by its title
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted((ROOT / "qcore").rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", PLUGINS, ids=label)
def test_a_plugin_imports_the_core_and_nothing_else_of_the_repository(path):
    own = path.parent.name
    others = {other.parent.name for other in PLUGINS} - {own}
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sorted(path.parent.glob("qcore_*/**/*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(?:from|import)\s+qcore_(\w+)", line) and any(f"qcore_{other}" in line for other in others)
    ]
    assert found == []


def test_requirements_txt_installs_the_core_and_every_plugin():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    editable = {line.split()[1].partition("[")[0] for line in lines if line.startswith("-e")}
    assert editable == {".", *(f"./{label(path)}" for path in PLUGINS)}
