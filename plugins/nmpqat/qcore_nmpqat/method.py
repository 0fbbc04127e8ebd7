"""The method ``nmpqat``: every neuron learns its own width, beside float, uniform widths and other ways to choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from qcore.errors import UsageError
from qcore.methods import Arm, CosinePart, Method, MethodConfig, OptimizerConfig, Phase
from qcore_nmpqat import allocation
from qcore_nmpqat.budget import BitPrice, DualAscent, Glide, SpendBudget, meet_own_budget
from qcore_nmpqat.claims import list_claims
from qcore_nmpqat.config import NmpQatConfig
from qcore_nmpqat.network import neurons, start_anywhere, weight_counts
from qcore_nmpqat.observe import Watch, observe_widths
from qcore_nmpqat.sections import make_sections

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Claim, Evidence
    from qcore.runs.report import Section
    from qcore.tasks import Task

__all__ = ["NmpQat"]

LEARNED = "nmpqat"
"""The arm whose mean width others are given."""

SPENT_BETWEEN = (0.1, 0.5)
"""Shares of the epochs with moving widths between which a budget may be spent."""


ROUNDING = 1e-6
"""Bits by which a mean width may be above another that it is to equal: sums of many weights are rounded."""


class NmpQat(Method):
    """One network, recipe and number of epochs for all arms; the head and what enters the network stay float.

    Widths move, then stand still for the last epochs, of which the best by validation score counts; arms without
    learned widths are trained and chosen in the same two phases.

    Source: Varshney et al. 2026, arXiv:2605.25054.
    """

    Config: ClassVar[type[MethodConfig]] = NmpQatConfig
    config: NmpQatConfig

    def arms(self) -> list[Arm]:
        """Return float, the method, uniform widths, and other allocations of the method's mean width.

        The arm ``diffq`` is among them only if it is asked for.
        """
        own = (LEARNED,)
        asked = [Arm("diffq", "nmpqat's mean width, learned with noise (DiffQ)", {"noise": True}, own)]
        return [
            Arm("float", "the network in float32", baseline=True),
            Arm("nmpqat", "each neuron learns the width of its weights", {"learn": True}),
            Arm("nmpqat_wa", "and each activation the width and clip of its own", {"learn": True, "input": True}),
            Arm("uniform1", "1 bit, a scale a neuron", {"widths": (1,)}),
            Arm("ternary", "weights -1, 0, +1, a scale a neuron", {"weight": "bitnet/ternary(granularity='row')"}),
            Arm("uniform2", "2 bits, a scale a neuron", {"widths": (2,)}),
            Arm("uniform4", "4 bits, a scale a neuron", {"widths": (4,)}),
            Arm("uniform8", "8 bits, a scale a neuron", {"widths": (8,)}),
            Arm("lsq", "a width a layer at nmpqat's mean, learned steps (LSQ)", {"by": "layer", "lsq": True}, own),
            Arm("layerwise", "a width a layer at nmpqat's mean", {"by": "layer"}, own),
            Arm("random", "nmpqat's widths, dealt out anew in each layer", {"by": "chance"}, own),
            Arm("oracle", "reverse water-filling of the float arm at nmpqat's mean", {"by": "spread"}, ("float", *own)),
            *(asked if self.config.has_diffq else ()),
        ]

    def check(self, task: Task) -> None:
        """Make the quantizers once.

        Raises:
            UsageError: the network is no MLP for the task's inputs.
        """
        from qcore.quantizers import make_quantizer

        for reference in (self._neuron(), self._activation(), "bitnet/ternary(granularity='row')"):
            make_quantizer(reference, self.registry)
        if task.data.inputs.dim() != 2:
            raise UsageError(
                f"nmpqat has networks for rows of features, and {task.spec_id or 'this task'} has inputs "
                f"{tuple(task.data.inputs.shape[1:])}",
                "choose a tabular task, or use nmpqat/neuron with qcore.quantize",
            )

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the arm's new network with quantizers in place."""
        from qcore.nn import quantize

        model = self.network(task, generator)
        options = arm.options
        if arm.baseline:
            return model
        if "weight" in options:
            return quantize(model, _rules(model, options["weight"], None), registry=self.registry)
        if "noise" in options:
            return self._noisy(model, sources)
        changes: dict[str, Any] = {"widths": options["widths"], "thresholds": None} if "widths" in options else {}
        if options.get("lsq"):
            changes["scale"] = "learned"
        inputs = self._activation() if options.get("input") else None
        made = quantize(model, _rules(model, {**self._neuron(), **changes}, inputs), registry=self.registry)
        if options.get("learn") and self.config.start == "uniform":
            start_anywhere(made, generator)
        if "by" in options:
            for path, widths in self._allocated(options["by"], made, generator, sources).items():
                neurons(made)[path][1].set_widths(widths)
        return made

    def network(self, task: Task, generator: torch.Generator, **changes: Any) -> nn.Module:
        """Return the task's network: an MLP without norms or dropout, as in the paper, or the transformer."""
        from qcore.nn import build_model

        name, values = task.default_model()
        if self.config.model == "tabular_transformer":
            given = {key: values[key] for key in ("in_features", "out_features", "rescale") if key in values}
            return build_model("nmpqat/tabular_transformer", given | changes, generator, registry=self.registry)
        return super().network(task, generator, pre_norm=False, post_norm=False, dropout=0.0, **changes)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return a phase in which widths move and one in which they stand still; or the first alone, without freeze."""
        if "noise" in arm.options:
            return self._noisy_phases()
        config = self.config
        frozen, learns = config.frozen_epochs, bool(arm.options.get("learn"))
        moving = config.epochs - frozen
        first = self._phase("learn", moving, 0.0, moving / config.epochs, strengths=learns)
        if learns:
            first = replace(first, after_epoch=Watch(moving), **self._prices())
        if not frozen:
            return [replace(first, patience=config.patience)]
        last = self._phase("freeze", frozen, moving / config.epochs, 1.0, strengths=False)
        if learns:
            spend = None if config.budget_bits is None else SpendBudget(config.budget_bits)
            last = replace(last, after_epoch=Watch(frozen), before_step=spend)
        return [replace(first, patience=None, restore_best=False), replace(last, patience=config.patience)]

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return what :func:`observe_widths` tells of the network, the same for each sample."""
        found = observe_widths(model)
        return {name: torch.full((len(inputs),), value, dtype=torch.float64) for name, value in found.items()}

    def claims(self) -> list[Claim]:
        """Return the paper's statements, and those it should have been asked."""
        return list_claims(self.config.budget_bits, diffq=self.config.has_diffq)

    def sections(self, evidence: Evidence) -> list[Section]:
        """Return what became of the widths, and why."""
        return make_sections(evidence)

    def _neuron(self) -> dict[str, Any]:
        return {"quantizer": "nmpqat/neuron", **self.config.neuron.model_dump(mode="json")}

    def _activation(self) -> dict[str, Any]:
        return {"quantizer": "nmpqat/activation", **self.config.activation.model_dump(mode="json")}

    def _phase(self, name: str, epochs: int, begin: float, end: float, *, strengths: bool) -> Phase:
        config = self.config
        schedule = CosinePart(begin, end) if config.schedule == "cosine" else None
        kind: Any = "adamw" if config.optimizer == "adam" else "sgd"
        momentum = config.momentum if config.optimizer == "sgd" else 0.0
        weights = OptimizerConfig(
            name=kind, lr=config.lr, weight_decay=config.weight_decay, momentum=momentum, lr_schedule=schedule
        )
        moved = OptimizerConfig(
            name=config.strength_optimizer,
            lr=config.strength_lr,
            momentum=config.momentum if config.strength_optimizer == "sgd" else 0.0,
            params="*strength",
        )
        return self.main_phase(
            name,
            epochs=epochs,
            optimizers=(moved, weights) if strengths else (weights,),
            trainable=None if strengths else is_no_strength,
        )

    def _prices(self) -> dict[str, Any]:
        config = self.config
        if config.budget_bits is None:
            return {"penalty": BitPrice(config.bit_price)} if config.bit_price else {}
        return {
            "penalty": BitPrice(config.bit_price),
            "after_step": DualAscent(config.budget_bits, config.budget_rate),
            "before_step": SpendBudget(config.budget_bits, SPENT_BETWEEN),
        }

    def _allocated(
        self, by: str, model: nn.Module, generator: torch.Generator, sources: Mapping[str, nn.Module]
    ) -> dict[str, Tensor]:
        learned = {path: _row_bits(sources[LEARNED], path) for path in neurons(model)}
        if by == "chance":
            return allocation.dealt_out(learned, generator)
        counts = {path: weight_counts(layer) for path, (layer, _) in neurons(model).items()}
        mean = _mean_width(learned, counts)
        latent = dict((sources["float"] if by == "spread" else model).named_modules())
        spreads = {path: _spread(latent[path]) for path in learned}
        choice = [width for width in self.config.neuron.widths if width]
        allocate = allocation.by_spread if by == "spread" else allocation.by_layer
        return allocate(spreads, counts, choice, mean)

    def _noisy(self, model: nn.Module, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the network of the arm ``diffq``, whose budget is the mean width of ``nmpqat``."""
        from qcore.nn import quantize

        options = {"quantizer": "nmpqat/noise", **self.config.noise_quantizer().model_dump(mode="json")}
        made = quantize(model, _rules(model, options, None), registry=self.registry)
        found = neurons(made)
        learned = {path: _row_bits(sources[LEARNED], path) for path in found}
        mean = _mean_width(learned, {path: weight_counts(layer) for path, (layer, _) in found.items()})
        for _, quantizer in found.values():
            quantizer.get_buffer("budget").fill_(mean + ROUNDING)
        return made

    def _noisy_phases(self) -> list[Phase]:
        """Return the two phases of ``nmpqat``, in the first of which logits move from their start to the budget."""
        config = self.config
        frozen = config.frozen_epochs
        moving = config.epochs - frozen
        glide = Glide(config.noise_quantizer().first_width, SPENT_BETWEEN, config.budget_rate)
        first = self._phase("learn", moving, 0.0, moving / config.epochs, strengths=True)
        logits = OptimizerConfig(name="adam", lr=config.noise.lr, params="*logit")
        first = replace(
            first,
            optimizers=(logits, *first.optimizers[1:]),
            patience=None,
            restore_best=False,
            penalty=BitPrice(config.bit_price),
            before_step=glide.before_step,
            after_step=glide.after_step,
            after_epoch=Watch(moving),
        )
        last = self._phase("freeze", frozen, moving / config.epochs, 1.0, strengths=False)
        return [first, replace(last, patience=config.patience, before_step=meet_own_budget, after_epoch=Watch(frozen))]


def is_no_strength(name: str) -> bool:
    """Return whether a parameter is trained where widths stand still."""
    return not name.endswith(("strength", "logit"))


def _mean_width(widths: Mapping[str, Tensor], counts: Mapping[str, int]) -> float:
    """Return the mean width of a weight, of neurons of ``widths`` (neurons,) and ``counts`` weights each, by layer."""
    weights = sum(counts[path] * len(found) for path, found in widths.items())
    return sum(counts[path] * int(found.sum()) for path, found in widths.items()) / weights


def _spread(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.get_parameter("weight").detach()
    return weight.flatten(1).double().var(dim=1, correction=0)


def _row_bits(model: nn.Module, path: str) -> Tensor:
    from qcore.nn import PackedLayer

    layer = model.get_submodule(path)
    assert isinstance(layer, PackedLayer)
    weight = layer.weight
    pruned = (weight.scale == 0).all(dim=1)
    return weight.row_bits().masked_fill(pruned, 0) if weight.scale.shape[0] > 1 else weight.row_bits()


def _rules(model: nn.Module, weight: str | Mapping[str, Any], inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return rules for all linear layers but the head; what enters an MLP stays float."""
    from torch import nn

    from qcore.nn.mlp import MLP

    layers = [path for path, module in model.named_modules() if type(module) is nn.Linear]
    kept = [path for path in layers if path.rpartition(".")[2] == "head"]
    quantized = [path for path in layers if path not in kept]
    first = {quantized[0]: weight} if isinstance(model, MLP) else {}
    return {**dict.fromkeys(kept), **first, "type:Linear": {"weight": weight, "input": inputs}}
