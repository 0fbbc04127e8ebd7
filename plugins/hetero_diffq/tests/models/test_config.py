from __future__ import annotations

import pytest
from pydantic import ValidationError

from qcore_hetero_diffq.models.config import MobileNetV2Config, ResNet20Config


def test_imagenet_s_statistics_are_of_three_channels() -> None:
    with pytest.raises(ValidationError, match="three channels"):
        ResNet20Config(preprocessing="torchvision", in_channels=1)


def test_a_file_of_weights_is_no_part_of_what_is_kept() -> None:
    config = MobileNetV2Config(weights="elsewhere.safetensors")
    assert "weights" not in config.model_dump(mode="json") and "elsewhere" not in config.model_dump_json()
    assert MobileNetV2Config.model_validate(config.model_dump()).weights is None
