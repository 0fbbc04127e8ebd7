"""Configs of the built-in networks. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CNNConfig", "MLPConfig", "ModelConfig"]


class ModelConfig(BaseModel):
    """Base of every network's config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MLPConfig(ModelConfig):
    """Options of ``core/mlp``."""

    in_features: int = Field(ge=1, description="features of a sample")
    out_features: int = Field(ge=1, description="classes, or values that a regression predicts")
    hidden: tuple[int, ...] = Field((128, 64), description="widths of the hidden layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of hidden units dropped in training")
    pre_norm: bool = Field(True, description="a LayerNorm before each hidden linear layer after the first (SubLN)")
    input_norm: bool = Field(
        False, description="a LayerNorm before the first layer too; it hides how large a sample is, which features tell"
    )
    post_norm: bool = Field(True, description="a LayerNorm after each hidden linear layer")
    standardize: bool = Field(True, description="scale the input to mean 0 and deviation 1 of the training part")
    rescale: bool = Field(False, description="scale each output to mean and deviation of its training targets")


class CNNConfig(ModelConfig):
    """Options of ``core/cnn``."""

    in_channels: int = Field(ge=1, description="channels of an image")
    out_features: int = Field(ge=1, description="classes, or values that a regression predicts")
    image_size: int = Field(ge=8, description="height and width of an image, in pixels")
    width: int = Field(32, ge=1, description="channels of the first block; each block doubles them")
    blocks: int = Field(3, ge=1, description="blocks of two convolutions; each halves height and width")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of pooled features dropped in training")
    standardize: bool = Field(True, description="scale channels to mean 0 and deviation 1 of the training part")
    rescale: bool = Field(False, description="scale each output to mean and deviation of its training targets")
