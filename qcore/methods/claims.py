"""Claims: a paper's statements, judged on the evidence of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from qcore.errors import QcoreError
from qcore.methods.evidence import Evidence

__all__ = ["Claim", "Verdict", "judge"]

Holds = Literal["holds", "fails", "untested"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found.

    Attributes:
        verdict: None leaves it to the p value, corrected over the claim's family.
        value: the number that the claim is about, or a table of numbers.
        test: name of the test, with its margin or threshold.
        reason: why it fails or is untested.
        p_value: of the test, before correction.
        needs_significance: the claim holds only if the corrected p value is at most ``alpha``.
        alpha: level of significance.
    """

    verdict: Holds | None
    value: float | Mapping[str, Any] | None
    test: str
    reason: str | None = None
    p_value: float | None = None
    needs_significance: bool = False
    alpha: float = 0.05


@dataclass(frozen=True)
class Claim:
    """A statement of a paper.

    Attributes:
        id: short lower-case name, unique within the method.
        statement: the statement in one sentence, with its margin.
        family: claims of one family are corrected together (Holm).
        check: judges the evidence; it may raise ``MissingEvidenceError`` where the run cannot tell.
    """

    id: str
    statement: str
    family: str
    check: Callable[[Evidence], Verdict]


def judge(claims: Iterable[Claim], evidence: Evidence) -> list[dict[str, Any]]:
    """Check every claim and correct the p values within each family (Holm 1979).

    Returns:
        A list of ``{"id", "statement", "family", "verdict", "value", "test", "reason", "p_value", "p_adjusted"}``.
    """
    found = [(claim, _check(claim, evidence)) for claim in claims]
    adjusted = _adjust(found)
    return [_row(claim, _decide(verdict, adjusted.get(claim.id)), adjusted.get(claim.id)) for claim, verdict in found]


def _check(claim: Claim, evidence: Evidence) -> Verdict:
    # A check is a plugin's code and runs after hours of training: its failure is a verdict, not the end of the run.
    try:
        return claim.check(evidence)
    except QcoreError as error:
        return Verdict(verdict="untested", value=None, test="", reason=error.message)
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"its check failed: {type(error).__name__}: {error}"
        return Verdict(verdict="untested", value=None, test="", reason=reason)


def _adjust(found: Iterable[tuple[Claim, Verdict]]) -> dict[str, float]:
    from qcore.measure.statistics import holm

    families: dict[str, dict[str, float]] = {}
    for claim, verdict in found:
        if verdict.p_value is not None and verdict.verdict != "untested":
            families.setdefault(claim.family, {})[claim.id] = verdict.p_value
    adjusted: dict[str, float] = {}
    for members in families.values():
        adjusted.update(zip(members, map(float, holm(list(members.values()))), strict=True))
    return adjusted


def _decide(found: Verdict, p_adjusted: float | None) -> Verdict:
    if found.verdict in ("untested", "fails") or not (found.needs_significance or found.verdict is None):
        return found
    if p_adjusted is None:
        return replace(found, verdict="untested", reason=found.reason or "the test gave no p value")
    if p_adjusted <= found.alpha:
        return replace(found, verdict="holds")
    reason = f"p = {p_adjusted:.3g} after correction, above {found.alpha:g}"
    return replace(found, verdict="fails", reason=found.reason or reason)


def _row(claim: Claim, verdict: Verdict, p_adjusted: float | None) -> dict[str, Any]:
    return {
        "id": claim.id,
        "statement": claim.statement,
        "family": claim.family,
        "verdict": verdict.verdict,
        "value": _plain(verdict.value),
        "test": verdict.test,
        "reason": verdict.reason,
        "p_value": verdict.p_value,
        "p_adjusted": p_adjusted,
    }


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON data; checks hand over numpy's numbers and arrays."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
