"""Configs of methods. Torch-free, so that a listing or a dry run validates them without importing torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FloatConfig", "MethodConfig", "PtqConfig"]


class MethodConfig(BaseModel):
    """Options that every method has; a method's own config adds to them.

    Attributes:
        epochs: epochs of the main phase.
        batch_size: samples a step (for all ranks together under torchrun).
        lr: learning rate.
        weight_decay: decoupled weight decay.
        patience: epochs without a better validation score before a phase ends; None trains all epochs.
        label_smoothing: share of the target spread over all classes; ignored in regression.
        hidden: widths of the hidden layers of the task's default network, or None for its own.
        dropout: dropout probability of that network, or None for its own.
        arms: names of the arms to run, or None for all; what these need is run as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=40, ge=1, description="epochs of the main phase")
    batch_size: int = Field(default=64, ge=1, description="samples a step")
    lr: float = Field(default=3e-3, gt=0, description="learning rate")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled weight decay")
    patience: int | None = Field(default=10, ge=1, description="epochs without a better validation score")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over classes")
    hidden: tuple[int, ...] | None = Field(default=None, description="widths of the hidden layers")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="dropout probability")
    arms: tuple[str, ...] | None = Field(default=None, description="arms to run; all if not given")


class FloatConfig(MethodConfig):
    """Options of the built-in method ``core/float``."""


class PtqConfig(MethodConfig):
    """Options of the built-in method ``core/ptq``.

    Attributes:
        quantizer: reference of the weight quantizer, ``"plugin/name(option=value)"`` or a table with ``quantizer``.
        input: reference of the activation quantizer, or None for float activations.
        keep: patterns of layers that stay float.
    """

    quantizer: str | dict[str, Any] = Field(default="core/int(bits=8)", description="weight quantizer")
    input: str | dict[str, Any] | None = Field(
        default="core/int(bits=8, granularity='token')", description="activation quantizer; null for float"
    )
    keep: tuple[str, ...] = Field(default=("head",), description="patterns of layers that stay float")
