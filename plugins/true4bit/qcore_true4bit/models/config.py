"""Configs of the networks. Torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from qcore.nn.config import ModelConfig

__all__ = ["ImageNetConfig", "ResNetConfig", "VGGConfig"]


class ImageNetConfig(ModelConfig):
    """What both networks share."""

    in_channels: int = Field(3, ge=1, description="channels of an image")
    out_features: int = Field(10, ge=1, description="classes")
    image_size: int = Field(32, ge=8, description="height and width of an image, in pixels")
    flat: bool = Field(False, description="images come as rows (channels x height x width)")
    mean: tuple[float, ...] | None = Field(
        None, description="mean of each channel as a share of 255; without it that of the training part is taken"
    )
    std: tuple[float, ...] | None = Field(None, description="deviation of each channel, likewise")

    @model_validator(mode="after")
    def _statistics_fit(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together")
        if self.mean is not None and self.std is not None:
            if not len(self.mean) == len(self.std) == self.in_channels:
                raise ValueError(f"mean and std need one number for each of the {self.in_channels} channels")
            if min(self.std) <= 0:
                raise ValueError("std must be above 0")
        return self


class VGGConfig(ImageNetConfig):
    """Options of ``true4bit/vgg4bit``."""

    width: int = Field(64, ge=1, description="channels of the first two convolutions; later ones have 2 and 4 times")
    hidden: int | None = Field(None, ge=1, description="units of the hidden layer; 8 times width if not given")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of hidden units dropped in training")


class ResNetConfig(ImageNetConfig):
    """Options of ``true4bit/simple_resnet4bit``."""

    width: int = Field(16, ge=1, description="channels of the first two convolutions; later ones have 2 and 4 times")
