"""Config of the method. Torch-free."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from qcore.methods.config import MethodConfig
from qcore_true4bit.resident.config import ResidentConfig

__all__ = ["True4BitConfig"]


class True4BitConfig(MethodConfig):
    """Options of the method ``true4bit/true4bit``; the recipe's numbers are the paper's.

    Attributes:
        model: the network.
        width: channels of its first convolutions; None for the paper's (64 and 16), or 16 where images have fewer than
            16 pixels a side.
        hidden: one number: units of the hidden layer of ``vgg4bit``.
        quantizer: weight quantizer of the arms that follow the paper.
        activation: input quantizer of ``w4a8`` and ``w4a4``, without its width; the first layer's input has 8 bits, a
            scale a sample.
        soft_clip: the bound ``a`` of ``a tanh(w / a)``.
        clip_per_epoch: whether ``a`` is scaled so that an epoch of any length clips as much as one of 391 steps.
        grad_clip: largest norm of all gradients together.
        schedule: ``cosine`` falls from epoch to epoch and would be 0 after the last; ``paper`` has a half period of 100
            epochs, however many there are, so that the rate rises again after the 100th.
        resident: options of the arms ``resident`` and ``resident_residual``, see ``ResidentConfig``; the latter keeps a
            residual.
        resident_lr: their learning rate, in codes a step, before the schedule; their other parameters have ``lr``.
        resident_decay: their weight decay: the share of a code that ``resident_lr`` times it takes a step.
        checkpoint: the weights that count: those of the last epoch, or of the best by validation score.
    """

    epochs: int = Field(default=20, ge=1, description="epochs of the main phase; the paper has 100 to 150")
    batch_size: int = Field(default=128, ge=1, description="samples a step")
    lr: float = Field(default=1e-3, gt=0, description="learning rate of AdamW at the beginning")
    weight_decay: float = Field(default=5e-4, ge=0, description="decoupled weight decay, on all parameters")
    patience: int | None = Field(default=None, ge=1, description="epochs without a better validation score")
    model: Literal["vgg4bit", "simple_resnet4bit"] = Field(default="vgg4bit", description="the network")
    width: int | None = Field(default=None, ge=1, description="channels of its first convolutions")
    quantizer: str | dict[str, Any] = Field(default="true4bit/tanh", description="weight quantizer")
    activation: dict[str, Any] = Field(
        default={"quantizer": "true4bit/activation"}, description="input quantizer of w4a8 and w4a4"
    )
    soft_clip: float = Field(default=3.0, gt=0, description="bound a of the soft clip a tanh(w / a)")
    clip_per_epoch: bool = Field(default=False, description="scale the bound with the square root of steps an epoch")
    grad_clip: float = Field(default=0.5, gt=0, description="largest norm of all gradients together")
    schedule: Literal["cosine", "paper"] = Field(default="cosine", description="of the learning rate")
    resident: ResidentConfig = Field(default=ResidentConfig(), description="options of the resident arms")
    resident_lr: float = Field(default=0.3, gt=0, description="learning rate of the resident arms, in codes a step")
    resident_decay: float = Field(default=0.02, ge=0, description="weight decay of the resident arms")
    checkpoint: Literal["last", "best"] = Field(default="last", description="whose weights count")

    @model_validator(mode="after")
    def _options_of_the_network(self) -> Self:
        if self.model != "vgg4bit" and (self.hidden is not None or self.dropout is not None):
            raise ValueError(f"{self.model} has neither a hidden layer nor dropout: leave hidden and dropout out")
        return self

    @field_validator("hidden")
    @classmethod
    def _one_hidden_layer(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) != 1 or value[0] < 1):
            raise ValueError("vgg4bit has one hidden layer: give one number")
        return value
