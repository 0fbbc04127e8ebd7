"""Find the plugins that are installed, importing none of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from qcore.hookspecs import ENTRY_POINT_GROUP

__all__ = ["CORE", "Candidate", "find_candidates", "incompatibility", "name_problems", "normalize"]

CORE = "core"
"""The core's own plugin: always loaded, first, and nobody else's name."""

GROUP_PREFIX = "qcore.plugins.v"


@dataclass(frozen=True)
class Candidate:
    """An entry point that says it is a plugin.

    Attributes:
        name: the entry's name, which is the plugin's.
        value: the module that it names, ``package.module`` or ``package.module:object``.
        group: the entry-point group, which carries the API generation.
        distribution: the distribution's name; ``version`` and ``summary`` are its own too.
        metadata: the distribution itself.
        problem: why the entry cannot be read, if so.
    """

    name: str
    value: str
    group: str
    distribution: str
    version: str | None
    summary: str
    metadata: Distribution
    problem: str | None = None

    @property
    def origin(self) -> str:
        """The distribution with its version, for messages."""
        return f"{self.distribution} {self.version or '(no version)'}"


def find_candidates() -> list[Candidate]:
    """Return every plugin entry on ``sys.path``, of any API generation, sorted by name, distribution and group.

    A distribution that is on the path twice counts once, the one that Python would import. An entry for another API
    generation is dropped where the same distribution offers that plugin for ours.
    """
    found = [candidate for dist in _plugin_distributions() for candidate in _candidates(dist)]
    ours = {(c.distribution, c.name) for c in found if c.group == ENTRY_POINT_GROUP}
    kept = {
        (c.name, c.distribution, c.group, c.value): c
        for c in found
        if c.group == ENTRY_POINT_GROUP or (c.distribution, c.name) not in ours
    }
    return [kept[key] for key in sorted(kept)]


def normalize(name: str) -> str:
    """Return a plugin's name as the registry has it: a dash is an underscore."""
    return name.strip().replace("-", "_")


def incompatibility(candidate: Candidate, version: str) -> str | None:
    """Return why a plugin of another API generation is not imported, and which side to upgrade; None if it is ours.

    Args:
        candidate: the plugin's entry.
        version: our own version.
    """
    if candidate.group == ENTRY_POINT_GROUP:
        return None
    theirs, ours = candidate.group.removeprefix(GROUP_PREFIX), ENTRY_POINT_GROUP.removeprefix(GROUP_PREFIX)
    text = f"written for plugin API v{theirs}; this qcore ({version}) speaks v{ours}"
    if theirs.isdecimal() and int(theirs) < int(ours):
        return f"{text}: upgrade {candidate.distribution}"
    return f"{text}: upgrade qcore-ml, or install a {candidate.distribution} that is for v{ours}"


def name_problems(candidates: Iterable[Candidate]) -> dict[Candidate, str]:
    """Return those that cannot have the name they claim, each with the reason.

    Of several distributions that claim one name, the one called ``qcore-<name>`` has it; if none is, none has it.
    Being first on the path counts for nothing: else any distribution could take another's name.
    """
    rivals: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        rivals.setdefault(candidate.name, []).append(candidate)
    problems: dict[Candidate, str] = {}
    for claimants in rivals.values():
        for candidate in claimants:
            problem = candidate.problem or _bad_name(candidate.name) or _clash(candidate, claimants)
            if problem:
                problems[candidate] = problem
    return problems


def _bad_name(name: str) -> str | None:
    if name == CORE:
        return f"the name {CORE!r} is reserved for qcore itself"
    if not name.isidentifier() or name != name.lower():
        return f"plugin name {name!r} is not a lower-case identifier"
    return None


def _clash(candidate: Candidate, claimants: list[Candidate]) -> str | None:
    if len(claimants) == 1:
        return None
    rightful = [c for c in claimants if _canonical(c.distribution) == _canonical(f"qcore-{c.name}")]
    if rightful == [candidate]:
        return None
    everyone = " and ".join(c.origin for c in claimants)
    remedy = f"only qcore-{_dashed(candidate.name)} may" if rightful else "uninstall all but one"
    return f"the plugin name {candidate.name!r} is claimed by {everyone}: {remedy}"


def _plugin_distributions() -> Iterator[Distribution]:
    seen: set[str] = set()
    for dist in distributions():
        text = _read(dist, "entry_points.txt")
        if GROUP_PREFIX in text:
            name = _canonical(_name(dist))
            if name not in seen:
                seen.add(name)
                yield dist


def _candidates(dist: Distribution) -> list[Candidate]:
    name, version, summary = _name(dist), _field(dist, "Version"), _field(dist, "Summary") or ""
    try:
        entries: Iterable[EntryPoint] = list(dist.entry_points)
    except (TypeError, ValueError) as error:
        problem = f"its entry_points.txt cannot be read: {error}"
        return [Candidate(normalize(name), "", ENTRY_POINT_GROUP, name, version, summary, dist, problem)]
    return [
        Candidate(entry.name, entry.value, entry.group, name, version, summary, dist)
        for entry in entries
        if entry.group.startswith(GROUP_PREFIX)
    ]


def _name(dist: Distribution) -> str:
    return _field(dist, "Name") or "(nameless distribution)"


def _field(dist: Distribution, name: str) -> str | None:
    lines = _read(dist, "METADATA").partition("\n\n")[0].splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), None)


def _read(dist: Distribution, file: str) -> str:
    try:
        return dist.read_text(file) or ""
    except (OSError, ValueError):  # unreadable or undecodable: somebody else's distribution, or nobody's
        return ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _dashed(name: str) -> str:
    return name.replace("_", "-")
