"""Options of the plugin's tasks. This module imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from qcore.tasks.config import TaskConfig

__all__ = ["Cifar10Config", "Cifar100Config", "FashionMnistConfig", "ImageFolderConfig", "ImageTaskConfig"]


class ImageTaskConfig(TaskConfig):
    """Options that all image tasks share."""

    data: str | None = Field(None, description="where the data lie; relative to here, then to QCORE_DATA")
    augment: bool = Field(True, description="shift and mirror the training images at random")
    limit: int | None = Field(
        None, ge=2, description="use at most so many training and so many test samples, evenly of each class"
    )


class _VerifiedConfig(ImageTaskConfig):
    verify: bool = Field(True, description="refuse data that differ from the published checksums and counts")


class Cifar10Config(_VerifiedConfig):
    """Options of ``true4bit/cifar10``."""

    data: str | None = Field(
        None, description="official archive, its folder, or a packed-JPEG npz; default: looked for in QCORE_DATA"
    )


class Cifar100Config(_VerifiedConfig):
    """Options of ``true4bit/cifar100``."""

    data: str | None = Field(
        None, description="official archive or its extracted folder; default: looked for in QCORE_DATA"
    )


class FashionMnistConfig(_VerifiedConfig):
    """Options of ``true4bit/fashion_mnist``."""

    data: str | None = Field(
        None, description="folder of the four idx files, or an npz file; default: looked for in QCORE_DATA"
    )
    padding: int = Field(2, ge=0, le=14, description="pixels that a training image is shifted at most")
    flip: bool = Field(True, description="mirror half of the training images: garments are about symmetric")


class ImageFolderConfig(ImageTaskConfig):
    """Options of ``true4bit/image_folder``."""

    data: str | None = Field(
        None, description="folder with train/ and test/ (or val/), folder of class folders, or a packed-JPEG npz"
    )
    size: int = Field(64, ge=8, le=1024, description="images are resized to size x size pixels")
    channels: Literal[1, 3] = Field(3, description="1 = grey, 3 = red, green, blue")
    padding: int | None = Field(
        None, ge=0, description="pixels that a training image is shifted at most; default: size / 8"
    )
    flip: bool = Field(True, description="mirror half of the training images; turn it off for letters and digits")

    @model_validator(mode="after")
    def _check_padding(self) -> Self:
        if self.padding is not None and self.padding > self.size // 2:
            raise ValueError(f"padding {self.padding} is more than half of the size {self.size}: images would go black")
        return self
