"""The report's chapter on what ran where: kernels, versions, data, options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcore.methods.evidence import MissingEvidenceError
from qcore.runs.report.material import Material
from qcore.runs.report.page import Column, Html, definitions, escape, section, table

__all__ = ["provenance"]

PARTS = ("started", "ended", "host", "device", "versions", "git", "data", "config", "settings", "backends", "resumed")
"""Entries of run.json that are shown, in this order; the page shows the others elsewhere."""
SPARED = {"data": ("classes", "shape"), "config": ("plugin", "settings")}


def provenance(material: Material) -> Html:
    """Return the chapter."""
    record = material.record
    facts = {name: _text(name, record[name]) for name in PARTS if record.get(name) not in (None, {}, [])}
    parts = [definitions(facts), _kernels(material), _plugins(record.get("plugins"))]
    return section("What ran where", *parts)


def _text(name: str, value: Any) -> object:
    if name == "resumed":
        return f"{len(value)} times, last {value[-1].get('started', '')}"
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key not in SPARED.get(name, ()) and _says(item)}
        return Html(
            "<br>".join(f"{escape(key.replace('_', ' '))}: {escape(_word(item))}" for key, item in kept.items())
        )
    return "; ".join(_word(item) for item in value) if isinstance(value, list) else value


def _says(value: Any) -> bool:
    return value is not None and value not in ([], {})


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_word(item)}" for key, item in value.items() if _says(item))
    return ", ".join(map(_word, value)) if isinstance(value, list | tuple) else str(value)


def _kernels(material: Material) -> Html:
    """Return one row for each way in which layers run, with the arms that have such layers."""
    alike: dict[tuple[object, ...], dict[str, int]] = {}
    for arm in material.arms:
        for row in _arm_kernels(material, arm):
            key = (row.get("kernel"), row.get("op"), row.get("backend"), _refused(row))
            counts = alike.setdefault(key, {})
            counts[arm] = counts.get(arm, 0) + 1
    if not alike:
        return Html("")
    columns = (Column("Kernel"), Column("Op"), Column("Backend"), Column("Layers of the arms"), Column("Refused"))
    rows = [
        [*key[:3], ", ".join(f"{arm} {count}" for arm, count in counts.items()), key[3]]
        for key, counts in alike.items()
    ]
    return Html(f"<h3>Kernels</h3>{table(columns, rows)}")


def _arm_kernels(material: Material, arm: str) -> Sequence[Mapping[str, Any]]:
    try:
        return material.evidence.results(arm)[0].get("kernels") or []
    except (MissingEvidenceError, IndexError):
        return []


def _refused(row: Mapping[str, Any]) -> Html:
    refused = row.get("refused") or []
    return Html("<br>".join(f"{escape(r.get('backend'))}: {escape(r.get('reason'))}" for r in refused) or "–")


def _plugins(plugins: Any) -> Html:
    if not plugins:
        return Html("")
    entries = plugins.items() if isinstance(plugins, Mapping) else ((p.get("name"), p) for p in plugins)
    columns = (Column("Plugin"), Column("Distribution"), Column("Version"), Column("Hash of its files"))
    rows = [
        [name, p.get("distribution"), p.get("version"), str(p.get("files_sha256") or p.get("digest") or "–")[:16]]
        for name, p in entries
    ]
    return Html(f"<h3>Plugins</h3>{table(columns, rows)}")
