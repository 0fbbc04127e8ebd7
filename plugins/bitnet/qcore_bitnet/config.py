"""Configs of the plugin. Torch-free, so that a listing validates them without importing torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from qcore.methods.config import MethodConfig
from qcore.quantizers.config import QuantizerConfig

__all__ = ["AbsmaxConfig", "BinaryConfig", "BitNetConfig", "Granularity", "TernaryConfig"]

Granularity = Literal["tensor", "row", "group"]


class WeightConfig(QuantizerConfig):
    """Options of both weight quantizers.

    Attributes:
        granularity: what shares one scale: the whole tensor (as in the papers), a row, or a group of columns.
        group_size: columns a group; needed for granularity ``group``, refused for the others.
    """

    granularity: Granularity = Field(default="tensor", description="what shares a scale: tensor, row or group")
    group_size: int | None = Field(default=None, ge=1, description="columns a group, for granularity 'group'")

    @model_validator(mode="after")
    def _group_size_goes_with_groups(self) -> Self:
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("group_size is needed for granularity 'group', and only for that")
        return self


class TernaryConfig(WeightConfig):
    """Options of ``bitnet/ternary``.

    Attributes:
        mask: whether weights beyond 1.5 times the scale get no gradient; the paper's gradient passes everywhere.
    """

    mask: bool = Field(default=False, description="no gradient where |w| > 1.5 gamma; the paper has none such")


class BinaryConfig(WeightConfig):
    """Options of ``bitnet/binary``."""


class AbsmaxConfig(QuantizerConfig):
    """Options of ``bitnet/absmax``: it has none."""


class BitNetConfig(MethodConfig):
    """Options of the method ``bitnet/bitnet``.

    Attributes:
        float_lr: peak learning rate of float and of 8-bit weights. The papers train ternary networks at 5 to 6 times
            the float rate (arXiv:2411.04965 and 2504.18415); one rate for all would hold the baseline back.
        granularity: of the ternary and the binary weights.
        group_size: columns a group, for granularity ``group``.
        subln: whether each quantized layer after the first, whose input is standardized, normalizes its input (SubLN);
            False leaves the norms out of every arm.
        switch: share of the steps after which stage 2 begins: the learning rate drops and the weight decay ends.
        stage1_end: learning rate at the end of stage 1, as a share of its peak.
        stage2_start: learning rate at the start of stage 2, as a share of stage 1's peak; it ends at 0.
        conversion_epochs: epochs of the arm ``ternary_converted``, which starts from the trained float arm.
        ramp_steps: steps over which that arm goes from float to ternary.
    """

    epochs: int = Field(default=40, ge=1, description="epochs of the main phase")
    lr: float = Field(default=1e-2, gt=0, description="peak learning rate of stage 1, ternary and binary weights")
    float_lr: float = Field(default=2e-3, gt=0, description="peak learning rate of stage 1, float and 8-bit weights")
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay of stage 1; stage 2 has none")
    patience: int | None = Field(
        default=None, ge=1, description="epochs without a better validation score; none stops both stages short"
    )
    granularity: Granularity = Field(default="tensor", description="of ternary and binary weights")
    group_size: int | None = Field(default=None, ge=1, description="columns a group, for granularity 'group'")
    subln: bool = Field(default=True, description="normalize the input of each quantized layer")
    switch: float = Field(default=0.5, gt=0, lt=1, description="share of the steps in stage 1")
    stage1_end: float = Field(default=0.53, ge=0, le=1, description="learning rate at the end of stage 1 over its peak")
    stage2_start: float = Field(default=0.33, ge=0, le=1, description="learning rate at the start of stage 2")
    conversion_epochs: int = Field(default=20, ge=1, description="epochs of the arm ternary_converted")
    ramp_steps: int = Field(default=200, ge=0, description="steps from float to ternary in that arm")

    @model_validator(mode="after")
    def _group_size_goes_with_groups(self) -> Self:
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("group_size is needed for granularity 'group', and only for that")
        return self
