"""Latency and energy of a run's arms: the models of the first fold and seed, in turns, in one process."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.measure.energy import EnergyMeter
    from qcore.runs.planning import Plan
    from qcore.runs.rundir import Run

__all__ = ["BATCHES", "measure_arms"]

BATCHES = (1, 64)
"""Samples a call, each a divisor of the last. The first also serves for measured energy, the last for modelled."""

NOT_ASKED = "not measured: the run was asked to leave it out"


def measure_arms(plan: Plan, run: Run) -> dict[str, dict[str, Any]]:
    """Return ``latency_us``, ``energy_j`` and ``modelled_energy_j`` of every arm.

    Energies are joules a sample: measured on single samples, modelled as the mean over a batch. What is not known is
    null with a reason, never 0.
    """
    from qcore.measure.energy import meter
    from qcore.runs.worker import one_thread
    from qcore.training.data import as_floats

    test, inputs = plan.work.folds[0].test, plan.work.task.data.inputs
    batches = _batches(inputs, test)
    with one_thread():
        models, missing = _load(plan, run)
        asked = plan.config.latency
        latency = _latencies(models, batches, plan.config.calls) if asked else {}
        counter = meter() if asked else None
        energy = {name: _energy(counter, model, batches[BATCHES[0]]) for name, model in models.items()}
        modelled = {name: _modelled(model, as_floats(inputs[test[: BATCHES[-1]]])) for name, model in models.items()}
    return {
        arm.name: {
            "latency_us": latency.get(arm.name, {"reason": missing.get(arm.name, NOT_ASKED)}),
            "energy_j": energy.get(arm.name, _unknown(missing.get(arm.name, NOT_ASKED))),
            "modelled_energy_j": modelled.get(arm.name, _unknown(missing.get(arm.name, ""))),
        }
        for arm in plan.arms
    }


def _batches(inputs: Tensor, test: Tensor) -> dict[int, list[Tensor]]:
    """Return batches of each size from the rows ``test`` of ``inputs``; a test part too small for one comes again."""
    import torch

    from qcore.training.data import as_floats

    rows = test[torch.arange(BATCHES[-1]) % len(test)]
    return {size: list(torch.split(as_floats(inputs[rows]), size)) for size in BATCHES}


def _load(plan: Plan, run: Run) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the models that can be loaded from their files alone, and why the others cannot."""
    from qcore.export import load

    models: dict[str, nn.Module] = {}
    missing: dict[str, str] = {}
    for arm in plan.arms:
        path = run.model_path(arm.name, plan.work.folds[0].index)
        try:
            models[arm.name] = load(path, registry=plan.work.framework.registry)
        except QcoreError as error:
            missing[arm.name] = error.message
    return models, missing


def _latencies(models: dict[str, nn.Module], batches: dict[int, list[Tensor]], calls: int) -> dict[str, dict[str, Any]]:
    """Return ``{arm: {batch size: {"p50", "p90", "p99", "mean", "std", "calls", ...}}}``."""
    from qcore.measure.latency import interleaved_latency

    found: dict[str, dict[str, Any]] = {name: {} for name in models}
    for size, inputs in batches.items():
        for name, latency in interleaved_latency(models, inputs, calls=calls).items():
            found[name][str(size)] = latency.as_dict()
    return found


def _energy(counter: EnergyMeter | None, model: nn.Module, batches: list[Tensor]) -> dict[str, Any]:
    import torch

    if counter is None:
        return _unknown(NOT_ASKED)
    samples = cycle(batches)
    try:
        with torch.no_grad():
            return counter.measure(lambda: model(next(samples))).as_dict()
    except (QcoreError, RuntimeError) as error:
        return _unknown(f"the model failed: {error}")


def _modelled(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    from qcore.measure.energy import modelled_energy

    try:
        return modelled_energy(model, inputs).as_dict()
    except (QcoreError, RuntimeError) as error:
        return _unknown(f"the model failed: {error}")


def _unknown(reason: str) -> dict[str, Any]:
    return {"value": None, "reason": reason}
