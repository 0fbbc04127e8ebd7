"""Specs: what a plugin offers. Registry: one place to look all of it up.

A spec is data. Its class is named by a string and imported on first use, so a listing never imports torch.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qcore.errors import ConfigError, PluginError, UnknownNameError, UsageError, close_matches, did_you_mean
from qcore.foreign import ForeignError, guarded

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "KINDS",
    "BackendSpec",
    "ExporterSpec",
    "MethodSpec",
    "ModelSpec",
    "QuantizerSpec",
    "Registry",
    "RouterSpec",
    "Spec",
    "TaskSpec",
]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One thing that a plugin offers.

    Attributes:
        name: lower-case name, unique within its kind and plugin.
        target: ``"package.module:Name"``, imported on first use.
        summary: one line for listings.
        reference: the paper or document that it follows.
        config: ``"package.module:ConfigModel"`` or the pydantic model itself (``extra="forbid"``, torch-free module).
        plugin: name of the plugin that offers it; filled in by the core.
        distribution: that plugin's distribution; filled in by the core.
        version: that distribution's version; filled in by the core.
    """

    kind: ClassVar[str]

    name: str
    target: str
    summary: str
    reference: str = ""
    config: str | type[BaseModel] | None = None
    plugin: str = ""
    distribution: str | None = None
    version: str | None = None

    @property
    def id(self) -> str:
        """The qualified name, ``plugin/name``."""
        return f"{self.plugin}/{self.name}"

    def load(self) -> Any:
        """Import and return the target."""
        return _import_target(self.target, self.id)

    def load_config(self) -> type[BaseModel] | None:
        """Import and return the config model, or None where there is none."""
        if isinstance(self.config, str):
            model: type[BaseModel] = _import_target(self.config, self.id)
            return model
        return self.config

    def make_config(self, values: Mapping[str, Any]) -> BaseModel | None:
        """Validate ``values`` into this spec's config.

        Raises:
            ConfigError: listing every problem at once, with a did-you-mean for unknown keys.
        """
        model = self.load_config()
        if model is None:
            if values:
                raise ConfigError(f"{self.id} takes no options, got: {', '.join(sorted(values))}")
            return None
        return validate_config(model, values, self.id)

    def listing(self) -> dict[str, Any]:
        """Return what a listing prints, as plain JSON data."""
        return {
            "name": self.id,
            "kind": self.kind,
            "plugin": self.plugin,
            "summary": self.summary,
            "reference": self.reference,
            **self.details(),
        }

    def details(self) -> dict[str, Any]:
        """Return the listing's columns that only this kind has."""
        return {}


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """A quantizer. ``bits`` and ``granularity`` are what it offers; ``tensors`` what it is meant for."""

    kind: ClassVar[str] = "quantizer"
    bits: tuple[float, ...] = ()
    granularity: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ("weight",)

    def details(self) -> dict[str, Any]:
        """Return bits, granularities and tensors."""
        return {"bits": list(self.bits), "granularity": list(self.granularity), "tensors": list(self.tensors)}


@dataclass(frozen=True, kw_only=True)
class RouterSpec(Spec):
    """A router. ``uncertainty`` says whether it knows one."""

    kind: ClassVar[str] = "router"
    uncertainty: bool = False

    def details(self) -> dict[str, Any]:
        """Return whether it knows an uncertainty."""
        return {"uncertainty": self.uncertainty}


@dataclass(frozen=True, kw_only=True)
class BackendSpec(Spec):
    """A backend and the devices it runs on."""

    kind: ClassVar[str] = "backend"
    devices: tuple[str, ...] = ("cpu",)

    def details(self) -> dict[str, Any]:
        """Return the devices."""
        return {"devices": list(self.devices)}


@dataclass(frozen=True, kw_only=True)
class MethodSpec(Spec):
    """A paper's whole recipe. ``default_task`` is what a run uses when none is named."""

    kind: ClassVar[str] = "method"
    default_task: str = "core/digits"

    def details(self) -> dict[str, Any]:
        """Return the default task."""
        return {"default_task": self.default_task}


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Spec):
    """Data, splits and metric.

    ``problem`` is ``classification`` or ``regression``; ``needs`` says what data to bring.
    """

    kind: ClassVar[str] = "task"
    problem: str = "classification"
    needs: str | None = None

    def details(self) -> dict[str, Any]:
        """Return the problem and the data it needs."""
        return {"problem": self.problem, "needs": self.needs}


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """A network: ``target`` is a callable ``(config, generator) -> nn.Module``."""

    kind: ClassVar[str] = "model"


@dataclass(frozen=True, kw_only=True)
class ExporterSpec(Spec):
    """A file format. ``suffixes`` are the file names it writes."""

    kind: ClassVar[str] = "exporter"
    suffixes: tuple[str, ...] = ()

    def details(self) -> dict[str, Any]:
        """Return the suffixes."""
        return {"suffixes": list(self.suffixes)}


KINDS: dict[str, type[Spec]] = {
    spec.kind: spec for spec in (QuantizerSpec, RouterSpec, BackendSpec, MethodSpec, TaskSpec, ModelSpec, ExporterSpec)
}


def validate_config(model: type[BaseModel], values: Mapping[str, Any], owner: str) -> BaseModel:
    """Validate ``values`` into ``model``; ``owner`` is the id that messages name.

    Raises:
        ConfigError: listing every problem at once, with a did-you-mean for unknown keys.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain_problem(problem, model) for problem in error.errors()]
        count = f"{len(lines)} problems" if len(lines) > 1 else "a problem"
        raise ConfigError(f"{count} in the options of {owner}:\n  " + "\n  ".join(lines)) from None


def _explain_problem(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "(all)"
    if problem["type"] == "extra_forbidden":
        hint = did_you_mean(str(problem["loc"][-1]), model.model_fields)
        return f"{where}: unknown option" + (f"; {hint}" if hint else "")
    got = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}{got}"


def _import_target(target: str, owner: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return guarded("import", lambda: getattr(importlib.import_module(module), attribute))
    except ForeignError as error:
        raise PluginError(f"{owner} names {target!r}, which cannot be imported: {error.reason}") from error


@dataclass
class Registry:
    """Everything that the loaded plugins offer.

    Attributes:
        specs: the specs by kind and id.
        failed: how many plugins failed to load, for messages.
        absent: for each plugin that is installed and not loaded, why not.
        known: distributions by the plugin that they bring, for plugins that are known and not installed.
    """

    specs: dict[str, dict[str, Spec]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    failed: int = 0
    absent: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Spec]:
        return (spec for kind in self.specs.values() for spec in kind.values())

    def check(self, specs: Iterable[Spec]) -> None:
        """Raise PluginError if ``specs`` cannot be committed: no specs, doubled names, bad fields."""
        seen: set[tuple[str, str]] = set()
        for spec in specs:
            if type(spec) not in KINDS.values():
                raise PluginError(f"a registration hook returned {spec!r}, which is not a spec")
            _check_spec(spec)
            if (spec.kind, spec.id) in seen or spec.id in self.specs[spec.kind]:
                raise PluginError(f"{spec.kind} {spec.id} is registered twice")
            seen.add((spec.kind, spec.id))

    def commit(
        self, specs: Iterable[Spec], *, plugin: str, distribution: str | None = None, version: str | None = None
    ) -> list[Spec]:
        """Add all of one plugin's ``specs``, or none of them.

        Returns:
            The specs as they stand in the registry, with plugin, distribution and version filled in.

        Raises:
            PluginError: if any of them is refused; then nothing has changed.
        """
        filled = [
            replace(spec, plugin=plugin, distribution=distribution, version=version) if isinstance(spec, Spec) else spec
            for spec in specs
        ]
        self.check(filled)
        for spec in filled:
            self.specs[spec.kind][spec.id] = spec
        return filled

    def list(self, kind: str | None = None) -> list[Spec]:
        """Return the specs of ``kind``, or all, sorted by kind and id."""
        kinds = list(KINDS) if kind is None else [self.check_kind(kind)]
        return [self.specs[k][name] for k in kinds for name in sorted(self.specs[k])]

    def check_kind(self, kind: str) -> str:
        """Return ``kind`` in the singular if it is one.

        Raises:
            UnknownNameError: if it is none.
        """
        singular = kind.removesuffix("s")
        if singular not in KINDS:
            raise UnknownNameError(f"there is no kind {kind!r}", did_you_mean(kind, KINDS))
        return singular

    def get(self, kind: str, name: str) -> Spec:
        """Return the spec called ``name``: an id ``plugin/name``, or a bare name that only one plugin offers.

        Raises:
            UnknownNameError: no plugin offers it; the message lists close matches and what might bring it.
            UsageError: several plugins offer the bare name; the message lists their ids.
        """
        offered = self.specs[self.check_kind(kind)]
        name = name.replace("-", "_")
        if name in offered:
            return offered[name]
        matches = [spec for spec in offered.values() if spec.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(sorted(spec.id for spec in matches))
            raise UsageError(f"{kind} {name!r} is offered by several plugins: {ids}", "name one of them in full")
        plugin = name.rpartition("/")[0]
        if plugin in self.absent:
            raise PluginError(f"{kind} {name!r} needs the plugin {plugin!r}, which is not loaded", self.absent[plugin])
        if kind.removesuffix("s") == "method" and name in self.absent:  # named as its plugin is
            raise PluginError(f"the plugin {name!r} is not loaded", self.absent[name])
        raise UnknownNameError(f"no loaded plugin offers the {kind} {name!r}", self._unknown_hint(kind, name, offered))

    def _unknown_hint(self, kind: str, name: str, offered: Mapping[str, Spec]) -> str | None:
        close = close_matches(name, [*offered, *(spec.name for spec in offered.values())])
        parts = ["did you mean " + " or ".join(map(repr, close)) + "?" if close else did_you_mean(name, offered) or ""]
        if self.failed:
            count = "1 plugin" if self.failed == 1 else f"{self.failed} plugins"
            parts.append(f"{count} failed to load: see 'qcore plugins'")
        plugin, slash, _ = name.rpartition("/")
        if slash or (kind.removesuffix("s") == "method" and not close):  # a method is often called like its plugin
            parts.append(self._install_hint(plugin or name))
        return "; ".join(part for part in parts if part) or None

    def _install_hint(self, plugin: str) -> str:
        if plugin in self.known:
            return f"install it with: pip install {self.known[plugin]}"
        if not plugin.isidentifier() or any(spec.plugin == plugin for spec in self):
            return ""
        return f"if it belongs to a plugin that is not installed, try: pip install qcore-{plugin.replace('_', '-')}"

    def make(self, kind: str, name: str, **config: Any) -> Any:
        """Make the object called ``name``: its target called with its validated config.

        A model is made with a fresh ``torch.Generator`` of seed 0; call ``get("model", name).load()`` to pass another.
        An exporter is a function, and is returned as it is.
        """
        spec = self.get(kind, name)
        if spec.kind == "model":
            from qcore.nn.models import build_model

            return build_model(spec.id, config, registry=self)
        values = spec.make_config(config)
        target = spec.load()
        if spec.kind == "exporter":
            return target
        made = target() if values is None else target(values)
        if hasattr(made, "spec_id"):
            made.spec_id = spec.id
        return made


def _check_spec(spec: Spec) -> None:
    texts = {"name": spec.name, "target": spec.target, "summary": spec.summary, "reference": spec.reference}
    for attribute, text in texts.items():
        if not isinstance(text, str):
            raise PluginError(f"{spec.kind} {spec.name!r}: {attribute} must be text, got {text!r}")
    if not spec.name.isidentifier() or spec.name != spec.name.lower():
        raise PluginError(f"{spec.kind} name {spec.name!r} is not a lower-case identifier")
    if not _is_target(spec.target):
        raise PluginError(f"{spec.kind} {spec.id}: target {spec.target!r} is not of the form 'package.module:Name'")
    if not _is_config(spec.config):
        raise PluginError(f"{spec.kind} {spec.id}: config {spec.config!r} is neither 'package.module:Name' nor a model")
    if not spec.summary.strip() or "\n" in spec.summary:
        raise PluginError(f"{spec.kind} {spec.id}: the summary must be one line")
    try:
        json.dumps(spec.listing())
    except (TypeError, ValueError) as error:
        raise PluginError(f"{spec.kind} {spec.id} holds what a listing cannot print: {error}") from error


def _is_target(text: str) -> bool:
    module, _, attribute = text.partition(":")
    return attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _is_config(config: object) -> bool:
    if isinstance(config, str):
        return _is_target(config)
    return config is None or (isinstance(config, type) and hasattr(config, "model_validate"))
