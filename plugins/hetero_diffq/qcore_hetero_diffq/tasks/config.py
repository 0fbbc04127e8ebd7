"""Options of the tasks. This module imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from qcore.tasks.config import TaskConfig
from qcore_hetero_diffq.models.config import Preprocessing

__all__ = ["ImageNetConfig", "ImageNetSampleConfig", "Network"]

Network = Literal["efficientnet_lite0", "mobilenet_v2", "squeezenext", "resnet20"]


class ImageNetConfig(TaskConfig):
    """Options of ``hetero_diffq/imagenet``."""

    data: str = Field(
        "imagenet", description="folder with train/ and val/ of class folders; relative to here, then to QCORE_DATA"
    )
    size: int = Field(224, ge=8, le=1024, description="height and width that images are kept at, in pixels")
    crop: float = Field(
        0.875, gt=0, le=1, description="side of the tested square in the middle, for an image's shorter side: 224 / 256"
    )
    network: Network = Field("efficientnet_lite0", description="the default network")
    preprocessing: Preprocessing = Field("inception", description="how that network scales the pixels: see its option")
    augment: bool = Field(True, description="cut out, resize and mirror the training images at random")
    area: tuple[float, float] = Field((0.08, 1.0), description="least and largest share of an image that is cut out")
    flip: bool = Field(True, description="mirror half of the training images")
    limit: int | None = Field(
        None, ge=2, description="use at most so many training and so many test samples, evenly of each class"
    )

    @model_validator(mode="after")
    def _area_is_a_share(self) -> Self:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area {self.area} must be two shares above 0 and up to 1, the smaller one first")
        return self


class ImageNetSampleConfig(TaskConfig):
    """Options of ``hetero_diffq/imagenet_sample``."""

    data: str | None = Field(
        None, description="packed-JPEG npz with a test part; default: looked for in QCORE_DATA under its usual name"
    )
    size: int = Field(224, ge=8, le=1024, description="height and width of the images, in pixels")
    background: bool = Field(
        True, description="class 0 is the background, as in networks of 1001 outputs; the others move by one"
    )
    weights: str | None = Field(None, description="file of pretrained weights for the default network")
    limit: int | None = Field(None, ge=2, description="use the first so many images")
