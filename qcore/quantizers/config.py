"""Configs of quantizers. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["IntConfig", "QuantizerConfig"]


class QuantizerConfig(BaseModel):
    """Base of every quantizer's config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IntConfig(QuantizerConfig):
    """Options of ``core/int``."""

    bits: int = Field(8, ge=1, le=8, description="width of a code; 1 means sign times mean magnitude")
    symmetric: bool = Field(True, description="codes around zero; else a range with a zero point")
    granularity: Literal["tensor", "row", "group", "token"] = Field(
        "row", description="what shares a scale: the tensor, a row (output), a group of columns, or a token"
    )
    group_size: int | None = Field(None, ge=1, description="columns a group, with granularity 'group'")
    scale: Literal["absmax", "percentile", "mse"] = Field(
        "absmax", description="clip at the largest magnitude, a percentile of it, or where the squared error is least"
    )
    percentile: float = Field(99.9, gt=0, le=100, description="with scale 'percentile': the share kept unclipped, in %")
    dynamic: bool = Field(
        True, description="find the range at each call; else once, from the weight or the calibration batches"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.bits == 1 and (not self.symmetric or self.scale != "absmax"):
            raise ValueError("1 bit is sign times mean magnitude: it takes neither symmetric=False nor another scale")
        if (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("granularity 'group' and group_size belong together")
        if self.granularity == "token" and not self.dynamic:
            raise ValueError("a token's range is always dynamic; for a static range use granularity 'tensor'")
        return self
