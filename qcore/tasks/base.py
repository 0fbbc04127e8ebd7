"""Task: data, metric, loss and default model of one problem."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from qcore.errors import UsageError
from qcore.measure.metrics import classification_scores, regression_scores
from qcore.tasks.checks import check_data
from qcore.tasks.config import TaskConfig

__all__ = ["Problem", "Task", "TaskData"]

Problem = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskData:
    """All samples of a task.

    Attributes:
        inputs: (n, features) or (n, channels, height, width), float32, as measured: networks scale their own inputs.
            Images may be uint8; a network gets them as float32, a batch at a time.
        targets: (n,) int64 class indices, or float32 values in their original unit: (n,), or (n, outputs) for two or
            more values a sample.
        groups: (n,) int64; samples of one group never span folds. None where there are none.
        folds: (n,) int64, the data's own folds: fold k is tested on the rows labelled k; a negative label is never
            tested. None where there are none.
        spanning_groups: what folds do about a group that spans the data's own folds: raise an ``error``, or ``purge``
            its samples from the training part of each fold that tests the group.
        feature_names: one a feature; empty for images.
        class_names: one a class; empty for regression.
        target_names: one an output, for (n, outputs) targets; empty for others.
        source: where the data come from.
    """

    inputs: Tensor
    targets: Tensor
    groups: Tensor | None = None
    folds: Tensor | None = None
    spanning_groups: Literal["error", "purge"] = "error"
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    source: str = ""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def problem(self) -> Problem:
        """``regression`` if the targets are floating point."""
        return "regression" if self.targets.is_floating_point() else "classification"

    @cached_property
    def digest(self) -> str:
        """Sha256 over shapes, dtypes and bytes of inputs, targets, groups and folds, as ``sha256:<hex>``."""
        sha = hashlib.sha256()
        for tensor in (self.inputs, self.targets, self.groups, self.folds):
            if tensor is None:
                sha.update(b"none")
                continue
            sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().numpy().tobytes())
        return f"sha256:{sha.hexdigest()}"


class Task(ABC):
    """Data, splits, metric and default model. Subclasses implement ``load``.

    Targets stay in their original unit. A regression network should rescale its own output by constants fitted on the
    training part (as ``core/mlp`` does with ``rescale=True``); the loss may be divided by ``loss_scale`` of that part.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    spec_id: str = ""

    def __init__(self, config: TaskConfig | None = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def load(self) -> TaskData:
        """Read the data.

        Raises:
            DataError: the data are missing or bad.
        """

    @cached_property
    def data(self) -> TaskData:
        """The checked data, read on first use.

        Raises:
            DataError: missing, NaN or infinite, empty, of unequal lengths, or of one class only.
        """
        data = self.load()
        check_data(data, self.spec_id or type(self).__name__, can_drop="drop" in type(self.config).model_fields)
        return data

    @property
    def problem(self) -> Problem:
        """``classification`` or ``regression``."""
        return self.data.problem

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``scores`` returns, the primary one first."""
        if self.problem == "regression":
            return ("mse", "mae", "r2")
        return ("f1_weighted", "f1_macro", "accuracy", "nll", "ece")

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.metrics[0]

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher primary metric is better."""
        return self.metric not in {"mse", "mae", "nll", "ece"}

    @property
    def out_features(self) -> int:
        """Width of a network's output: classes, or values a sample."""
        if self.problem == "classification":
            return len(self.data.class_names)
        return 1 if self.data.targets.dim() == 1 else self.data.targets.shape[1]

    def loss(self, output: Tensor, target: Tensor, label_smoothing: float = 0.0, scale: float | Tensor = 1.0) -> Tensor:
        """Return the mean loss of a batch.

        Classification: cross entropy in nats. Regression: ``mean(((output - target) / scale)**2)``, over samples and
        outputs.

        Args:
            output: (n, classes) logits, or (n, outputs) or (n,) values.
            target: (n,) int64, or (n,) or (n, outputs) float.
            label_smoothing: 0..1, for classification only.
            scale: unit of a regression error, one or (outputs,); see ``loss_scale``.

        Raises:
            UsageError: the network gives another number of values a sample than the target has.
        """
        if target.is_floating_point():
            return ((_values(output, target) - target) / scale).square().mean()
        return functional.cross_entropy(output, target, label_smoothing=label_smoothing)

    def loss_scale(self, train_targets: Tensor) -> float | Tensor:
        """Return the spread of the training part's targets: a regression loss of 1 is then that of the constant mean.

        For targets (n, outputs) float32 (outputs,), so that every output weighs the same whatever its unit. 1.0 for
        classification and for constant targets. Pass the training part alone: nothing of the reported fold.
        """
        if not train_targets.is_floating_point() or len(train_targets) < 2:
            return 1.0
        spread = train_targets.double().std(dim=0, correction=0)
        if spread.dim() == 0:
            return float(spread) or 1.0
        return torch.where(spread > 0, spread, 1.0).to(train_targets.dtype)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return a training batch changed at random, shape and dtype kept; by default as it is.

        Args:
            inputs: rows of ``data.inputs``, (n, ...).
            generator: a CPU generator; arms of one fold and seed draw the same from it.
        """
        return inputs

    def predictions(self, output: Tensor) -> Tensor:
        """Return (n,) int64 classes (the first of equal logits), or values of the targets' shape."""
        return _values(output, self.data.targets) if self.problem == "regression" else output.argmax(dim=-1)

    def scores(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return every metric of ``metrics`` for one test part."""
        if target.is_floating_point():
            return regression_scores(_values(output, target), target)
        return classification_scores(output, target)

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return the id of a registered model and its config for these data."""
        shape = self.data.inputs.shape
        config: dict[str, Any] = {"out_features": self.out_features}
        if self.problem == "regression":
            config["rescale"] = True
        if len(shape) == 4:
            return "core/cnn", config | {"in_channels": shape[1], "image_size": shape[2]}
        return "core/mlp", config | {"in_features": shape[1]}


def _values(output: Tensor, target: Tensor) -> Tensor:
    """Return ``output`` as values of the shape that ``target``, of whatever length, has."""
    values = output.squeeze(-1) if output.dim() > target.dim() else output
    if values.shape[1:] != target.shape[1:]:
        given, wanted = (math.prod(shape[1:]) for shape in (output.shape, target.shape))
        hint = "build it with the task's out_features"
        raise UsageError(f"the network gives {given} values a sample where the targets have {wanted}", hint)
    return values


def as_inputs(array: Any) -> Tensor:
    """Return ``array`` as a contiguous float32 tensor."""
    return torch.as_tensor(array).to(torch.float32).contiguous()
