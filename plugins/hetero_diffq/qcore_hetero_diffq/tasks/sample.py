"""The task ``imagenet_sample``: one image of each of ImageNet's classes, to compare networks on."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.packed_jpeg import read_packed
from qcore.tasks.paths import locate
from qcore_hetero_diffq.tasks.base import ImageNetTask
from qcore_hetero_diffq.tasks.config import ImageNetSampleConfig

__all__ = ["ImageNetSample"]

_FILE: Final = "imagenet_sample_1k_224_jpeg.npz"

_PAGE: Final = "github.com/EliSchwartz/imagenet-sample-images"


class ImageNetSample(ImageNetTask):
    """A packed-JPEG npz (see :mod:`qcore.tasks.packed_jpeg`) with a test part alone, one image a class.

    It is for calibration, and to see whether a quantized network agrees with its float one. It is no benchmark of
    accuracy: the images are few, and probably of the training set. No folds can be made of it, so that nothing can be
    trained on it.
    """

    Config = ImageNetSampleConfig
    config: ImageNetSampleConfig

    def load(self) -> TaskData:
        """Read inputs (n, 3, size, size) uint8 and targets (n,).

        Raises:
            DataError: the file is missing, damaged, or has no test part.
        """
        name = self.spec_id or "hetero_diffq/imagenet_sample"
        known = (_FILE, f"imagenet_sample_1k/{_FILE}")
        path = locate(self.config.data, known, (), task=name, needs=f"a packed-JPEG npz ({_FILE})", page=_PAGE)
        parts, names = read_packed(path, self.config.size, 3)
        if "test" not in parts:
            raise DataError(f"{path} has no test images")
        part = parts["test"]
        rows = np.arange(len(part))[: self.config.limit]
        shift = int(self.config.background)
        return TaskData(
            inputs=part.pixels(rows),
            targets=torch.from_numpy(part.labels[rows] + shift),
            class_names=("background",) * shift + names,
            source=f"packed JPEG {path}",
        )

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return MobileNetV2: folded and padded as TensorFlow's, or as torchvision's where there is no background."""
        options: dict[str, Any] = {"out_features": self.out_features, "weights": self.config.weights}
        if self.config.background:
            options |= {"preprocessing": "symmetric", "padding": "tensorflow", "norm": False}
        else:
            options["preprocessing"] = "torchvision"
        return "hetero_diffq/mobilenet_v2", options
