"""RunConfig: everything that decides a run's numbers, and a few things that do not. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qcore.errors import UsageError
from qcore.registry import validate_config
from qcore.training.devices import Precision

__all__ = ["RunConfig", "changed_options", "make_run_config"]

FREE = frozenset({"workers", "latency", "calls"})
"""Options that a resumed run may change: they move times, not scores."""


class RunConfig(BaseModel):
    """The options of a run.

    Attributes:
        plugin: the method's id, ``plugin/name``.
        task: the task's id.
        task_options: the task's own options.
        folds: number of folds; None means the data's own, or 5.
        seeds: a count, or the seeds themselves.
        validation: share of the training part that early stopping looks at.
        settings: the method's own options.
        workers: processes, or ``auto``: as many as there are cores, at most one a job.
        latency: whether to measure latency and energy at the end.
        calls: timed calls an arm and batch size.
        device: where training runs, in lightning-fabric's words: ``cpu``, ``cuda``, ``auto``.
        backend: what runs packed layers and fused fake quantization, or ``auto``: the best that can.
        precision: of the products in training, in lightning-fabric's words: with ``bf16-mixed`` inputs and weights of
            layers are rounded to bfloat16, 8-bit activations too, which are fewer than 256 numbers then; weights,
            scales, updates and all evaluation stay float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plugin: str
    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    folds: int | None = Field(default=None, ge=2)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    validation: float = Field(default=0.15, ge=0, lt=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    workers: int | Literal["auto"] = "auto"
    latency: bool = True
    calls: int = Field(default=200, ge=2)
    device: str = "cpu"
    backend: str = "auto"
    precision: Precision = "32-true"

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError("at least one seed is needed")
            return tuple(range(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _no_seed_twice(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a seed is given twice")
        return value

    @field_validator("workers")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one worker is needed")
        return value


def make_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Validate ``values``.

    Raises:
        ConfigError: listing every problem at once, with a did-you-mean for unknown keys.
    """
    made = validate_config(RunConfig, values, "the run")
    if not isinstance(made, RunConfig):
        raise UsageError("the run's options make no RunConfig")
    return made


def changed_options(given: RunConfig, stored: RunConfig) -> list[str]:
    """Return one line for each option that decides the numbers and differs between ``given`` and ``stored``."""
    new, old = given.model_dump(mode="json"), stored.model_dump(mode="json")
    return [f"{key}: {old[key]!r} then, {new[key]!r} now" for key in old if key not in FREE and new[key] != old[key]]
