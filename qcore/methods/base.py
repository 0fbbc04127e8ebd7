"""Method and Arm: a paper's whole recipe, and what it is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from qcore.methods.config import MethodConfig
from qcore.methods.phases import OptimizerConfig, Phase

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from qcore.methods.claims import Claim
    from qcore.methods.evidence import Evidence
    from qcore.registry import Registry
    from qcore.runs.report import Section
    from qcore.tasks.base import Task
    from qcore.training.data import FoldTensors

__all__ = ["Arm", "Method"]


@dataclass(frozen=True)
class Arm:
    """One contender of a run.

    Attributes:
        name: lower-case name; also the name of its folder.
        summary: one line for the report.
        options: whatever the method needs to build it, as plain data.
        needs: arms whose trained models ``Method.build`` is given, for the same fold and seed.
        baseline: whether the others are tested against it; one arm of a method is.
    """

    name: str
    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    baseline: bool = False


class Method(ABC):
    """A paper's recipe: networks, phases and claims.

    A method is made anew in each worker process from its config, and holds no state from one job to the next.

    Attributes:
        Config: the method's config model.
        config: its validated config.
        spec_id: ``plugin/name``, set by the run.
        registry: where names are looked up, set by the run; None means that of ``qcore.plugins.default()``.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    spec_id: str = ""
    registry: Registry | None = None

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    @abstractmethod
    def arms(self) -> list[Arm]:
        """Return what is compared, the baseline first. ``config.arms`` is applied by the run, not here."""

    def check(self, task: Task) -> None:  # noqa: B027 - most configs say all by their own validation
        """Raise QcoreError if config and ``task`` do not go together; called before any training, and by a dry run.

        A quantizer or a router that the config names is to be made here once, so that a misspelt name ends the run
        before it starts.
        """

    @abstractmethod
    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the untrained network of ``arm``.

        Args:
            arm: one of ``arms()``.
            task: the data and its problem.
            generator: for all initialisation; in the same state for every arm of one fold and seed.
            sources: the trained models of ``arm.needs`` by arm name, read from their files in eval mode. A float
                model can be trained further; the quantized layers of another are packed and cannot.
        """

    @abstractmethod
    def phases(self, arm: Arm) -> list[Phase]:
        """Return how ``arm`` is trained, in order; an empty list trains nothing."""

    def calibrate(self, arm: Arm, model: nn.Module, data: FoldTensors) -> nn.Module:
        """Return the model ready for evaluation; called after training.

        The default fills static activation scales from the training part, where a quantizer needs it. What depends on
        how sure a model is, such as a threshold, belongs on the validation part: a model is surer of what it was
        trained on than of anything else.

        Args:
            arm: which.
            model: as its phases left it.
            data: the fold's training and validation parts; the latter may be empty.
        """
        import torch

        from qcore.nn import calibrate
        from qcore.quantizers import Quantizer
        from qcore.training.data import as_floats

        waiting = [m for m in model.modules() if isinstance(m, Quantizer) and m.needs_calibration]
        if not waiting:
            return model
        return calibrate(model, map(as_floats, torch.split(data.train_inputs, self.config.batch_size)))

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return further evidence for each of ``inputs`` (rows, ...), as tensors whose first axis is rows.

        ``inputs`` are as the task stores them: ``qcore.training.as_floats`` makes them a network's input.
        ``model`` is in eval mode and has just seen all of ``inputs``, batch by batch.
        """
        return {}

    def file_metadata(self, arm: Arm, task: Task, *, fold: int, seed: int) -> dict[str, Any]:
        """Return what the model file of a job says beside the model, as JSON data."""
        data = task.data
        several = {"targets": list(data.target_names)} if data.target_names else {}
        return {
            "method": self.spec_id,
            "task": task.spec_id,
            "problem": task.problem,
            "classes": list(data.class_names),
            **several,
            "features": list(data.feature_names),
            "data_digest": data.digest,
            "arm": arm.name,
            "fold": fold,
            "seed": seed,
        }

    def claims(self) -> list[Claim]:
        """Return the paper's statements as checks on a run's evidence."""
        return []

    def sections(self, evidence: Evidence) -> list[Section]:
        """Return the method's own sections of the report."""
        return []

    def network(self, task: Task, generator: torch.Generator, **changes: Any) -> nn.Module:
        """Return the task's default network, with ``hidden`` and ``dropout`` of the config and ``changes`` applied."""
        from qcore.nn.models import build_model

        name, values = task.default_model()
        own = {"hidden": self.config.hidden, "dropout": self.config.dropout}
        given = {key: value for key, value in own.items() if value is not None}
        return build_model(name, {**values, **given, **changes}, generator, registry=self.registry)

    def main_phase(self, name: str = "train", **changes: Any) -> Phase:
        """Return one phase with the options that every method has, AdamW, and ``changes`` applied."""
        config = self.config
        optimizers: Sequence[OptimizerConfig] = (OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay),)
        options: dict[str, Any] = {
            "epochs": config.epochs,
            "optimizers": tuple(optimizers),
            "batch_size": config.batch_size,
            "label_smoothing": config.label_smoothing,
            "patience": config.patience,
        }
        return Phase(name=name, **{**options, **changes})
