"""Checks on a plugin as a whole: it loads fast and says what it is."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

from qcore.hookspecs import ENTRY_POINT_GROUP
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.subjects import PluginSubject

HEAVY = ("torch", "triton", "sklearn", "plotly", "matplotlib")
"""What may not be imported before it is used: it makes every command slow to start."""

_LONGEST_SUMMARY = 100
_NAME = re.compile(r"[^A-Za-z0-9._-]")
"""What ends the name in a requirement such as ``torch >=2; extra == "x"``."""


def check_import_needs_no_torch(plugin: PluginSubject) -> None:
    """``qcore list`` answers at once: importing the plugin imports no torch and nothing else that is heavy."""
    _expect_light(_import_statement(plugin), "the plugin's module")


def check_configs_need_no_torch(plugin: PluginSubject) -> None:
    """Options are checked before anything heavy starts: importing the config models imports no torch."""
    modules = {spec.config.partition(":")[0] for spec in plugin.specs if isinstance(spec.config, str)}
    if not modules:
        raise SkipCheck("no config model is named by a string")
    for module in sorted(modules):
        _expect_light(f"import importlib; importlib.import_module({module!r})", module)


def check_summaries_fit_a_listing(plugin: PluginSubject) -> None:
    """Listings have one line an offer: summaries are short and without a full stop."""
    for spec in plugin.specs:
        summary = spec.summary
        expect(len(summary) <= _LONGEST_SUMMARY, f"{spec.kind} {spec.id}: the summary has {len(summary)} characters")
        expect(not summary.endswith("."), f"{spec.kind} {spec.id}: the summary ends with a full stop")


def check_distribution_requires_the_core(plugin: PluginSubject) -> None:
    """Installing it brings the core, and never ``qcore``: on the package index that name is another project's."""
    requirements = distribution(_distribution(plugin)).requires or []
    names = {_NAME.split(line.strip(), maxsplit=1)[0].lower().replace("_", "-") for line in requirements}
    expect("qcore-ml" in names, f"it requires {', '.join(sorted(names)) or 'nothing'}, and not qcore-ml")
    expect("qcore" not in names, "it requires 'qcore', which is another project; the core is 'qcore-ml'")


def check_distribution_says_what_it_is(plugin: PluginSubject) -> None:
    """Who finds it on an index can judge it: it has a summary, a licence and a README."""
    told = distribution(_distribution(plugin)).metadata.json
    expect(told.get("summary"), "it has no summary")
    expect(told.get("license_expression") or told.get("license"), "it names no licence")
    expect(told.get("description"), "it has no README")


def check_package_is_typed(plugin: PluginSubject) -> None:
    """Type checkers read its annotations: the package holds a ``py.typed``."""
    file = Path(plugin.status.file or "")
    if plugin.status.local or file.name != "__init__.py":
        raise SkipCheck("it is no installed package")
    expect((file.parent / "py.typed").exists(), f"{file.parent.name} has no py.typed")


def _distribution(plugin: PluginSubject) -> str:
    name = plugin.status.distribution
    if name is None or plugin.status.name == "core":
        raise SkipCheck("it is no distribution of its own")
    return name


def _import_statement(plugin: PluginSubject) -> str:
    status = plugin.status
    if status.name == "core":
        return "import qcore.builtin"
    values = [entry.value for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == status.name]
    if not status.local and values:
        return f"import importlib; importlib.import_module({values[0].partition(':')[0]!r})"
    if status.file is None:
        raise SkipCheck("it lives in this process alone")
    file = Path(status.file)
    path = str(file.parent if file.name == "__init__.py" else file)
    return f"import pathlib; from qcore.plugins.sources import import_path; import_path(pathlib.Path({path!r}))"


def _expect_light(statement: str, what: str) -> None:
    script = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    last_words = done.stderr.strip().splitlines()[-1:] or ["no message"]
    expect(done.returncode == 0, f"{what} cannot be imported in a new process: {last_words[0]}")
    expect(not done.stdout.split(), f"importing {what} imports {', '.join(done.stdout.split())}")
