"""Options of the networks. Torch-free."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from qcore.nn.config import ModelConfig

__all__ = [
    "EfficientNetConfig",
    "ImageNetworkConfig",
    "InvertedConfig",
    "MobileNetV2Config",
    "Preprocessing",
    "ResNet20Config",
    "SqueezeNextConfig",
]

Preprocessing = Literal["inception", "symmetric", "torchvision", "fit", "none"]

_SCALING: Final = (
    "scaling of the pixels: inception = (x - 127) / 128, symmetric = x / 127.5 - 1, torchvision = by mean and "
    "deviation of ImageNet's channels, fit = by those of the training part, none = as they come"
)


class ImageNetworkConfig(ModelConfig):
    """What all networks share. Images come as they are stored, with values of 0 to 255."""

    in_channels: int = Field(3, ge=1, description="channels of an image")
    out_features: int = Field(1000, ge=1, description="classes")
    preprocessing: Preprocessing = Field("inception", description=_SCALING)

    @model_validator(mode="after")
    def _channels_have_statistics(self) -> Self:
        if self.preprocessing == "torchvision" and self.in_channels != 3:
            raise ValueError("ImageNet's statistics are of three channels: take another preprocessing")
        return self


class InvertedConfig(ImageNetworkConfig):
    """What the networks of inverted residual blocks share."""

    reduction: Literal[4, 8, 16, 32] = Field(
        32, description="pixels of the image for one of the last map; the first strides are left out: 8 suits 32 x 32"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="share of pooled features dropped in training")
    stochastic_depth: float = Field(
        0.2, ge=0, lt=1, description="share of samples that skip the last block in training; less for earlier blocks"
    )
    norm: bool = Field(True, description="batch norms; without them convolutions have a bias, as folded networks do")
    norm_eps: float = Field(1e-5, gt=0, description="added to the variances; TensorFlow's networks have 1e-3")
    padding: Literal["centred", "tensorflow"] = Field(
        "centred", description="tensorflow: the odd row and column of a stride of 2 stand at the end"
    )
    weights: str | None = Field(
        None,
        exclude=True,
        description="file of pretrained weights (safetensors or npz), read once when the network is built; not kept",
    )


class MobileNetV2Config(InvertedConfig):
    """Options of ``hetero_diffq/mobilenet_v2``."""

    width: float = Field(1.0, ge=0.05, le=8, description="multiplies the channels, which stay multiples of 8")
    stochastic_depth: float = Field(
        0.0, ge=0, lt=1, description="share of samples that skip the last block in training; less for earlier blocks"
    )


class EfficientNetConfig(InvertedConfig):
    """Options of ``hetero_diffq/efficientnet_lite0``."""


class SqueezeNextConfig(ImageNetworkConfig):
    """Options of ``hetero_diffq/squeezenext``."""

    width: float = Field(1.0, ge=0.125, le=8, description="multiplies the channels; the paper has 1, 1.5 and 2")
    variant: Literal["23", "23v5"] = Field("23", description="units of the four stages: 6, 6, 8, 1 or 2, 4, 14, 1")
    reduction: Literal[8, 16, 32] = Field(
        32, description="pixels of the image for one of the last map; the first strides are left out: 8 suits 32 x 32"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of pooled features dropped in training")


class ResNet20Config(ImageNetworkConfig):
    """Options of ``hetero_diffq/resnet20``."""

    out_features: int = Field(10, ge=1, description="classes")
    preprocessing: Preprocessing = Field("fit", description=_SCALING)
    width: int = Field(16, ge=1, description="channels of the first stage; the others have 2 and 4 times as many")
    shortcut: Literal["A", "B"] = Field(
        "A", description="where channels double: A = zeros for the new ones, no parameters; B = a 1x1 convolution"
    )
