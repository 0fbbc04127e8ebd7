"""One job: build, train, calibrate, score, save, load again, and write down what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qcore.errors import QcoreError
from qcore.methods.base import Arm
from qcore.runs.files import atomic_write, atomic_write_json, make_folder
from qcore.runs.planning import Work
from qcore.runs.routing import count_visits, unvisited
from qcore.runs.rundir import CHECKPOINT, Job, Run, file_sha256
from qcore.runs.seeds import job_generator
from qcore.training.checkpoint import CheckpointFile
from qcore.training.data import FoldTensors
from qcore.training.evaluate import outputs
from qcore.training.history import History
from qcore.training.loop import fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from qcore.tasks.splits import Fold

__all__ = ["run_job"]

FILES = ("model.safetensors", "samples.safetensors", "history.jsonl")
"""What a job leaves beside its result.json, which is written last and holds their hashes."""


def run_job(
    work: Work, run: Run, job: Job, fabric: Fabric, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Do ``job`` and write its folder; the same job gives the same files wherever and whenever it is done.

    Under torchrun every rank trains, and rank 0 alone writes.

    Returns:
        The data of ``result.json``; empty on ranks other than 0.

    Raises:
        QcoreError: the data, the method or the disk are to blame; the message says which.
    """
    started = time.perf_counter()
    arm = next(arm for arm in work.method.arms() if arm.name == job.arm)
    fold = work.folds[job.fold]
    model, history = _train(work, run, job, arm, fold, fabric, on_epoch)
    trained = time.perf_counter()
    if fabric.global_rank:
        return {}
    folder = run.folder(job)
    result = _evaluate(work, arm, model, fold, job, folder)
    result["epochs"] = history.epochs
    result["best_epochs"] = history.best
    result["training_nbytes"] = history.state_nbytes
    atomic_write(folder / "history.jsonl", history.to_jsonl())
    result["files"] = {name: file_sha256(folder / name) for name in FILES}
    result["times"] = {"train_s": trained - started, "total_s": time.perf_counter() - started}
    atomic_write_json(folder / "result.json", result)
    CheckpointFile(folder / CHECKPOINT).remove()
    return result


def _train(
    work: Work,
    run: Run,
    job: Job,
    arm: Arm,
    fold: Fold,
    fabric: Fabric,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> tuple[nn.Module, History]:
    from qcore.export import load

    method, data, registry = work.method, FoldTensors.of(work.task.data, fold), work.framework.registry
    sources = {name: load(run.model_path(name, job.fold, job.seed), registry=registry) for name in arm.needs}
    model = method.build(arm, work.task, job_generator(job.seed, job.fold, "init"), sources)
    generator = job_generator(job.seed, job.fold, "train")
    file = CheckpointFile(run.folder(job) / CHECKPOINT)
    history = fit(
        model,
        method.phases(arm),
        data,
        work.task,
        generator=generator,
        fabric=fabric,
        on_epoch=on_epoch,
        checkpoint=file,
    )
    return method.calibrate(arm, model, data).eval(), history


def _evaluate(work: Work, arm: Arm, model: nn.Module, fold: Fold, job: Job, folder: Path) -> dict[str, Any]:
    from qcore.measure.size import model_size
    from qcore.nn import explain

    task, data = work.task, work.task.data
    inputs, targets = data.inputs[fold.test], data.targets[fold.test]
    with count_visits(model) as train_visits:
        if train_visits:
            outputs(model, data.inputs[fold.train])
    with count_visits(model) as test_visits:  # last, as observe() is promised a model that has just seen the test part
        output = outputs(model, inputs)
    with torch.no_grad():
        observed = work.method.observe(arm, model, inputs)
    _write_samples(folder, _samples(work, job, fold, output, observed))
    path = folder / "model.safetensors"
    metadata = work.method.file_metadata(arm, task, fold=job.fold, seed=job.seed)
    packed = _save_and_load(work, model, path, metadata)
    rows = explain(packed).rows
    bound = max((row["bound"] for row in rows), default=0.0)
    routing = {name: {"train": train_visits[name], "test": test_visits[name]} for name in test_visits}
    return {
        "schema": 1,
        "arm": job.arm,
        "fold": job.fold,
        "seed": job.seed,
        "status": "done",
        "samples": {"train": len(fold.train), "validation": len(fold.validation), "test": len(fold.test)},
        "scores": task.scores(output, targets),
        "validation": _validation(work, model, fold),
        "size": model_size(packed, file_nbytes=path.stat().st_size).as_dict(),
        "packed": {**_agreement(outputs(packed, inputs), output), "bound": bound},
        "kernels": rows,
        "extras": {"routing": routing, "warnings": unvisited(train_visits)} if routing else {},
    }


def _save_and_load(work: Work, model: nn.Module, path: Path, metadata: dict[str, Any]) -> nn.Module:
    """Save ``model`` packed and return what the file holds."""
    from qcore.export import load, save
    from qcore.nn import architecture_of

    registry = work.framework.registry
    make_folder(path.parent)
    save(model, path, metadata=metadata, registry=registry)
    return load(path, model=None if architecture_of(model) else model, registry=registry)


def _agreement(found: Tensor, expected: Tensor) -> dict[str, Any]:
    difference = (found.double() - expected.double()).abs()
    return {"equal": torch.equal(found, expected), "max_abs_difference": float(difference.max())}


def _validation(work: Work, model: nn.Module, fold: Fold) -> dict[str, float]:
    if not len(fold.validation):
        return {}
    data = work.task.data
    return work.task.scores(outputs(model, data.inputs[fold.validation]), data.targets[fold.validation])


def _samples(work: Work, job: Job, fold: Fold, output: Tensor, observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rows = len(fold.test)
    samples = {
        "index": fold.test,
        "fold": torch.full((rows,), job.fold),
        "seed": torch.full((rows,), job.seed),
        "target": work.task.data.targets[fold.test],
        "prediction": work.task.predictions(output),
    }
    if work.task.problem == "classification":
        samples["confidence"] = output.softmax(dim=-1).amax(dim=-1)
    for name, values in observed.items():
        if name in samples or values.shape[:1] != (rows,):
            raise QcoreError(
                f"{work.method.spec_id}: observe() gave {name!r} of shape {tuple(values.shape)} for {rows} samples",
                "its first axis must be the samples, and its name none of " + ", ".join(samples),
            )
    return {**samples, **observed}


def _write_samples(folder: Path, samples: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    plain = {name: _plain(values) for name, values in samples.items()}
    atomic_write(folder / "samples.safetensors", save(plain))


def _plain(values: Tensor) -> Tensor:
    """Return ``values`` in a dtype that numpy knows."""
    known = values.float() if values.dtype == torch.bfloat16 else values
    return known.detach().cpu().contiguous()
