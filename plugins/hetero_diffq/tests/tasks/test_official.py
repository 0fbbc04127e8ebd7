"""The real images and weights, where QCORE_DATA has them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

import qcore
from qcore.nn import build_model
from qcore_hetero_diffq.tasks.config import ImageNetSampleConfig
from qcore_hetero_diffq.tasks.sample import ImageNetSample

pytestmark = pytest.mark.data

WEIGHTS = "mobilenet_v2_imagenet/mobilenet_v2_int8pc.npz"


@pytest.fixture
def task() -> ImageNetSample:
    folder = Path(os.environ.get("QCORE_DATA") or "none")
    for path in (WEIGHTS, "imagenet_sample_1k/imagenet_sample_1k_224_jpeg.npz"):
        if not (folder / path).is_file():
            pytest.skip(f"{path} is not there: set QCORE_DATA to the folder that has it")
    pytest.importorskip("PIL.Image")
    return ImageNetSample(ImageNetSampleConfig(weights=WEIGHTS))


def network(task: ImageNetSample) -> torch.nn.Module:
    name, options = task.default_model()
    return build_model(name, options).eval()


@torch.no_grad()
def test_the_folded_network_names_what_the_images_show(task: ImageNetSample) -> None:
    """Every twentieth image, as all take a minute: of those, it names 885 at once and 982 among the likeliest five."""
    pixels = task.data.inputs.permute(0, 2, 3, 1).contiguous().numpy()
    sha256 = "ec47d36165a84b14faecf171466e01ecbcefd40acda46f12557f97ea954b17e0"
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == sha256
    model = network(task)
    scores = task.scores(model(task.data.inputs[::20].float()), task.data.targets[::20])
    assert scores["accuracy"] >= 0.8 and scores["accuracy_top5"] >= 0.94


@torch.no_grad()
def test_eight_bits_on_the_grid_of_the_weights_agree_bit_for_bit_with_eval(task: ImageNetSample) -> None:
    images = task.data.inputs[::250].float()
    model = network(task)
    static = "core/int(bits=8, granularity='tensor', dynamic=False, symmetric=False)"
    low_bit = qcore.quantize(model, {"*": {"weight": "core/int(bits=8)", "input": static}})
    qcore.calibrate(low_bit, [images])
    expected = low_bit.eval()(images)
    assert torch.equal(qcore.pack(low_bit)(images), expected)
    assert int((expected.argmax(dim=1) == model(images).argmax(dim=1)).sum()) >= 3
