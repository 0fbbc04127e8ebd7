"""The loop over phases. Early stopping and the best epoch look at the validation part alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from qcore.errors import QcoreError
from qcore.nn import set_generator
from qcore.quantizers import checks_together
from qcore.training.checkpoint import Checkpoint, CheckpointFile
from qcore.training.data import FoldTensors, as_floats, batches, steps_per_epoch
from qcore.training.evaluate import outputs
from qcore.training.history import History
from qcore.training.optimizers import make_optimizers, set_schedules, set_trainable
from qcore.training.phases import Phase, Progress
from qcore.training.stopping import Best

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from qcore.tasks.base import Task

__all__ = ["fit"]

EpochCallback = Callable[[dict[str, Any]], None]


def fit(
    model: nn.Module,
    phases: Sequence[Phase],
    data: FoldTensors,
    task: Task,
    *,
    generator: torch.Generator,
    fabric: Fabric,
    on_epoch: EpochCallback | None = None,
    checkpoint: CheckpointFile | None = None,
) -> History:
    """Train ``model`` in place through ``phases`` and leave it in eval mode on the CPU.

    A model with ``fit_scalers(inputs, targets)`` is given the training part first. Three streams come from
    ``generator``: the order of samples, equal on all ranks, the model's own noise (dropout), one a rank, and the task's
    augmentation, one a rank.

    Args:
        model: the network; ``fit_scalers`` is called only if there are phases.
        phases: what to train, in order.
        data: the fold's training and validation parts.
        task: loss and metric.
        generator: a CPU generator; three numbers are drawn from it.
        fabric: device and ranks, launched.
        on_epoch: called with each row of the history.
        checkpoint: where the state goes after an epoch, from time to time; what stands there already is gone on from,
            with the numbers of a training that was never stopped.

    Returns:
        The history.

    Raises:
        QcoreError: the loss is NaN or infinite; names phase, epoch and step.
        UsageError: a phase trains nothing, or no optimizer takes a parameter.
    """
    history = History()
    streams = _Streams(generator, fabric)
    if phases:
        if hasattr(model, "fit_scalers"):
            cast(Any, model).fit_scalers(data.train_inputs, data.train_targets)
        model.to(fabric.device)
        set_generator(model, streams.noise)
        here = data.to(fabric.device)
        kept = _read(checkpoint, model, fabric)
        for number, phase in enumerate(phases):
            if kept is None or number >= kept.data["phase"]:
                trainer = _Trainer(model, phase, number, here, task, streams, fabric)
                trainer.run(history, on_epoch, checkpoint, kept)
                kept = None
        model.to("cpu")
    model.eval()
    return history


class _Streams:
    """The random streams of one training, and their states as tensors."""

    def __init__(self, generator: torch.Generator, fabric: Fabric) -> None:
        seeds = torch.randint(2**62, (3,), generator=generator).tolist()
        self.fabric = fabric
        self.order = torch.Generator().manual_seed(seeds[0])
        self.noise = torch.Generator(device=fabric.device).manual_seed(seeds[1] + fabric.global_rank)
        self.augmentation = torch.Generator().manual_seed(seeds[2] + fabric.global_rank)

    def state(self) -> dict[str, Tensor]:
        """Return the states, uint8 (ranks, bytes) each; every rank must call it."""
        return {name: self._gathered(stream.get_state()) for name, stream in self._named().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up this rank's states."""
        for name, stream in self._named().items():
            stream.set_state(state[name][self.fabric.global_rank].clone())  # it reads no tensor with an offset

    def _named(self) -> dict[str, torch.Generator]:
        return {"order": self.order, "noise": self.noise, "augmentation": self.augmentation}

    def _gathered(self, state: Tensor) -> Tensor:
        everywhere = cast(Tensor, self.fabric.all_gather(state.to(self.fabric.device)))
        return everywhere.reshape(self.fabric.world_size, -1).cpu()


def _read(file: CheckpointFile | None, model: nn.Module, fabric: Fabric) -> Checkpoint | None:
    """Return the checkpoint to go on from; one that does not fit, on any rank, is reported and left aside."""
    found = None if file is None else file.read()
    if isinstance(found, Checkpoint):
        ranks = len(found.tensors["streams.order"])
        if ranks != fabric.world_size:
            found = f"{ranks} rank(s) wrote it"
        elif not found.fits(model):
            found = "it is of another network"
    place = [found.data["phase"], found.data["epoch"]] if isinstance(found, Checkpoint) else [-1, -1]
    places = cast(Tensor, fabric.all_gather(torch.tensor(place, device=fabric.device))).reshape(-1, 2)
    if not bool((places == places[0]).all()):
        found = "the ranks do not see the same one"
    if isinstance(found, str):
        warnings.warn(f"a checkpoint cannot be used, so training starts anew: {found}", stacklevel=2)
        return None
    return found


class _Trainer:
    """Trains one phase, the ``number``-th."""

    def __init__(
        self,
        model: nn.Module,
        phase: Phase,
        number: int,
        data: FoldTensors,
        task: Task,
        streams: _Streams,
        fabric: Fabric,
    ) -> None:
        self.model, self.phase, self.number, self.data, self.task = model, phase, number, data, task
        self.streams, self.fabric = streams, fabric
        named = set_trainable(model, phase)
        self.parameters = [parameter for _, parameter in named]
        configured = make_optimizers(named, phase)
        # DDP fixes the set of trained parameters when it wraps a model, so each phase wraps it anew.
        self.module = fabric.setup_module(model)
        self.optimizers = [
            (config, cast(torch.optim.Optimizer, fabric.setup_optimizers(plain))) for config, plain in configured
        ]
        self.scale = task.loss_scale(data.train_targets)
        self.steps = steps_per_epoch(len(data.train_inputs), phase.batch_size, fabric.world_size)

    def run(
        self,
        history: History,
        on_epoch: EpochCallback | None,
        file: CheckpointFile | None,
        kept: Checkpoint | None,
    ) -> None:
        """Train until the epochs are done or patience ends; restore the best epoch if the phase says so."""
        best = Best(self.task.higher_is_better, self.phase.min_delta)
        last = 0 if kept is None else self.restore(kept, history, best)
        while last < self.phase.epochs and not self.is_out_of_patience(best):
            loss, score = self.train_epoch(last), self.validate()
            last += 1
            row = self.row(last, loss, score)
            history.rows.append(row)
            if on_epoch:
                on_epoch(row)
            if score is not None and best.update(score, last) and self.phase.restore_best:
                best.keep(self.model)
            self.save(file, history, best, last)
        best.restore(self.model)
        history.best[self.phase.name] = best.epoch if best.state else last
        history.note_state(self.model, [optimizer for _, optimizer in self.optimizers])

    def is_out_of_patience(self, best: Best) -> bool:
        """Return whether the phase ends before its last epoch."""
        return self.phase.patience is not None and best.waited >= self.phase.patience

    def save(self, file: CheckpointFile | None, history: History, best: Best, epoch: int) -> None:
        """Write a checkpoint if one is due; all ranks take part, rank 0 writes."""
        if file is None or not self.fabric.broadcast(file.is_due()):
            return
        checkpoint = Checkpoint(data={"phase": self.number, "epoch": epoch, "history": asdict(history)})
        checkpoint.data["best"] = asdict(replace(best, state={}))
        checkpoint.put_model(self.model)
        checkpoint.put("best", best.state)
        checkpoint.put("streams", self.streams.state())
        checkpoint.put_optimizers([optimizer for _, optimizer in self.optimizers])
        if self.fabric.global_rank == 0:
            try:
                file.write(checkpoint)
            except QcoreError as error:  # it is a convenience: hours of training must not end for want of it
                warnings.warn(f"no checkpoint was written, and training goes on: {error.message}", stacklevel=2)

    def restore(self, kept: Checkpoint, history: History, best: Best) -> int:
        """Take up ``kept`` and return how many epochs are done."""
        kept.restore_model(self.model)
        kept.restore_optimizers([optimizer for _, optimizer in self.optimizers])
        self.streams.restore(kept.part("streams"))
        vars(history).update(kept.data["history"])
        vars(best).update(kept.data["best"], state=kept.part("best"))
        return int(kept.data["epoch"])

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch and return its mean loss."""
        self.model.train()
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        drawn = batches(self.data, self.phase.batch_size, self.streams.order, rank=rank, world_size=world_size)
        total, rows = 0.0, 0
        for index, (inputs, targets) in enumerate(drawn):
            progress = Progress(epoch * self.steps + index, self.phase.epochs * self.steps, epoch, self.phase.epochs)
            changed = as_floats(self.task.augment(inputs, self.streams.augmentation))
            total += self.step(progress, changed, targets) * len(inputs)
            rows += len(inputs)
        mean = torch.tensor(total / rows, dtype=torch.float64, device=self.fabric.device)
        return float(cast(Tensor, self.fabric.all_reduce(mean, reduce_op="mean")))

    def step(self, progress: Progress, inputs: Tensor, targets: Tensor) -> float:
        """Take one step of every optimizer and return the loss."""
        set_schedules(self.optimizers, progress.fraction)
        if self.phase.before_step:
            self.phase.before_step(self.model, progress)
        with checks_together() as check:
            loss = self.loss(inputs, targets)
            check()
        value = float(loss.detach())
        if not math.isfinite(value):
            where = f"phase {self.phase.name!r}, epoch {progress.epoch + 1}, step {progress.step + 1}"
            raise QcoreError(f"the loss is {value} in {where}", "lower the learning rate, or clip the gradients")
        for _, optimizer in self.optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.phase.after_backward:
            with torch.no_grad():
                self.phase.after_backward(self.model, progress)
        if self.phase.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.phase.grad_clip)
        for config, optimizer in self.optimizers:
            if (progress.step + 1) % config.every == 0:
                optimizer.step()
        if self.phase.after_step:
            with torch.no_grad():
                self.phase.after_step(self.model, progress)
        return value

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the task's loss of a batch, and the phase's penalty."""
        smoothing = self.phase.label_smoothing
        loss = self.task.loss(self.module(inputs), targets, label_smoothing=smoothing, scale=self.scale)
        return loss if self.phase.penalty is None else loss + self.phase.penalty(self.model)

    def validate(self) -> float | None:
        """Return the primary metric on the validation part, the same number on all ranks; None without such a part."""
        if not len(self.data.validation_inputs):
            return None
        output = outputs(self.model, self.data.validation_inputs)
        score = self.task.scores(output.cpu(), self.data.validation_targets.cpu())[self.task.metric]
        return float(self.fabric.broadcast(score))

    def row(self, epoch: int, loss: float, score: float | None) -> dict[str, Any]:
        """Return the history's row of ``epoch``, which counts from 1."""
        row = {
            "phase": self.phase.name,
            "epoch": epoch,
            "epochs": self.phase.epochs,
            "train_loss": loss,
            "metric": self.task.metric,
            "validation": score,
            "lr": float(self.optimizers[0][1].param_groups[0]["lr"]),
        }
        if self.phase.after_epoch:
            progress = Progress(epoch * self.steps, self.phase.epochs * self.steps, epoch - 1, self.phase.epochs)
            with torch.no_grad():
                row["observed"] = dict(self.phase.after_epoch(self.model, progress))
        return row
