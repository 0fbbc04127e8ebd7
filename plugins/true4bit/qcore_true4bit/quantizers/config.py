"""Configs of the quantizers. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qcore.quantizers.config import QuantizerConfig

__all__ = ["ActivationConfig", "DoReFaConfig", "TanhConfig"]


class TanhConfig(QuantizerConfig):
    """Options of ``true4bit/tanh``; the defaults are the paper's."""

    bits: int = Field(4, ge=2, le=8, description="width of a code; the lowest of its 2^bits values is never used")
    granularity: Literal["tensor", "row"] = Field("tensor", description="what shares a scale: the tensor, or a row")
    scale: Literal["absmax", "mse", "learned", "fixed"] = Field(
        "absmax",
        description="largest magnitude, least squared error, learned (LSQ), or what absmax gave at the beginning",
    )


class DoReFaConfig(QuantizerConfig):
    """Options of ``true4bit/dorefa``."""

    bits: int = Field(4, ge=2, le=8, description="width of a code; all of its 2^bits values are used")


class ActivationConfig(QuantizerConfig):
    """Options of ``true4bit/activation``."""

    bits: int = Field(8, ge=2, le=8, description="width of a code")
    gradient: Literal["pact", "lsq"] = Field(
        "lsq", description="of the range: from all roundings (LSQ), or from the values above it alone (PACT)"
    )
