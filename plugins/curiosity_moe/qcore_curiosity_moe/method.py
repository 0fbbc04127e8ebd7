"""The method ``curiosity_moe/curiosity_moe``: the mixture, its experts alone, and the simpler rules beside it.

Every arm is built from the same blocks and trained with the same optimizer, stopping rule and checkpoint rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from qcore.errors import UsageError
from qcore.methods import Arm, Method, MethodConfig, Phase, Progress
from qcore.nn import build_model, load_balance, quantize
from qcore.quantizers import make_quantizer
from qcore_curiosity_moe.bayesian import BayesianRouter
from qcore_curiosity_moe.budget import Budget, meet_budget
from qcore_curiosity_moe.claims import make_claims
from qcore_curiosity_moe.config import CuriosityMoEConfig
from qcore_curiosity_moe.evidence import observe_cascade, observe_mixture
from qcore_curiosity_moe.experts import STANDARD, contenders, expert_bits, expert_name, mixture_rules, single_rules
from qcore_curiosity_moe.models import CascadeNetwork, Ensemble, Mixture, adopt
from qcore_curiosity_moe.sections import make_sections

if TYPE_CHECKING:
    from qcore.methods import Claim, Evidence
    from qcore.runs.report import Section
    from qcore.tasks.base import Task
    from qcore.training.data import FoldTensors

__all__ = ["CASCADE", "CuriosityMoE"]

CASCADE = ("int4", "int8")
"""Stages of the cascade, the cheapest first."""

MIXTURES = {
    "moe_softmax": "mixture routed by its probabilities alone",
    "moe_curiosity": "mixture routed by uncertainty",
}
WIDE_FEATURES = 512
WIDE, NARROW = (640, 320), (128, 64)
WIDE_ROUTER, NARROW_ROUTER = (128, 64), (32, 16)


class CuriosityMoE(Method):
    """A mixture of quantized experts, routed by uncertainty, and everything it must be compared with."""

    Config: ClassVar[type[MethodConfig]] = CuriosityMoEConfig
    config: CuriosityMoEConfig

    @property
    def budget(self) -> Budget:
        """The precision budget; not set by default."""
        return Budget(self.config.budget_bits, self.config.budget_share)

    def arms(self) -> list[Arm]:
        """Return float, each expert alone, PTQ, both mixtures, the cascade and the ensemble."""
        config = self.config
        own = tuple(expert_name(expert) for expert in config.experts)
        needs = own if config.pretrain else ()
        singles = contenders(config.experts)
        return [
            Arm("float", "one network in float32", baseline=True),
            *(Arm(name, f"one network, weights {_text(expert)}") for name, expert in singles.items()),
            Arm("ptq_int8", "the float arm after training, weights of 8 bits", needs=("float",)),
            *(Arm(name, summary, needs=needs) for name, summary in MIXTURES.items()),
            Arm("cascade", f"{CASCADE[0]}, then {CASCADE[1]} where its softmax margin is small", needs=CASCADE),
            Arm("ensemble", "the mean of the probabilities of the experts", needs=own),
        ]

    def check(self, task: Task) -> None:
        """Look at the task, and make every quantizer once."""
        self.body(task)
        references = [*contenders(self.config.experts).values(), self.config.input]
        for reference in references:
            if reference is not None:
                make_quantizer(reference, self.registry)

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the network of ``arm``; raises UsageError where the task does not suit."""
        body = self.body(task)
        if arm.name in MIXTURES:
            return self.mixture(arm, body, generator, sources)
        if arm.name == "cascade":
            model = self._build("cascade", {**body, "stages": len(CASCADE)}, generator)
            network = cast(CascadeNetwork, model)
            adopt(network, network.cascade.stages, [sources[name] for name in CASCADE])
            return model
        if arm.name == "ensemble":
            model = self._build("ensemble", {**body, "members": len(arm.needs)}, generator)
            adopt(cast(Ensemble, model), cast(Ensemble, model).members, [sources[name] for name in arm.needs])
            return model
        if arm.name == "ptq_int8":
            return self.quantized(sources["float"], STANDARD["int8"])
        model = build_model("core/mlp", body, generator, registry=self.registry)
        return model if arm.name == "float" else self.quantized(model, contenders(self.config.experts)[arm.name])

    def phases(self, arm: Arm) -> list[Phase]:
        """Return one phase, the same for all; nothing for the arms that are put together from trained ones."""
        config = self.config
        if arm.name in ("ptq_int8", "cascade", "ensemble"):
            return []
        if arm.name not in MIXTURES:
            return [self.main_phase()]
        return [
            self.main_phase(
                trainable=_is_router if config.pretrain else None,
                penalty=partial(balance_penalty, coefficient=config.balance, form=config.balance_form),
                before_step=partial(warm_up, share=config.alpha_warmup),
            )
        ]

    def calibrate(self, arm: Arm, model: nn.Module, data: FoldTensors) -> nn.Module:
        """Set static scales, the map of the uncertainty, the precision budget, and the cascade's thresholds.

        All but the scales are set on the validation part, where there is one: networks are surer of what they were
        trained on, and a threshold set there sends too many unseen samples on.
        """
        from qcore.training import as_floats

        model = super().calibrate(arm, model, data)
        unseen = as_floats(data.validation_inputs if len(data.validation_inputs) else data.train_inputs)
        if isinstance(model, Mixture):
            self._calibrate_router(arm, model, model.scaler(unseen))
        if isinstance(model, CascadeNetwork):
            model.cascade.fit_thresholds(model.scaler(unseen), self.config.cascade_share)
        return model

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return which expert took each row, at how many bits, and how uncertain the route was."""
        from qcore.training import as_floats

        inputs = as_floats(inputs)
        if isinstance(model, Mixture):
            return observe_mixture(model, inputs, expert_bits(self.config.experts, self.registry))
        if isinstance(model, CascadeNetwork):
            return observe_cascade(model, inputs, expert_bits([STANDARD[name] for name in CASCADE], self.registry))
        return {}

    def claims(self) -> list[Claim]:
        """Return the paper's statements, and those it should have been asked."""
        return make_claims()

    def sections(self, evidence: Evidence) -> list[Section]:
        """Return what curiosity did to the routes."""
        return make_sections(evidence)

    def body(self, task: Task) -> dict[str, Any]:
        """Return the config that all networks share.

        Raises:
            UsageError: the task's samples are no feature vectors, or it has no margin for the cascade to look at.
        """
        config = self.config
        name, values = task.default_model()
        if name != "core/mlp":
            raise UsageError(
                f"curiosity_moe works on feature vectors, and this task's network is {name}",
                "bring features as a table: --task table --data FILE --target COLUMN",
            )
        if task.problem == "regression" and (config.arms is None or "cascade" in config.arms):
            names = ", ".join(f'"{arm.name}"' for arm in self.arms() if arm.name != "cascade")
            raise UsageError(
                "the arm 'cascade' goes by the softmax margin, which a regression does not have",
                f"name the other arms: --set arms='[{names}]'",
            )
        hidden = config.hidden or (WIDE if values["in_features"] >= WIDE_FEATURES else NARROW)
        dropout = {} if config.dropout is None else {"dropout": config.dropout}
        return {**values, "hidden": hidden, **dropout}

    def mixture(
        self, arm: Arm, body: Mapping[str, Any], generator: torch.Generator, sources: Mapping[str, nn.Module]
    ) -> nn.Module:
        """Return the mixture, its experts quantized, or taken over from the trained single models."""
        config = self.config
        alpha = config.alpha if arm.name == "moe_curiosity" else 0.0
        routing = self.routing(alpha, body["in_features"])
        shape = {"experts": len(config.experts), "trunk": config.trunk, "routing": routing}
        model = self._build("mixture", {**body, **shape}, generator)
        if config.pretrain:
            network = cast(Mixture, model)
            adopt(network, network.moe.experts, [sources[name] for name in arm.needs])
            return model
        rules = mixture_rules(config.experts, config.input, trunk=config.trunk)
        return quantize(model, rules, inplace=True, registry=self.registry)

    def routing(self, alpha: float, in_features: int) -> dict[str, Any]:
        """Return the router's options."""
        config = self.config
        default = WIDE_ROUTER if in_features >= WIDE_FEATURES else NARROW_ROUTER
        return {
            "bits": expert_bits(config.experts, self.registry),
            "hidden": config.router_hidden or default,
            "passes": config.mc_samples,
            "dropout": config.router_dropout,
            "k": config.top_k,
            "alpha": alpha,
            "rule": config.rule,
            "base": config.base,
            "uncertainty": config.uncertainty,
            "normalisation": config.normalisation,
            "batch_dependent": config.normalisation == "batch_minmax",
            "beta": config.beta,
            "gate": config.gate,
            "prior_when": config.prior_when,
        }

    def quantized(self, model: nn.Module, expert: Any) -> nn.Module:
        """Return ``model``, a ``core/mlp``, with its hidden layers quantized."""
        return quantize(model, single_rules(expert, self.config.input), registry=self.registry)

    def _build(self, name: str, config: Mapping[str, Any], generator: torch.Generator) -> nn.Module:
        return build_model(f"curiosity_moe/{name}", config, generator, registry=self.registry)

    def _calibrate_router(self, arm: Arm, model: Mixture, scaled: Tensor) -> None:
        config, router = self.config, model.moe.router
        router.calibrate(scaled)
        plain = arm.name == "moe_softmax" and config.budget_knob == "alpha"
        if self.budget.is_set and isinstance(router, BayesianRouter) and not plain:
            meet_budget(router, scaled, expert_bits(config.experts, self.registry), self.budget, config.budget_knob)


def balance_penalty(model: nn.Module, *, coefficient: float, form: str) -> Tensor:
    """Return ``c E sum_e F_e P_e`` (``switch``) or ``c sum_e P_e^2`` (``l2_importance``) of the latest routing."""
    routing = cast(Mixture, model).moe.last_routing
    if routing is None:
        return torch.zeros(())
    if form == "switch":
        return coefficient * load_balance(routing)
    return coefficient * routing.probabilities.mean(dim=0).square().sum()


def warm_up(model: nn.Module, progress: Progress, *, share: float) -> None:
    """Let alpha rise linearly from 0 over the first ``share`` of the steps; eval mode always uses all of it."""
    router = cast(Mixture, model).moe.router
    if isinstance(router, BayesianRouter):
        router.ramp.fill_(min(1.0, progress.fraction / share) if share > 0 else 1.0)


def _is_router(name: str) -> bool:
    return name.startswith("moe.router.")


def _text(expert: Any) -> str:
    return expert if isinstance(expert, str) else str(expert.get("quantizer"))
