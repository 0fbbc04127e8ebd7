"""The method ``hetero_diffq``: learned step sizes and ranges under a byte budget that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from qcore.methods import Arm, CosinePart, Method, MethodConfig, OptimizerConfig, Phase
from qcore.training.data import as_floats
from qcore_hetero_diffq.budget.activations import trace_inputs
from qcore_hetero_diffq.budget.allocate import set_uniform
from qcore_hetero_diffq.budget.ledger import Ledger, Rules
from qcore_hetero_diffq.budget.penalties import AugmentedLagrangian, Keep, SquaredHinge, clip_to_step
from qcore_hetero_diffq.budget.setup import Asked, make_ledger, measurable, start_bits
from qcore_hetero_diffq.budget.sizes import parse_budget
from qcore_hetero_diffq.claims import list_claims
from qcore_hetero_diffq.config import HeteroDiffqConfig
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.observe import Watch, observe_budget
from qcore_hetero_diffq.quantizers.levels import BINARY
from qcore_hetero_diffq.rules import layer_rules
from qcore_hetero_diffq.schedule import Mixed, Project, WarmCosine
from qcore_hetero_diffq.sections import make_sections

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Claim, Evidence
    from qcore.runs.report import Section
    from qcore.tasks import Task

__all__ = ["HeteroDiffq"]

QUANTIZER_PARAMETERS = "*_quantizer.*"
ANY_FOLD, ANY_SEED = 10**6 - 1, 2**63 - 1
"""As long as the numbers of a job get: the file of any has no more bytes than with these."""
NAME_LENGTH = 20
"""Of an arm, as counted: else a budget that is written with more digits would itself make the file longer."""
WARM_EPOCHS = 2


class HeteroDiffq(Method):
    """Float training; one width for all; learned widths; widths that stand still, at or under the budget in bytes.

    Every convolution and linear layer is quantized, the first and the last included, and every input but the first
    layer's; biases and norms stay float32. All quantized arms begin with the float arm's weights and train for as many
    epochs; ``float_tuned`` does so in float32.

    Source: Schaefer et al., WACV 2024, arXiv:2206.07741. The augmented Lagrangian, the exact choice at the end, binary
    and 1.6-bit ternary rows are not the paper's.
    """

    Config: ClassVar[type[MethodConfig]] = HeteroDiffqConfig
    config: HeteroDiffqConfig

    def arms(self) -> list[Arm]:
        """Return float, one width for all, the method at each budget, and its ablations at one."""
        config, need = self.config, ("float",)
        mixed = [
            Arm(f"mixed_{_label(text)}", f"widths learned for each channel, {text}", {"budget": text}, need)
            for text in config.limits
        ]
        chosen = config.ablations or config.limits[0]
        label = _label(chosen)
        ablations = [
            Arm(f"tensor_{label}", "a width for each tensor", {"budget": chosen, "tensor": True}, need),
            Arm(f"ste_{label}", "without gradient modification", {"budget": chosen, "ste": True}, need),
            Arm(f"{self._other}_{label}", f"the {self._other} penalty", {"budget": chosen, "other": True}, need),
            Arm(f"chosen_{label}", "widths chosen, not learned", {"budget": chosen, "unlearned": True}, need),
            Arm(f"lsq_{label}", "the widest that fits, for all (LSQ)", {"budget": chosen, "lsq": True}, need),
        ]
        return [
            Arm("float", "the network in float32", baseline=True),
            Arm("float_tuned", "trained on in float32 as long as the others", {"float": True}, need),
            *(Arm(f"uniform{bits}", _summary(bits), {"uniform": bits}, need) for bits in config.uniform),
            *mixed,
            *ablations,
        ]

    @property
    def _other(self) -> str:
        return "paper" if self.config.penalty == "lagrangian" else "lagrangian"

    @property
    def _learns_linearly(self) -> bool:
        return "linear" in (self.config.weight.learn, self.config.activation.learn)

    def check(self, task: Task) -> None:
        """Build each arm's network once, and see whether its budget can be kept.

        Raises:
            BudgetInfeasible: it cannot.
        """
        network = self.network(task, torch.Generator().manual_seed(0))
        chosen = [arm for arm in self.arms() if self.config.arms is None or arm.name in self.config.arms]
        kinds = {(a.options["budget"], a.options.get("tensor")): a for a in reversed(chosen) if "budget" in a.options}
        for arm in kinds.values():
            self._ledger(self._quantized(network, arm, 8, 8), arm, task)

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the arm's network: new, or with the trained float weights and quantizers in place."""
        if arm.baseline:
            return self.network(task, generator)
        model, options = sources["float"], arm.options
        if options.get("float"):
            return model
        if "uniform" in options:
            return self._uniform(model, options["uniform"], surrogate=True)
        made = self._quantized(model, arm, 8, 8)
        ledger = self._ledger(made, arm, task)
        if options.get("lsq"):
            made = self._widest(model, ledger)
            ledger.attach(made)
            return made
        bits, input_bits = start_bits(made, ledger)
        made = self._quantized(model, arm, bits or self.config.weight_bits, input_bits or self.config.activation_bits)
        if bits is None:
            _stand_still([q for _, q in weights_of(made).values()], self.config.weight_bits)
        if input_bits is None:
            _stand_still(list(inputs_of(made).values()), self.config.activation_bits)
        ledger.attach(made)
        return made

    def network(self, task: Task, generator: torch.Generator, **changes: Any) -> nn.Module:
        """Return the task's network, or the config's with the task's channels and classes."""
        from qcore.nn import build_model

        config = self.config
        if config.model is None:
            return super().network(task, generator, **{**config.model_options, **changes})
        options: dict[str, Any] = {"out_features": task.out_features, **config.model_options}
        if task.data.inputs.dim() == 4:
            options.setdefault("in_channels", task.data.inputs.shape[1])
        return build_model(config.model, {**options, **changes}, generator, registry=self.registry)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return the float phase, or those that follow on it."""
        config, options = self.config, arm.options
        if arm.baseline:
            return [self._phase("float", config.epochs, config.lr, (0.0, 1.0))]
        parts = (config.homogeneous_epochs, config.mixed_epochs, config.tune_epochs)
        total = config.quantized_epochs
        ends = [sum(parts[:k]) / total for k in range(4)]
        if options.get("float"):
            return [self._phase("tune", total, config.homogeneous_lr, (0.0, 1.0))]
        first = self._phase("homogeneous", parts[0], config.homogeneous_lr, (0.0, ends[1]), quantizers=None)
        if "uniform" in options or options.get("lsq"):
            return [first, self._last_phase(parts[1] + parts[2], (ends[1], 1.0))]
        last = self._last_phase(parts[2], (ends[2], 1.0))
        project = Project(config.levels, config.batch_size, learned=not options.get("unlearned"))
        last = replace(last, before_step=project, after_epoch=Watch(parts[2]))
        if options.get("unlearned"):
            second = self._phase("homogeneous_on", parts[1], config.mixed_lr, (ends[1], ends[2]), quantizers=None)
            return [first, replace(second, before_step=Mixed(config.every, config.margin)), last]
        return [first, self._mixed_phase(arm, parts[1], (ends[1], ends[2])), last]

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return what :func:`observe_budget` tells of the network, the same for each sample."""
        found = observe_budget(model)
        return {name: torch.full((len(inputs),), value, dtype=torch.float64) for name, value in found.items()}

    def claims(self) -> list[Claim]:
        """Return the paper's statements, and that budgets are kept."""
        chosen = self.config.ablations or self.config.limits[0]
        return list_claims([_label(text) for text in self.config.limits], _label(chosen), self._other, self.config)

    def sections(self, evidence: Evidence) -> list[Section]:
        """Return the frontier, what became of the widths, and what is forgotten."""
        return make_sections(evidence, [_label(text) for text in self.config.limits])

    def _ledger(self, model: nn.Module, arm: Arm, task: Task) -> Ledger:
        """Return the ledger of a quantized network; its metadata are at least as long as those of any arm and job."""
        config, own = self.config, self.config.activation_budget
        asked = Asked(parse_budget(arm.options["budget"]), config.of, None if own is None else parse_budget(own))
        longest = max(self.arms(), key=lambda any_arm: len(any_arm.name))
        longest = replace(longest, name=longest.name.ljust(NAME_LENGTH, "_"))
        metadata = self.file_metadata(longest, task, fold=ANY_FOLD, seed=ANY_SEED)
        sizes = trace_inputs(model, as_floats(task.data.inputs[:1]))
        rules = Rules(sizes, config.counting, config.count_metadata, metadata, self.registry)
        return make_ledger(model, asked, rules, config.levels)

    def _quantized(self, model: nn.Module, arm: Arm, bits: int, input_bits: int) -> nn.Module:
        from qcore.nn import quantize

        config = self.config
        changes: dict[str, Any] = {"bits": bits}
        plain = {"surrogate": "ste"} if arm.options.get("ste") else {}
        if arm.options.get("tensor"):
            changes |= {"granularity": "tensor", "group_size": None}
        weight = {"quantizer": "hetero_diffq/sliced", **config.weight.model_dump(mode="json"), **changes, **plain}
        inputs = {"quantizer": "hetero_diffq/activation", **config.activation.model_dump(mode="json"), **plain}
        return quantize(model, layer_rules(model, weight, {**inputs, "bits": input_bits}), registry=self.registry)

    def _uniform(self, model: nn.Module, bits: int, *, surrogate: bool) -> nn.Module:
        inputs = self.config.activation_bits if self.config.of == "weights" else bits
        arm = Arm("uniform", "", {"ste": not surrogate})
        made = self._quantized(model, arm, bits, inputs)
        _stand_still([q for _, q in weights_of(made).values()], bits)
        _stand_still(list(inputs_of(made).values()), inputs)
        return made

    def _widest(self, model: nn.Module, ledger: Ledger) -> nn.Module:
        """Return the network of one width for all, the widest that the ledger's limits allow; binary if none does."""
        for bits in (8, 7, 6, 5, 4, 3, 2):
            made = self._uniform(model, bits, surrogate=False)
            if not ledger.rules.usage(measurable(made)).exceeds(ledger.limits):
                return made
        set_uniform(made, BINARY, None)
        return made

    def _phase(
        self,
        name: str,
        epochs: int,
        lr: float,
        part: tuple[float, float],
        *,
        quantizers: OptimizerConfig | None = None,
        **changes: Any,
    ) -> Phase:
        """Return a phase of the weights' optimizer; without one for the quantizers these stand still."""
        config = self.config
        weights = OptimizerConfig(
            name=config.optimizer,
            lr=lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum if config.optimizer != "adamw" else 0.0,
            lr_schedule=CosinePart(*part) if config.schedule == "cosine" else WarmCosine(_warm(epochs)),
        )
        last = name in ("float", "tune")
        options: dict[str, Any] = {
            "epochs": epochs,
            "optimizers": (weights,) if quantizers is None else (quantizers, weights),
            "trainable": _is_no_quantizer if quantizers is None else None,
            "restore_best": config.restore_best and last,
            "patience": config.patience if last else None,
        }
        return self.main_phase(name, **{**options, **changes})

    def _mixed_phase(self, arm: Arm, epochs: int, part: tuple[float, float]) -> Phase:
        config = self.config
        faithful = (config.penalty == "paper") != bool(arm.options.get("other"))
        moved = OptimizerConfig(
            name=config.quantizer_optimizer,
            lr=config.quantizer_lr,
            momentum=config.momentum if config.quantizer_optimizer == "rmsprop" else 0.0,
            params=QUANTIZER_PARAMETERS,
            every=config.every,
        )
        return self._phase(
            "mixed",
            epochs,
            config.mixed_lr,
            part,
            quantizers=moved,
            penalty=SquaredHinge(config.penalty_weight) if faithful else AugmentedLagrangian(),
            before_step=Mixed(config.every, config.margin),
            after_backward=clip_to_step if self._learns_linearly else None,
            after_step=Keep(config.every, multipliers=not faithful),
            after_epoch=Watch(epochs),
        )

    def _last_phase(self, epochs: int, part: tuple[float, float]) -> Phase:
        if not self.config.tune_steps:
            return self._phase("tune", epochs, self.config.tune_lr, part)
        steps = OptimizerConfig(
            name="adam", lr=self.config.step_lr, params=QUANTIZER_PARAMETERS, lr_schedule=CosinePart(0.0, 1.0)
        )
        keep = Keep(1) if self._learns_linearly else None
        return self._phase(
            "tune", epochs, self.config.tune_lr, part, quantizers=steps, trainable=_is_no_range, after_step=keep
        )


def _stand_still(quantizers: list[Any], bits: int) -> None:
    for quantizer in quantizers:
        quantizer.level.fill_(bits)


def _is_no_quantizer(name: str) -> bool:
    return "_quantizer." not in name


def _is_no_range(name: str) -> bool:
    return not name.endswith("_quantizer.range")


def _warm(epochs: int) -> float:
    return min(0.5, WARM_EPOCHS / epochs)


def _label(text: str) -> str:
    return parse_budget(text).label


def _summary(bits: int) -> str:
    return "ternary: 2 bits in the paper, stored in 1.6" if bits == 2 else f"{bits} bits throughout"
