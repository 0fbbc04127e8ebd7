"""Framework: one set of loaded plugins and the registry of what they offer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import qcore
from qcore.errors import PluginError, UnknownNameError, did_you_mean
from qcore.foreign import ForeignError, guarded
from qcore.hookspecs import REGISTRATION_HOOKS
from qcore.plugins.discovery import CORE, Candidate, find_candidates, incompatibility, name_problems, normalize
from qcore.plugins.loading import HOOKS, check_hooks, collect_specs, new_manager
from qcore.plugins.provenance import code_root, files_sha256, is_editable
from qcore.plugins.sources import Source, import_object, is_path, module_of
from qcore.plugins.status import PluginStatus
from qcore.plugins.switches import Switches, read_config
from qcore.registry import Registry, Spec

__all__ = ["Framework", "default", "reset_default", "set_default"]

CORE_DISTRIBUTION = "qcore-ml"


@dataclass(frozen=True)
class _Code:
    """Where a loaded plugin's code is."""

    module: ModuleType
    metadata: Distribution | None


class Framework:
    """One set of loaded plugins, and the registry of what they offer.

    A plugin is code that runs with your rights as soon as it is loaded. One that fails is reported and hurts nothing
    else. Frameworks are independent of one another; ``qcore.plugins.default()`` is the one used where none is given.

    Args:
        load: find and load the installed plugins now.
        only: load these alone (an empty list loads none).
        disable: leave these out; they are not imported.
        no_plugins: load no installed plugin.
        config: a mapping or a TOML file with a ``[plugins]`` table of ``only`` and ``disable``; None takes the
            ``qcore.toml`` of the working directory, if there is one.

    Attributes:
        registry: what the loaded plugins offer.
        plugins: what became of each plugin: the core, then the others by name, then those that were added.
        pm: the pluggy manager that holds the loaded plugins.

    Raises:
        UsageError: ``only``, ``disable`` or the config names what is not there, or is malformed.
    """

    def __init__(
        self,
        load: bool = True,
        *,
        only: Iterable[str] | None = None,
        disable: Iterable[str] = (),
        no_plugins: bool = False,
        config: Mapping[str, Any] | str | Path | None = None,
    ) -> None:
        self.registry = Registry()
        self.plugins: list[PluginStatus] = []
        self.pm = new_manager()
        self._code: dict[str, _Code] = {}
        self._notes: list[str] = []
        self._recipe: dict[str, Any] = {
            "load": load,
            "only": None if only is None else list(only),
            "disable": list(disable),
            "no_plugins": no_plugins,
            "config": {key: value for key, value in read_config(config).items() if key == "plugins"},
        }
        self._added: list[tuple[str | None, str]] = []
        self._load_core()
        if load:
            self._load_installed()

    def add(self, module: ModuleType | str | Path, name: str | None = None) -> PluginStatus:
        """Load a plugin that is not installed: a module, a module's name, a ``.py`` file or a package folder.

        The switches do not apply: who adds a plugin has named it.

        Args:
            module: what to load. A string with a slash or the suffix ``.py`` is a path.
            name: the plugin's name; by default the last part of the module's name, or the file's stem.

        Raises:
            PluginError: it cannot be loaded, or its name is taken.
        """
        source = Source.of(module)
        status = PluginStatus(normalize(name or source.name), None, None, "loaded", file=source.file, local=True)
        self._check_free(status.name)
        status = self._admit(status, source.load)
        self._record(status)
        if status.status != "loaded":
            raise _not_loaded(status.name, [status])
        self._added.append((source.address, status.name))
        return status

    def use(self, reference: str) -> PluginStatus:
        """Return the plugin that a user named: a path is added, a name is required."""
        return self.add(reference) if is_path(reference) else self.require(reference)

    def require(self, name: str) -> PluginStatus:
        """Return the loaded plugin ``name``; a dash is an underscore.

        Raises:
            PluginError: it is installed, but failed, disabled or incompatible; the message says where and why.
            UnknownNameError: there is no such plugin.
        """
        wanted = normalize(name)
        rows = [status for status in self.plugins if status.name == wanted]
        for status in rows:
            if status.status == "loaded":
                return status
        if rows:
            raise _not_loaded(wanted, rows)
        raise UnknownNameError(f"there is no plugin {name!r}", self._missing_hint(wanted))

    def warnings(self) -> list[str]:
        """Return one line for each plugin that failed or is incompatible, and for each switch that looks misspelt."""
        failures = [
            f"plugin {status.name!r} ({status.origin}) not loaded: {status.problem}"
            for status in self.plugins
            if status.status in ("failed", "incompatible")
        ]
        return [*self._notes, *failures]

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Return for each loaded plugin its distribution, version, whether it is editable, and its files' hash."""
        return {
            status.name: {
                "distribution": status.distribution,
                "version": status.version,
                "editable": _editable(self._code[status.name]),
                "files_sha256": _hash(self._code[status.name]),
            }
            for status in self.plugins
            if status.status == "loaded"
        }

    def call(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Call a run event for one plugin at a time, in order of their names.

        Returns:
            Pairs of a plugin's name and what its hook returned, or the PluginError that says how it failed.
        """
        if hook not in HOOKS or hook in REGISTRATION_HOOKS:
            raise ValueError(f"{hook!r} is not a run event")
        implementations = sorted(getattr(self.pm.hook, hook).get_hookimpls(), key=lambda impl: _order(impl.plugin_name))
        return [(impl.plugin_name, _outcome(impl, hook, arguments)) for impl in implementations]

    def recipe(self) -> dict[str, Any]:
        """Return what ``Framework.from_recipe`` needs to load the same plugins in another process, as JSON data.

        Raises:
            PluginError: a module was added that no other process can import.
        """
        for address, name in self._added:
            if address is None:
                raise PluginError(f"plugin {name!r} lives in this process alone", "put it in a file and add its path")
        return {**self._recipe, "added": [list(pair) for pair in self._added]}

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Framework:
        """Return a Framework with the plugins of the one whose ``recipe()`` this is."""
        options = dict(recipe)
        added = options.pop("added")
        framework = cls(**options)
        for address, name in added:
            framework.add(address, name)
        return framework

    def _load_core(self) -> None:
        status = PluginStatus(CORE, CORE_DISTRIBUTION, qcore.__version__, "loaded", summary="what qcore itself offers")
        status = self._admit(status, Source.of("qcore.builtin").load, _core_metadata())
        if status.status != "loaded":
            raise _not_loaded(CORE, [status])
        self._record(status)

    def _load_installed(self) -> None:
        switches = Switches.collect(
            only=self._recipe["only"],
            disable=self._recipe["disable"],
            no_plugins=self._recipe["no_plugins"],
            environment=os.environ,
            config=self._recipe["config"],
        )
        candidates = find_candidates()
        self._notes += switches.check(candidate.name for candidate in candidates)
        disabled = {c: None if c.name == CORE else switches.reason(c.name) for c in candidates}
        problems = name_problems(c for c in candidates if not disabled[c] and not incompatibility(c, ""))
        for candidate in candidates:
            self._record(self._load_candidate(candidate, disabled[candidate], problems.get(candidate)))

    def _load_candidate(self, found: Candidate, disabled: str | None, problem: str | None) -> PluginStatus:
        status = PluginStatus(found.name, found.distribution, found.version, "loaded", summary=found.summary)
        if disabled:
            return replace(status, status="disabled", reason=disabled)
        wrong_api = incompatibility(found, qcore.__version__)
        if wrong_api:
            return replace(status, status="incompatible", stage="api", reason=wrong_api)
        if problem:
            return replace(status, status="failed", stage="name", reason=problem)
        return self._admit(status, partial(import_object, found.value), found.metadata)

    def _admit(
        self, status: PluginStatus, importer: Callable[[], Any], metadata: Distribution | None = None
    ) -> PluginStatus:
        """Import a plugin and take in all that it offers, or nothing of it."""
        started = perf_counter()
        try:
            plugin = guarded("import", importer)
            module = guarded("import", lambda: module_of(plugin))
            import_ms = round(1000 * (perf_counter() - started), 3)
            status = replace(status, file=getattr(module, "__file__", None) or status.file, import_ms=import_ms)
            specs = self._enrol(plugin, status)
        except ForeignError as error:
            self._withdraw(status.name)
            return replace(status, status="failed", stage=error.stage, reason=error.reason, details=error.details)
        self._code[status.name] = _Code(module, metadata)
        return replace(status, specs=tuple(f"{spec.kind}:{spec.id}" for spec in specs))

    def _enrol(self, plugin: Any, status: PluginStatus) -> list[Spec]:
        name, commit = status.name, self.registry.commit
        guarded("hooks", lambda: check_hooks(self.pm, plugin, name))
        guarded("hooks", lambda: self.pm.register(plugin, name))
        specs = guarded("specs", lambda: collect_specs(self.pm, name))
        return guarded(
            "specs",
            lambda: commit(specs, plugin=name, distribution=status.distribution, version=status.version),
        )

    def _withdraw(self, name: str) -> None:
        if self.pm.has_plugin(name):  # pluggy before 1.7 leaves a plugin that it refused half registered
            self.pm.unregister(name=name)

    def _record(self, status: PluginStatus) -> None:
        self.plugins.append(status)
        if status.status == "loaded":
            self.registry.absent.pop(status.name, None)
            return
        if status.status != "disabled":
            self.registry.failed += 1
        if status.name not in self._code:
            self.registry.absent[status.name] = f"{status.origin}: {status.problem}"

    def _check_free(self, name: str) -> None:
        if not name.isidentifier() or name != name.lower():
            raise PluginError(f"plugin name {name!r} is not a lower-case identifier", "give it another with name=")
        for status in self.plugins:
            if status.name == name and status.status == "loaded":
                raise PluginError(
                    f"the plugin name {name!r} is taken by {status.origin}", "rename the file, or give name="
                )

    def _missing_hint(self, name: str) -> str | None:
        close = did_you_mean(name, {status.name for status in self.plugins})
        distribution_name = self.registry.known.get(name)
        parts = [close, f"install it with: pip install {distribution_name}" if distribution_name else None]
        return "; ".join(part for part in parts if part) or None


_default: Framework | None = None


def default() -> Framework:
    """Return the Framework that is used where none is given; it is made on first use."""
    global _default
    if _default is None:
        _default = Framework()
    return _default


def set_default(framework: Framework) -> None:
    """Make ``framework`` the default, as the command does with its switches."""
    global _default
    _default = framework


def reset_default() -> None:
    """Forget the default; the next ``default()`` loads the plugins anew."""
    global _default
    _default = None


def _core_metadata() -> Distribution | None:
    try:
        return distribution(CORE_DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree that nobody installed
        return None


def _editable(code: _Code) -> bool:
    return code.metadata is not None and is_editable(code.metadata)


def _hash(code: _Code) -> str | None:
    root = code_root(code.module)
    return None if root is None else files_sha256(root)


def _order(name: str) -> tuple[bool, str]:
    return name != CORE, name


def _outcome(implementation: Any, hook: str, arguments: Mapping[str, Any]) -> Any:
    """Return what one implementation returns when given the arguments that it names, or the error."""
    named = [arguments[argument] for argument in implementation.argnames]
    try:
        return guarded(hook, lambda: implementation.function(*named))
    except ForeignError as error:
        failure = PluginError(f"plugin {implementation.plugin_name!r} failed in {hook}: {error.reason}")
        failure.__cause__ = error.__cause__
        return failure


def _not_loaded(name: str, rows: list[PluginStatus]) -> PluginError:
    reasons = "; ".join(f"{status.origin}: {status.problem}" for status in rows)
    hint = None if all(status.local for status in rows) else "see them all with: qcore plugins"
    error = PluginError(f"plugin {name!r} could not be loaded: {reasons}", hint)
    for status in rows:
        if status.details:  # seen with --debug
            error.add_note(status.details)
    return error
