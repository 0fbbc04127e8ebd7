from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.methods import Progress
from qcore_true4bit.clip import SoftClip

PROGRESS = Progress(step=0, steps=391, epoch=0, epochs=1)


def network(scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_weights_become_three_tanh_of_a_third_and_vectors_stay(scale: float) -> None:
    model = network(scale)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    SoftClip()(model, PROGRESS)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert torch.equal(parameter, before[name])
        else:
            assert torch.equal(parameter, 3.0 * torch.tanh(before[name] / 3.0))
            assert parameter.abs().max() <= 3.0


def test_it_works_in_place() -> None:
    model = network()
    places = [parameter.data_ptr() for parameter in model.parameters()]
    SoftClip()(model, PROGRESS)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_without_gradient_shrink_as_the_cube_says() -> None:
    model, steps = nn.Linear(1, 1, bias=False), 391
    with torch.no_grad():
        model.weight.fill_(0.3)
    for _ in range(steps):
        SoftClip()(model, PROGRESS)
    assert float(model.weight.detach()) == pytest.approx((1 / 0.3**2 + 2 * steps / 27) ** -0.5, rel=1e-3)


def test_an_epoch_of_other_length_clips_as_much_if_asked() -> None:
    shrunk = []
    for steps in (391, 100):
        model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(0.3)
        for _ in range(steps):
            SoftClip(per_epoch=True)(model, Progress(0, 2 * steps, 0, 2))
        shrunk.append(float(model.weight.detach()))
    assert shrunk[0] == pytest.approx(shrunk[1], rel=1e-3)
