"""The loop over phases. Early stopping and the best epoch look at the validation part alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from qcore.errors import QcoreError
from qcore.nn import set_generator
from qcore.training.data import FoldTensors, batches, steps_per_epoch
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
) -> History:
    """Train ``model`` in place through ``phases`` and leave it in eval mode on the CPU.

    A model with ``fit_scalers(inputs, targets)`` is given the training part first. Two streams come from
    ``generator``: the order of samples, equal on all ranks, and the model's own noise (dropout), one a rank.

    Args:
        model: the network; ``fit_scalers`` is called only if there are phases.
        phases: what to train, in order.
        data: the fold's training and validation parts.
        task: loss and metric.
        generator: a CPU generator; two numbers are drawn from it.
        fabric: device and ranks, launched.
        on_epoch: called with each row of the history.

    Returns:
        The history.

    Raises:
        QcoreError: the loss is NaN or infinite; names phase, epoch and step.
        UsageError: a phase trains nothing, or no optimizer takes a parameter.
    """
    history = History()
    order, noise = _streams(generator, fabric)
    if phases:
        if hasattr(model, "fit_scalers"):
            cast(Any, model).fit_scalers(data.train_inputs, data.train_targets)
        model.to(fabric.device)
        set_generator(model, noise)
        here = data.to(fabric.device)
        for phase in phases:
            _Trainer(model, phase, here, task, order, fabric).run(history, on_epoch)
        model.to("cpu")
    model.eval()
    return history


def _streams(generator: torch.Generator, fabric: Fabric) -> tuple[torch.Generator, torch.Generator]:
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    order = torch.Generator().manual_seed(seeds[0])
    noise = torch.Generator(device=fabric.device).manual_seed(seeds[1] + fabric.global_rank)
    return order, noise


class _Trainer:
    """Trains one phase."""

    def __init__(
        self, model: nn.Module, phase: Phase, data: FoldTensors, task: Task, order: torch.Generator, fabric: Fabric
    ) -> None:
        self.model, self.phase, self.data, self.task, self.order, self.fabric = model, phase, data, task, order, fabric
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

    def run(self, history: History, on_epoch: EpochCallback | None) -> None:
        """Train until the epochs are done or patience ends; restore the best epoch if the phase says so."""
        best = Best(self.task.higher_is_better, self.phase.min_delta)
        last = 0
        for epoch in range(self.phase.epochs):
            loss, score, last = self.train_epoch(epoch), self.validate(), epoch + 1
            row = self.row(last, loss, score)
            history.rows.append(row)
            if on_epoch:
                on_epoch(row)
            if score is not None and best.update(score, last) and self.phase.restore_best:
                best.keep(self.model)
            if self.phase.patience is not None and best.waited >= self.phase.patience:
                break
        best.restore(self.model)
        history.best[self.phase.name] = best.epoch if best.state else last

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch and return its mean loss."""
        self.model.train()
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        drawn = batches(self.data, self.phase.batch_size, self.order, rank=rank, world_size=world_size)
        total, rows = 0.0, 0
        for index, (inputs, targets) in enumerate(drawn):
            progress = Progress(epoch * self.steps + index, self.phase.epochs * self.steps, epoch, self.phase.epochs)
            total += self.step(progress, inputs, targets) * len(inputs)
            rows += len(inputs)
        mean = torch.tensor(total / rows, dtype=torch.float64, device=self.fabric.device)
        return float(cast(Tensor, self.fabric.all_reduce(mean, reduce_op="mean")))

    def step(self, progress: Progress, inputs: Tensor, targets: Tensor) -> float:
        """Take one step of every optimizer and return the loss."""
        set_schedules(self.optimizers, progress.fraction)
        if self.phase.before_step:
            self.phase.before_step(self.model, progress)
        loss = self.loss(inputs, targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            where = f"phase {self.phase.name!r}, epoch {progress.epoch + 1}, step {progress.step + 1}"
            raise QcoreError(f"the loss is {value} in {where}", "lower the learning rate, or clip the gradients")
        for _, optimizer in self.optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.phase.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.phase.grad_clip)
        for _, optimizer in self.optimizers:
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
        """Return the history's row of ``epoch``."""
        return {
            "phase": self.phase.name,
            "epoch": epoch,
            "epochs": self.phase.epochs,
            "train_loss": loss,
            "metric": self.task.metric,
            "validation": score,
            "lr": float(self.optimizers[0][1].param_groups[0]["lr"]),
        }
