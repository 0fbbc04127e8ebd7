"""Configs of the quantizers. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from qcore.quantizers.config import QuantizerConfig

__all__ = ["ActivationConfig", "LearnedConfig", "PackedActivationConfig", "SlicedConfig", "Surrogate"]

Surrogate = Literal["ste", "ewgs", "tanh", "atanh", "psgd", "acos", "gaussian", "uniform"]
"""What bends the gradient of a rounding, see :mod:`qcore_hetero_diffq.quantizers.surrogate`."""


class LearnedConfig(QuantizerConfig):
    """Options of both quantizers.

    Attributes:
        bits: width to begin with.
        surrogate: the gradient of rounding; ``ste`` is the plain straight-through estimator.
        delta: how strongly the surrogate bends the gradient; at 0 all of them are ``ste``.
        learn: whether the optimizer moves ``log2`` of step and range, or the numbers themselves, as the paper does.
        step_limits: box of the step.
        range_limits: box of the range.
    """

    bits: int = Field(default=4, ge=2, le=8, description="width to begin with")
    surrogate: Surrogate = Field(default="ewgs", description="gradient of rounding")
    delta: float = Field(default=5e-3, ge=0, description="how strongly the surrogate bends the gradient")
    learn: Literal["log", "linear"] = Field(default="log", description="what the optimizer moves")
    step_limits: tuple[float, float] = Field(default=(1e-18, 1e18), description="smallest and largest step")
    range_limits: tuple[float, float] = Field(default=(1e-17, 1e19), description="smallest and largest range")

    @model_validator(mode="after")
    def _limits_are_boxes(self) -> Self:
        for name in ("step_limits", "range_limits"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(f"{name} rise, and lie above 0")
        return self


class SlicedConfig(LearnedConfig):
    """Options of ``hetero_diffq/sliced``.

    Attributes:
        granularity: what has a step and a range of its own: an output channel, a group of ``group_size`` columns of
            one, or the tensor.
        group_size: columns a group.
    """

    granularity: Literal["row", "tensor", "group"] = Field(default="row", description="what has a step of its own")
    group_size: int | None = Field(default=None, ge=1, description="columns a group")

    @model_validator(mode="after")
    def _groups_have_a_size(self) -> Self:
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("granularity 'group' and group_size go together")
        return self


class ActivationConfig(LearnedConfig):
    """Options of ``hetero_diffq/activation``.

    Attributes:
        signed: whether values may be negative; None: the first batches tell.
        percentile: of the magnitudes of a batch, where the range begins.
        batches: how many training batches, or calls of a calibration, the range is taken from.
    """

    surrogate: Surrogate = Field(default="atanh", description="gradient of rounding; at 2 bits always ste")
    signed: bool | None = Field(default=None, description="whether values may be negative; None: data tell")
    percentile: float = Field(default=99.9, gt=0, le=100, description="of the magnitudes, where the range begins")
    batches: int = Field(default=8, ge=1, description="training batches that the range is taken from")


class PackedActivationConfig(QuantizerConfig):
    """Options of ``hetero_diffq/packed_activation``."""

    bits: int = Field(default=8, ge=2, le=8, description="width of the codes")
