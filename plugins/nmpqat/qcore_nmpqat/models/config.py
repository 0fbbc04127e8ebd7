"""Config of the network. Torch-free."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from qcore.nn.config import ModelConfig

__all__ = ["TabularTransformerConfig"]


class TabularTransformerConfig(ModelConfig):
    """Options of ``nmpqat/tabular_transformer``."""

    in_features: int = Field(ge=1, description="features of a sample; each becomes a token")
    out_features: int = Field(ge=1, description="classes, or values that a regression predicts")
    bins: int = Field(50, ge=2, description="bins of a feature, of as many training samples each")
    dim: int = Field(64, ge=1, description="width of a token")
    layers: int = Field(2, ge=1, le=3, description="encoder layers")
    heads: int = Field(8, ge=1, description="heads of the attention; they divide dim")
    feedforward: int = Field(128, ge=1, description="width of the hidden layer after the attention")
    dropout: float = Field(0.1, ge=0, lt=1, description="share dropped in training of what each sublayer adds")
    pool: Literal["mean", "cls"] = Field(
        "mean", description="what the head sees: the mean over the tokens, or a token of its own"
    )
    rescale: bool = Field(False, description="scale each output to mean and deviation of its training targets")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide dim={self.dim}")
        return self
