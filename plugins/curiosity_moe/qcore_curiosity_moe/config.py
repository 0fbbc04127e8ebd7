"""Configs of the plugin. Torch-free, so that a listing validates them without importing torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qcore.methods.config import MethodConfig
from qcore.routers.config import RouterConfig

__all__ = [
    "BayesianRouterConfig",
    "CascadeConfig",
    "CuriosityMoEConfig",
    "EnsembleConfig",
    "MixtureConfig",
    "Reference",
]

Reference = str | dict[str, Any]
"""A quantizer: ``"plugin/name(option=value)"``, or a table with ``quantizer`` and its options."""

Rule = Literal["precision_prior", "sharpen", "info_gain"]
Uncertainty = Literal["mutual_information", "variance"]
Widths = tuple[int, ...]


class BayesianRouterConfig(RouterConfig):
    """Options of the router ``curiosity_moe/bayesian``.

    Attributes:
        bits: width of each expert, or any cost; without it the experts count as listed from low to high precision.
        hidden: widths of the two hidden layers.
        passes: masked passes M.
        dropout: share of hidden units that a mask drops.
        k: experts a row.
        alpha: strength of the rule; 0 is the identity.
        rule: ``precision_prior`` (p exp(alpha u beta)), ``sharpen`` (p^(1 + alpha)) or ``info_gain`` (p exp(alpha b)).
        base: ``mean`` of the passes, or the ``deterministic`` pass without masks.
        uncertainty: ``mutual_information`` or ``variance``.
        normalisation: ``calibrated``, or the reference's ``batch_minmax``.
        batch_dependent: ``batch_minmax`` must be asked for with this, as a row's route then depends on its batch, which
            no router may do by default: it is there to reproduce the reference.
        beta: ``linear`` in bits, or ``log2``.
        gate: weight of the chosen expert in training: its ``probability``, or 1 with the gradient of the
            probability (``straight_through``). In eval mode it is 1 (for k > 1: renormalised).
        prior_when: apply the rule in training and inference (``both``), or at ``inference`` only.
    """

    bits: tuple[float, ...] | None = Field(default=None, description="width of each expert")
    hidden: tuple[int, int] = Field(default=(128, 64), description="widths of the two hidden layers")
    passes: int = Field(default=10, ge=1, description="masked passes")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="share of hidden units that a mask drops")
    k: int = Field(default=1, ge=1, description="experts a row")
    alpha: float = Field(default=1.0, ge=0, description="strength of the rule; 0 is the identity")
    rule: Rule = Field(default="precision_prior", description="how uncertainty changes the probabilities")
    base: Literal["mean", "deterministic"] = Field(default="mean", description="probabilities before the rule")
    uncertainty: Uncertainty = Field(default="mutual_information", description="measure of uncertainty")
    normalisation: Literal["calibrated", "batch_minmax"] = Field(
        default="calibrated", description="map of the uncertainty to 0..1; batch_minmax depends on the batch"
    )
    batch_dependent: bool = Field(default=False, description="allow batch_minmax")
    beta: Literal["linear", "log2"] = Field(default="linear", description="scale of the bits in the prior")
    gate: Literal["probability", "straight_through"] = Field(default="probability", description="weight in training")
    prior_when: Literal["both", "inference"] = Field(default="both", description="when the rule applies")

    @model_validator(mode="after")
    def _one_width_an_expert(self) -> Self:
        if self.bits is not None and len(self.bits) != self.experts:
            raise ValueError(f"bits has {len(self.bits)} entries for {self.experts} experts")
        if self.bits is not None and min(self.bits) <= 0:
            raise ValueError("bits must be positive")
        if self.k > self.experts:
            raise ValueError(f"k = {self.k} is more than the {self.experts} experts")
        if self.normalisation == "batch_minmax" and not self.batch_dependent:
            raise ValueError("batch_minmax makes a route depend on the batch: ask for it with batch_dependent=true")
        return self


class NetworkConfig(BaseModel):
    """What the plugin's networks share: expert bodies as ``core/mlp`` builds them, and one scaler for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int = Field(ge=1, description="width of the input")
    out_features: int = Field(ge=1, description="classes, or 1")
    hidden: Widths = Field(default=(128, 64), min_length=1, description="widths of an expert's hidden layers")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout probability of the experts")
    rescale: bool = Field(default=False, description="give the output mean and spread of the training targets")


class MixtureConfig(NetworkConfig):
    """Options of the model ``curiosity_moe/mixture``.

    Attributes:
        experts: how many.
        trunk: whether the first hidden layer is shared: computed once, the experts being the layers after it.
        router: id of a registered router.
        routing: its options, without ``in_features`` and ``experts``.
    """

    experts: int = Field(default=3, ge=1, description="how many experts")
    trunk: bool = Field(default=False, description="share the first hidden layer")
    router: str = Field(default="curiosity_moe/bayesian", description="id of a registered router")
    routing: dict[str, Any] = Field(default_factory=dict, description="options of the router")

    @model_validator(mode="after")
    def _experts_keep_a_layer(self) -> Self:
        if self.trunk and len(self.hidden) < 2:
            raise ValueError("a shared trunk takes the first hidden layer, so there must be two or more")
        return self


class CascadeConfig(NetworkConfig):
    """Options of the model ``curiosity_moe/cascade``: ``stages`` networks, cheapest first."""

    stages: int = Field(default=2, ge=2, description="how many networks, the cheapest first")


class EnsembleConfig(NetworkConfig):
    """Options of the model ``curiosity_moe/ensemble``: the mean over ``members`` networks."""

    members: int = Field(default=3, ge=1, description="how many networks")


class CuriosityMoEConfig(MethodConfig):
    """Options of the method ``curiosity_moe/curiosity_moe``.

    Attributes:
        hidden: widths of the hidden layers; without it (640, 320) for 512 or more input features, else (128, 64).
        experts: weight quantizers of the mixture's experts.
        input: quantizer of the input of every quantized layer.
        trunk: share an 8-bit first layer between the experts.
        expert_training: ``joint`` trains experts and router together; ``pretrain`` takes the trained single models of
            the same fold as experts and trains the router alone. Without it ``joint``, and ``pretrain`` with a budget:
            a budget sends samples to experts that jointly trained ones never saw.
        router_hidden: widths of the router's two hidden layers; without it (128, 64) for 512 or more input features, as
            in the paper, else (32, 16), so that the float router does not outweigh the experts that it saves.
        router_dropout: share of the router's hidden units that a mask drops.
        mc_samples: masked passes of the router.
        alpha: strength of the precision prior in the arm ``moe_curiosity``.
        alpha_warmup: share of the training over which alpha rises from 0.
        balance: coefficient of the load balance penalty ``E sum_e F_e P_e``.
        balance_form: that, or the reference's ``l2_importance``, ``sum_e P_e^2``.
        budget_bits: most mean bits a sample, met on the validation part.
        budget_share: largest share of samples for the expert of the highest precision, met on the validation part.
        budget_knob: what is moved to meet it: ``bias`` (on beta, always possible) or ``alpha``.
        cascade_share: share of validation samples that the cascade sends on.
    """

    epochs: int = Field(default=40, ge=1, description="epochs of the main phase")
    lr: float = Field(default=2e-3, gt=0, description="learning rate, in every arm")
    weight_decay: float = Field(default=5e-3, ge=0, description="decoupled weight decay, in every arm")
    patience: int | None = Field(default=10, ge=1, description="epochs without a better validation score")
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the target spread over classes")
    dropout: float | None = Field(default=0.2, ge=0, lt=1, description="dropout probability of the experts")
    experts: tuple[Reference, ...] = Field(
        default=("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)"),
        min_length=1,
        description="weight quantizers of the mixture's experts",
    )
    input: Reference | None = Field(
        default="core/int(bits=8, granularity='token')", description="quantizer of a quantized layer's input"
    )
    trunk: bool = Field(default=False, description="share an 8-bit first layer between the experts")
    expert_training: Literal["joint", "pretrain"] | None = Field(
        default=None, description="how the experts are trained; joint, and with a budget pretrain"
    )
    router_hidden: tuple[int, int] | None = Field(default=None, description="widths of the router's hidden layers")
    router_dropout: float = Field(default=0.2, ge=0, lt=1, description="share of units that a router's mask drops")
    mc_samples: int = Field(default=10, ge=1, description="masked passes of the router")
    top_k: int = Field(default=1, ge=1, description="experts a row")
    alpha: float = Field(default=1.0, ge=0, description="strength of the precision prior")
    alpha_warmup: float = Field(default=0.25, ge=0, le=1, description="share of training over which alpha rises")
    rule: Rule = Field(default="precision_prior", description="how uncertainty changes the probabilities")
    base: Literal["mean", "deterministic"] = Field(default="mean", description="probabilities before the rule")
    uncertainty: Uncertainty = Field(default="mutual_information", description="measure of uncertainty")
    normalisation: Literal["calibrated", "batch_minmax"] = Field(
        default="calibrated", description="map of the uncertainty to 0..1; batch_minmax depends on the batch"
    )
    beta: Literal["linear", "log2"] = Field(default="linear", description="scale of the bits in the prior")
    gate: Literal["probability", "straight_through"] = Field(default="probability", description="weight in training")
    prior_when: Literal["both", "inference"] = Field(default="both", description="when the rule applies")
    balance: float = Field(default=1e-3, ge=0, description="coefficient of the load balance penalty")
    balance_form: Literal["switch", "l2_importance"] = Field(default="switch", description="form of that penalty")
    budget_bits: float | None = Field(default=None, gt=0, description="most mean bits a sample")
    budget_share: float | None = Field(default=None, ge=0, le=1, description="largest share of the top expert")
    budget_knob: Literal["bias", "alpha"] = Field(default="bias", description="what is moved to meet a budget")
    cascade_share: float = Field(default=0.3, ge=0, le=1, description="share of validation samples sent on")

    @field_validator("experts", mode="after")
    @classmethod
    def _experts_differ(cls, experts: tuple[Reference, ...]) -> tuple[Reference, ...]:
        doubled = [expert for i, expert in enumerate(experts) if expert in experts[:i]]
        if doubled:
            raise ValueError(f"{doubled[0]!r} is listed twice")
        return experts

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.budget_bits is not None and self.budget_share is not None:
            raise ValueError("give budget_bits or budget_share, not both")
        if self.top_k > len(self.experts):
            raise ValueError(f"top_k = {self.top_k} is more than the {len(self.experts)} experts")
        if self.trunk and self.pretrain:
            why = (
                "a budget needs experts that were trained alone, and these" if self.has_budget else "pretrained experts"
            )
            raise ValueError(f"{why} have no shared trunk: leave one out, or ask for expert_training=joint")
        if self.has_budget and self.top_k > 1:
            raise ValueError("a precision budget needs top_k = 1")
        return self

    @property
    def has_budget(self) -> bool:
        """Whether a precision budget is set."""
        return self.budget_bits is not None or self.budget_share is not None

    @property
    def pretrain(self) -> bool:
        """Whether the experts are the trained single models."""
        return self.expert_training == "pretrain" or (self.expert_training is None and self.has_budget)
