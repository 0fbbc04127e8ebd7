"""Config of the method. Torch-free."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qcore.methods.config import MethodConfig
from qcore_nmpqat.quantizers.config import ActivationConfig, NeuronConfig, NoiseConfig

__all__ = ["DiffQOptions", "NmpQatConfig"]

PAPER: dict[str, Any] = {
    "epochs": 100,
    "patience": 20,
    "hidden": (512, 512, 512, 512),
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "strength_optimizer": "sgd",
    "strength_lr": 1e-3,
    "start": "uniform",
    "freeze": 0.0,
    "neuron": {"hysteresis": 0.0},
}
"""What the paper says; its momentum is not given, and without one its recipe stays at the majority class."""


class LearnedNeuron(NeuronConfig):
    """Options of the weights' quantizer, whose widths do not flap around a threshold."""

    hysteresis: float = Field(default=0.02, ge=0, description="how far a strength must pass a threshold")


class LearnedActivation(ActivationConfig):
    """Options of the activations' quantizer, whose widths do not flap around a threshold."""

    hysteresis: float = Field(default=0.02, ge=0, description="how far a strength must pass a threshold")


class DiffQOptions(BaseModel):
    """Options of the arm ``diffq``; widths, hysteresis, ratchet and scale are those of ``neuron``.

    Attributes:
        lr: of the logits, by Adam. DiffQ has 1e-3 for trainings of 1e5 steps and more; in some hundred steps of it a
            logit hardly moves.
        distribution, start: options of ``nmpqat/noise``.
        settle: what weights are trained with once widths stand still: the codes, as in all other arms, or noise to the
            end, as DiffQ has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=0.02, gt=0, description="learning rate of the logits")
    distribution: Literal["uniform", "normal"] = Field(default="uniform", description="of the noise")
    start: float | None = Field(default=None, description="the real width that neurons begin with")
    settle: Literal["noise", "codes"] = Field(default="codes", description="training once widths stand still")


class NmpQatConfig(MethodConfig):
    """Options of the method ``nmpqat/nmpqat``.

    Attributes:
        preset: ``paper`` sets what the paper says where no option of yours says otherwise: SGD for weights and
            strengths alike, strengths that begin anywhere below the first threshold, no freeze.
        model: ``mlp``, the task's default network without norms, or ``tabular_transformer``.
        hidden: hidden layers of the MLP; the paper has four of 512.
        neuron: options of ``nmpqat/neuron``; uniform arms take its ``scale`` alone.
        activation: options of ``nmpqat/activation`` in the arm ``nmpqat_wa``.
        optimizer: of the weights, with ``lr``, ``weight_decay`` and ``schedule``.
        momentum: of SGD, for weights and strengths.
        strength_optimizer: of the strengths. Adam moves each by about ``strength_lr`` a step whatever the loss's scale,
            along a running mean of its demand.
        start: strengths begin in the middle of the lowest width, or uniformly within it.
        bit_price: what the mean width costs, added to the loss; 0 as in the paper.
        budget_bits: mean width of a weight that a network is to end with; None leaves it to the loss. What may be spent
            rises over the first half of the epochs and goes to the strongest neurons; a price, moved by dual ascent,
            keeps the rest from growing. When widths freeze the budget is met to a neuron.
        budget_rate: by how much the price moves a step for each bit over the budget.
        freeze: share of the epochs, the last ones, in which widths stand still and weights go on; the best epoch is
            one of them. 0: widths move to the end.
        diffq: whether there is an arm ``diffq``; naming it in ``arms`` says so too.
        noise: options of that arm.
    """

    preset: Literal["default", "paper"] = Field(default="default", description="where options begin")
    epochs: int = Field(default=60, ge=1, description="epochs, those with frozen widths included")
    batch_size: int = Field(default=128, ge=1, description="samples a step")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of the weights at the beginning")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of the weights")
    patience: int | None = Field(
        default=20, ge=1, description="epochs without a better validation score, once widths are frozen"
    )
    model: Literal["mlp", "tabular_transformer"] = Field(default="mlp", description="the network")
    hidden: tuple[int, ...] | None = Field(default=(128, 128, 128, 128), description="hidden layers of the MLP")
    neuron: LearnedNeuron = Field(default=LearnedNeuron(), description="options of nmpqat/neuron")
    activation: LearnedActivation = Field(default=LearnedActivation(), description="options of nmpqat/activation")
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="of the weights")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="of the weights' learning rate")
    strength_optimizer: Literal["adam", "sgd"] = Field(default="adam", description="of the strengths")
    strength_lr: float = Field(default=1e-3, gt=0, description="learning rate of the strengths")
    start: Literal["middle", "uniform"] = Field(default="middle", description="where strengths begin")
    bit_price: float = Field(default=0.0, ge=0, description="what a bit of the mean width costs")
    budget_bits: float | None = Field(default=None, gt=0, le=8, description="mean width of a weight to end with")
    budget_rate: float = Field(default=0.01, gt=0, description="how fast the price moves")
    freeze: float = Field(default=0.15, ge=0, lt=1, description="share of the epochs with frozen widths")
    diffq: bool = Field(default=False, description="whether there is an arm of DiffQ, trained with noise")
    noise: DiffQOptions = Field(default=DiffQOptions(), description="options of the arm diffq")

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            given = values.get("neuron")
            neuron = {**PAPER["neuron"], **given} if isinstance(given, dict) else given or PAPER["neuron"]
            return {**PAPER, **values, "neuron": neuron}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        widths = self.neuron.widths
        if self.budget_bits is not None and not widths[0] <= self.budget_bits <= widths[-1]:
            raise ValueError(
                f"a budget of {self.budget_bits:g} bits is not between widths {widths[0]} and {widths[-1]}"
            )
        if self.budget_bits is not None and not self.frozen_epochs:
            raise ValueError("a budget is met when widths freeze: leave freeze above 0, and epochs above 1")
        if self.has_diffq:
            if not self.frozen_epochs:
                raise ValueError("diffq gets its mean width when widths freeze: leave freeze above 0")
            self.noise_quantizer()
        return self

    @property
    def has_diffq(self) -> bool:
        """Whether the arm ``diffq`` is asked for."""
        return self.diffq or "diffq" in (self.arms or ())

    def noise_quantizer(self) -> NoiseConfig:
        """Return the options of ``nmpqat/noise`` in the arm ``diffq``: a neuron's, as far as noise has them.

        Raises:
            ValueError: they do not go together.
        """
        neuron, noise = self.neuron, self.noise
        return NoiseConfig(
            widths=tuple(width for width in neuron.widths if width),
            hysteresis=neuron.hysteresis,
            ratchet=neuron.ratchet,
            scale="absmax" if neuron.scale == "absmax" else "mse",
            distribution=noise.distribution,
            start=noise.start,
            settle=noise.settle,
        )

    @property
    def frozen_epochs(self) -> int:
        """How many of the epochs have frozen widths."""
        return 0 if not self.freeze else min(self.epochs - 1, max(1, round(self.freeze * self.epochs)))
