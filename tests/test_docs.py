from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import qcore
from qcore import errors, hookspecs
from qcore.cli.app import app
from qcore.methods import MissingEvidenceError
from qcore.registry import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qcore_docs_build", DOCS / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


builder = load_builder()
PAGES = {path.name: path for path in sorted(DOCS.glob("*.md"))}


def text(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return the part of a page from ``heading`` to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{level}}} |\Z)", text(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no heading {heading!r}"
    return found[1]


def first_cells(table: str) -> list[str]:
    """Return every name in backticks of the first column of the tables in ``table``."""
    return [
        name for row in re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    ]


# Links and the site.


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES.values()], ids=lambda p: p.name)
def test_every_relative_link_leads_somewhere(page):
    assert builder.problems(page) == []


def test_every_page_is_on_the_home_page_and_in_the_readme():
    for home in (PAGES["index.md"], ROOT / "README.md"):
        written = home.read_text(encoding="utf-8")
        for name in PAGES.keys() - {"index.md"}:
            assert re.search(rf"\]\((?:docs/)?{re.escape(name)}\)", written), f"{home.name} does not link {name}"


def test_the_site_is_built_whole(tmp_path):
    assert builder.build(tmp_path / "site") == []
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for name in PAGES:
        page = tmp_path / "site" / name.replace(".md", ".html")
        assert page.is_file() and f'href="{page.name}"' in home
        links = re.findall(r'href="([^"#:]+)(?:#([^"]*))?"', page.read_text(encoding="utf-8"))
        for file, anchor in links:
            target = page.parent / file
            assert target.is_file(), f"{page.name}: {file}"
            assert not anchor or f'id="{anchor}"' in target.read_text(encoding="utf-8"), f"{page.name}: {file}#{anchor}"


def test_a_broken_link_or_heading_fails_the_build(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n[gone](gone.md) [there](index.md#home) [not there](index.md#away)\n")
    for name, value in {"ROOT": tmp_path, "DOCS": docs, "HOME": docs / "index.md"}.items():
        monkeypatch.setattr(builder, name, value)
    found = builder.build(tmp_path / "site")
    assert [line.partition(": ")[2] for line in found] == [
        "gone.md: there is no such file",
        "index.md#away: there is no such heading",
    ]
    assert not (tmp_path / "site").exists()


# What is written is what is there.


def test_every_hook_is_in_its_page_with_its_exact_arguments():
    wanted = {
        f"{name}{_signature(hook)}"
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if _is_hook(name)
    }
    written = set(re.findall(r"^### `(qcore_.*)`$", text("hooks.md"), re.MULTILINE))
    assert written == wanted


def _is_hook(name: str) -> bool:
    return name.startswith("qcore_")


def _signature(hook: Any) -> str:
    signature = inspect.signature(hook)
    arguments = ", ".join(f"{name}: {p.annotation}" for name, p in signature.parameters.items())
    return f"({arguments}) -> {signature.return_annotation}"


def test_every_field_of_every_spec_is_in_the_page_of_hooks():
    written = section("hooks.md", "## Specs")
    for spec in KINDS.values():
        assert f"`{spec.__name__}`" in written
        for field in (entry.name for entry in dataclasses.fields(spec)):
            assert re.search(rf"`{field}\b", written), f"{spec.__name__}.{field}"


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def test_every_command_is_in_its_page_and_no_other():
    written = re.findall(r"^### qcore (\w+)$", text("cli.md"), re.MULTILINE)
    assert sorted(written) == sorted(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_of_a_command_is_in_its_section_and_no_other(name):
    written = section("cli.md", f"### qcore {name}")
    known = {option for p in commands()[name].params for option in p.opts if p.param_type_name == "option"} - {"--help"}
    for option in known:
        assert re.search(rf"`{option}[`\s]", written), f"qcore {name} {option}"
    for option in re.findall(r"`(--[a-z-]+)", written):
        assert option in known, f"qcore {name} has no option {option}"


def test_every_global_option_is_in_the_page():
    written = section("cli.md", "## Global options")
    for parameter in typer.main.get_command(app).params:
        for option in parameter.opts:
            assert re.search(rf"`{option}[`\s]", written), option


def test_every_exit_code_is_in_the_page_with_its_errors():
    table = section("cli.md", "## Exit codes")
    rows = dict(re.findall(r"^\| (\d+) \|(.*)\|$", table, re.MULTILINE))
    named = {name: int(code) for code, row in rows.items() for name in re.findall(r"`(\w+Error)`", row)}
    found = [value for _, value in inspect.getmembers(errors, inspect.isclass)] + [MissingEvidenceError]
    classes = [value for value in found if issubclass(value, errors.QcoreError)]
    assert named == {value.__name__: value.exit_code for value in classes}
    assert set(rows) == {"0", "130", *(str(value.exit_code) for value in classes)}


def test_every_environment_variable_of_the_source_is_in_the_page():
    written = first_cells(section("cli.md", "## Environment"))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "qcore").rglob("*.py"))
    used = set(re.findall(r'"((?:QCORE|OMP)_[A-Z_]*[A-Z])"', source))
    assert used <= set(written)
    assert {name for name in written if name.startswith("QCORE_")} <= used


def test_every_public_name_is_in_the_table_and_no_other():
    written = [
        re.match(r"qcore\.(\w+)", cell) for cell in first_cells(section("index.md", "## Everything in `import qcore`"))
    ]
    assert sorted(match[1] for match in written if match) == sorted(qcore.__all__)


@pytest.mark.parametrize(
    ("page", "heading", "config"),
    [
        ("quantizers.md", "## core/int", "qcore.quantizers.config:IntConfig"),
        ("methods-and-runs.md", "## Method", "qcore.methods.config:MethodConfig"),
        ("methods-and-runs.md", "## Method", "qcore.methods.config:PtqConfig"),
        ("methods-and-runs.md", "## Method", "qcore.training.phases:Phase"),
        ("methods-and-runs.md", "## Method", "qcore.training.phases:OptimizerConfig"),
        ("methods-and-runs.md", "## Tasks and folds", "qcore.tasks.config:TableConfig"),
        ("methods-and-runs.md", "## Tasks and folds", "qcore.tasks.config:ImagesConfig"),
        ("layers-and-rules.md", "## Networks and parts", "qcore.nn.config:MLPConfig"),
        ("layers-and-rules.md", "## Networks and parts", "qcore.nn.config:CNNConfig"),
        ("backends.md", "## Write a backend", "qcore.backends.base:KernelRequest"),
    ],
)
def test_every_field_of_a_config_is_in_its_section(page, heading, config):
    module, _, name = config.partition(":")
    model = getattr(importlib.import_module(module), name)
    fields = getattr(model, "model_fields", None) or model.__dataclass_fields__
    written = section(page, heading)
    for field in fields:
        assert re.search(rf"[`(\s]{field}[`,)]", written), f"{config}.{field} is not in {page} {heading!r}"


@pytest.mark.parametrize(
    ("page", "heading", "config"),
    [
        ("quantizers.md", "## core/int", "qcore.quantizers.config:IntConfig"),
        ("methods-and-runs.md", "Options of every method", "qcore.methods.config:MethodConfig"),
    ],
)
def test_the_defaults_in_a_table_are_those_of_the_config(page, heading, config):
    module, _, name = config.partition(":")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text(page).partition(heading)[2], re.MULTILINE))
    for option, field in getattr(importlib.import_module(module), name).model_fields.items():
        assert rows[option].strip("`") in _spellings(field.default), f"{config}.{option}"


def _spellings(default: object) -> tuple[str, ...]:
    if default is None:
        return ("null", "none")
    if isinstance(default, bool):
        return (str(default).lower(),)
    return (f"{default:g}",) if isinstance(default, float) else (str(default),)


# The files of a run.


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Any:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"epochs": 1, "hidden": [8]}
    return qcore.run("core/ptq", task="core/digits", folds=2, settings=settings, calls=2, workers=1, out=out)


def test_every_key_of_run_json_is_in_the_page(finished):
    assert sorted(finished.record) == sorted(set(first_cells(section("files.md", "### run.json"))))


def test_every_key_of_result_json_is_in_the_page(finished):
    written = section("files.md", "### result.json")
    result = finished.results()[-1]
    assert sorted(result) == sorted(first_cells(written))
    for part in ("samples", "size", "packed", "times"):
        for key in result[part]:
            assert f"`{key}`" in written, f"{part}.{key}"


def test_every_key_of_summary_json_is_in_the_page(finished):
    written = section("files.md", "### summary.json")
    top, _, below = written.partition("| key of an arm |")
    summary = finished.summary
    assert sorted(summary) == sorted(first_cells(top))
    arm = summary["arms"]["ptq"]
    assert sorted(arm) == sorted(first_cells(below))
    rows = (
        summary["tests"][0],
        summary["claims"][0],
        arm["score"],
        arm["packed"],
        arm["latency_us"]["1"],
        summary["times"],
    )
    for row in rows:
        for key in row:
            assert f"`{key}`" in written, key


def test_every_file_of_a_run_is_in_the_page(finished):
    written = section("files.md", "## A run's directory").partition("###")[0]
    for path in finished.path.rglob("*"):
        if path.is_file():
            assert path.name in written, path.name


def test_every_key_of_a_model_file_is_in_the_page(finished):
    written = section("files.md", "## Model files")
    file = qcore.inspect(finished.model_path("ptq"))
    assert sorted(file.header) == sorted(set(first_cells(written.partition("In a layer")[0])))
    for key in (*file.extra, *next(iter(file.layers.values())), *next(iter(file.layers.values()))["packed"]):
        assert f'"{key}"' in written or f"`{key}`" in written, key


def test_every_encoding_and_codec_is_in_the_page():
    from qcore.tensor import CODECS, ENCODINGS

    assert first_cells(section("files.md", "### Encodings")) == list(ENCODINGS)
    assert set(re.findall(r"^\*\*`(.*?)`\*\*", section("files.md", "### Codecs"), re.MULTILINE)) == set(CODECS)


# Code and changelog.


def test_all_python_in_the_pages_can_be_parsed():
    for name, page in PAGES.items():
        for fence in builder.fences(page):
            if fence.info.split()[:1] == ["python"]:
                ast.parse(fence.text, filename=f"{name}:{fence.line}")


def test_the_changelog_has_this_version_on_top():
    versions = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == qcore.__version__


def test_no_path_of_a_machine_is_in_the_pages():
    for page in (ROOT / "CHANGELOG.md", *PAGES.values()):
        found = re.findall(r"(?<![\w.])/(?:home|work|tmp|root|Users)/", page.read_text(encoding="utf-8"))
        assert not found, page.name
