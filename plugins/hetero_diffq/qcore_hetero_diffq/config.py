"""Config of the method. Torch-free."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from qcore.methods.config import MethodConfig
from qcore_hetero_diffq.budget.sizes import check_levels, parse_budget
from qcore_hetero_diffq.quantizers.config import ActivationConfig, SlicedConfig

__all__ = ["HeteroDiffqConfig"]

PAPER: dict[str, Any] = {
    "epochs": 50,
    "homogeneous_epochs": 50,
    "mixed_epochs": 50,
    "tune_epochs": 50,
    "batch_size": 1024,
    "optimizer": "rmsprop",
    "lr": 5e-3,
    "homogeneous_lr": 5e-3,
    "mixed_lr": 5e-5,
    "tune_lr": 5e-5,
    "weight_decay": 1e-5,
    "label_smoothing": 0.1,
    "schedule": "phases",
    "patience": None,
    "quantizer_optimizer": "rmsprop",
    "quantizer_lr": 5e-5,
    "every": 20,
    "penalty": "paper",
    "weight": {"learn": "linear", "step_limits": (2.0**-12, 1.0), "range_limits": (2.0**-8, 127.0)},
    "activation": {"learn": "linear", "step_limits": (2.0**-12, 8.0), "range_limits": (2.0**-8, 127.0), "batches": 1},
    "restore_best": False,
    "tune_steps": False,
}
"""The authors' recipe: RMSProp, each phase with a warm-up and a cosine of its own, a penalty on kB."""


class HeteroDiffqConfig(MethodConfig):
    """Options of the method ``hetero_diffq/hetero_diffq``.

    Attributes:
        preset: ``paper`` sets the authors' recipe where no option of yours says otherwise.
        budget: one limit, instead of ``budgets``.
        budgets: limits, each an arm ``mixed_...``: ``120KB``, ``1.5MiB``, or ``3bit``, the bytes that 3 bits for every
            quantized weight (number) would take with all that is beside them.
        of: what a limit counts: ``weights``, the whole model file; ``activations``, one sample's quantized inputs; or
            ``both`` together. What is not limited has ``weight_bits`` and ``activation_bits``.
        activation_budget: a limit of their own for activations, beside that of weights.
        counting: activations of all layers together (the paper's), the largest, or the most that lives at one time.
        count_metadata: count the file as it is; false: codes alone, as papers do.
        levels: widths that a row of weights ends with; 1 binary, 2 ternary in 1.6 bits.
        uniform: widths of the arms ``uniform...``.
        ablations: budget, as written, at which ablations and LSQ run; None: the first.
        hidden: of the task's own network, if that is an MLP: 256 and 128 if not given.
        model: a registered network, or None for the task's own.
        model_options: its options beside channels and classes.
        weight, activation: options of the quantizers, but for ``bits``: the widths to begin with follow from a budget.
        epochs: of the float phase; the others follow on its weights.
        lr, homogeneous_lr, mixed_lr, tune_lr: of the weights in each phase.
        schedule: ``cosine``: one over the three quantized phases; ``phases``: one each, after a warm-up.
        quantizer_lr: of steps and ranges in the mixed phase.
        tune_steps: whether steps whose width stands still are learned in the last phase, at ``step_lr``.
        every: the mixed phase moves steps and ranges at each so-manieth step.
        penalty: ``lagrangian`` (relative units, multipliers) or ``paper`` (squared kB over the limit).
        penalty_weight: of the paper's penalty.
        margin: share by which the Lagrangian aims below the limit.
        restore_best: whether training ends with the weights of the last phase's best epoch.
    """

    preset: Literal["default", "paper"] = Field(default="default", description="where options begin")
    budget: str | None = Field(default=None, description="one limit, like 120KB or 3bit")
    budgets: tuple[str, ...] = Field(default=("1.2bit", "1.6bit", "2bit", "3bit"), description="limits to compare")
    of: Literal["weights", "activations", "both"] = Field(default="weights", description="what a limit counts")
    activation_budget: str | None = Field(default=None, description="a limit of their own for activations")
    counting: Literal["sum", "max", "peak"] = Field(default="sum", description="how activations are counted")
    count_metadata: bool = Field(default=True, description="count the whole file; false: codes alone")
    levels: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5, 6, 7, 8), description="widths that a row ends with")
    uniform: tuple[int, ...] = Field(default=(2, 3, 4, 8), description="widths of the homogeneous arms")
    ablations: str | None = Field(default=None, description="budget of the ablations; the first if not given")
    hidden: tuple[int, ...] | None = Field(default=None, description="hidden layers of a task's MLP; else 256 and 128")
    model: str | None = Field(default=None, description="a registered network; the task's own if not given")
    model_options: dict[str, Any] = Field(default_factory=dict, description="options of that network")
    weight: SlicedConfig = Field(default=SlicedConfig(), description="options of hetero_diffq/sliced")
    activation: ActivationConfig = Field(default=ActivationConfig(), description="options of hetero_diffq/activation")
    weight_bits: int = Field(default=8, ge=2, le=8, description="width of weights that no budget limits")
    activation_bits: int = Field(default=8, ge=2, le=8, description="width of inputs that no budget limits")
    epochs: int = Field(default=20, ge=1, description="epochs of the float phase")
    homogeneous_epochs: int = Field(default=3, ge=1, description="epochs with one width for all")
    mixed_epochs: int = Field(default=7, ge=1, description="epochs in which widths are learned")
    tune_epochs: int = Field(default=10, ge=1, description="epochs after widths stand still")
    optimizer: Literal["adamw", "sgd", "rmsprop"] = Field(default="adamw", description="of the weights")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD and RMSProp")
    homogeneous_lr: float = Field(default=2e-3, gt=0, description="learning rate of the homogeneous phase")
    mixed_lr: float = Field(default=2e-3, gt=0, description="learning rate of the mixed phase")
    tune_lr: float = Field(default=2e-3, gt=0, description="learning rate of the last phase")
    schedule: Literal["cosine", "phases"] = Field(default="cosine", description="of the learning rates")
    quantizer_optimizer: Literal["adam", "rmsprop"] = Field(default="adam", description="of steps and ranges")
    quantizer_lr: float = Field(default=3e-2, gt=0, description="learning rate of steps and ranges")
    tune_steps: bool = Field(default=True, description="learn steps whose width stands still")
    step_lr: float = Field(default=1e-3, gt=0, description="learning rate of steps whose width stands still")
    every: int = Field(default=2, ge=1, description="steps and ranges move at each so-manieth step")
    penalty: Literal["lagrangian", "paper"] = Field(default="lagrangian", description="what being over a limit costs")
    penalty_weight: float = Field(default=1e-4, gt=0, description="of the paper's penalty")
    margin: float = Field(default=0.005, ge=0, lt=1, description="share below the limit that is aimed at")
    patience: int | None = Field(default=None, ge=1, description="epochs of the last phase without a better score")
    restore_best: bool = Field(default=True, description="end with the best epoch of the last phase")

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") != "paper":
            return values
        nested = {
            key: {**PAPER[key], **values[key]} for key in ("weight", "activation") if isinstance(values.get(key), dict)
        }
        return {**PAPER, **values, **nested}

    @field_validator("budget", "activation_budget", "budgets")
    @classmethod
    def _can_be_read(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for text in (value,) if isinstance(value, str) else value or ():
            parse_budget(text)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_levels(self.levels)
        if not set(self.uniform) <= set(range(2, 9)):
            raise ValueError(f"uniform widths are among 2 to 8, not {list(self.uniform)}")
        if self.activation_budget is not None and self.of != "weights":
            raise ValueError("activation_budget stands beside a budget of weights: leave 'of' at weights")
        labels = [parse_budget(text).label for text in self.limits]
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"budgets are given, and differ: {list(self.limits)}")
        begun = (self.weight.bits, SlicedConfig().bits), (self.activation.bits, ActivationConfig().bits)
        if any(bits != own for bits, own in begun):
            raise ValueError(
                "the widths to begin with follow from the budget: leave weight.bits and activation.bits out; what no "
                "budget limits has weight_bits and activation_bits"
            )
        if self.ablations is not None and self.ablations not in self.limits:
            raise ValueError(f"ablations run at one of the budgets {list(self.limits)}, not at {self.ablations!r}")
        return self

    @property
    def limits(self) -> tuple[str, ...]:
        """The budgets, as written."""
        return self.budgets if self.budget is None else (self.budget,)

    @property
    def quantized_epochs(self) -> int:
        """Epochs after the float phase."""
        return self.homogeneous_epochs + self.mixed_epochs + self.tune_epochs
