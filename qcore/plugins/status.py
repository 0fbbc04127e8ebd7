"""PluginStatus: what became of one plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["PluginStatus", "State"]

State: TypeAlias = Literal["loaded", "failed", "disabled", "incompatible"]


@dataclass(frozen=True)
class PluginStatus:
    """What became of one plugin.

    Attributes:
        name: the plugin's name, as in ``plugin/name``.
        distribution: the distribution that brings it, None for a local file.
        version: that distribution's version.
        status: ``loaded``, ``failed``, ``disabled`` (not imported) or ``incompatible`` (not imported).
        stage: where it failed: ``name``, ``api``, ``import``, ``hooks`` or ``specs``.
        reason: one line on why it is not loaded.
        file: the file that it was imported from.
        import_ms: time that its import took, in milliseconds.
        local: whether it was added by path or object rather than found by its entry point.
        summary: the distribution's one-line description.
        specs: what it offers, as ``kind:plugin/name``.
        details: the traceback of its failure.
    """

    name: str
    distribution: str | None
    version: str | None
    status: State
    stage: str | None = None
    reason: str | None = None
    file: str | None = None
    import_ms: float | None = None
    local: bool = False
    summary: str = ""
    specs: tuple[str, ...] = ()
    details: str = field(default="", repr=False)

    @property
    def origin(self) -> str:
        """The distribution and its version, or the file, for messages."""
        if self.distribution:
            return f"{self.distribution} {self.version or '(no version)'}"
        return self.file or "local"

    @property
    def problem(self) -> str | None:
        """Why it is not loaded, with the stage; None for a loaded plugin."""
        if self.status == "loaded":
            return None
        if self.status == "failed":
            return f"failed at stage {self.stage!r}: {self.reason}"
        return self.reason

    def listing(self) -> dict[str, Any]:
        """Return what a listing prints, as plain JSON data."""
        return {
            "name": self.name,
            "kind": "plugin",
            "plugin": self.name,
            "summary": self.summary,
            "distribution": self.distribution,
            "version": self.version,
            "status": self.status,
            "stage": self.stage,
            "reason": self.reason,
            "file": self.file,
            "import_ms": self.import_ms,
            "local": self.local,
            "specs": list(self.specs),
        }
