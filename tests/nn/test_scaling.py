"""Scaling that travels with the model."""

from __future__ import annotations

import pytest
import torch

from qcore.errors import UsageError
from qcore.nn import Rescale, Standardize, scaling


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_features_get_mean_zero_and_deviation_one() -> None:
    x = normal(200, 5) * torch.tensor([1.0, 1e-3, 1e6, 7.0, 1.0]) + torch.tensor([0.0, 5.0, -1e6, 3.0, 1e3])
    scaler = Standardize(5)
    scaler.fit(x)
    scaled = scaler(x)
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(5), atol=1e-2)
    assert torch.allclose(scaled.std(dim=0), torch.ones(5), atol=1e-2)


def test_channels_of_images_are_scaled_over_all_pixels() -> None:
    x = normal(20, 3, 4, 4) * 5 + 2
    scaler = Standardize(3)
    scaler.fit(x)
    assert torch.allclose(scaler(x).mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert scaler(x).shape == x.shape


def test_a_feature_that_never_varies_is_only_centred() -> None:
    for value in (0.0, 5.0, 1e7, 1e-20):
        x = torch.full((10, 1), value)
        scaler = Standardize(1)
        scaler.fit(x)
        assert scaler.std.item() == 1
        assert scaler(x).abs().max() <= 1e-6 * max(value, 1)
        assert torch.isfinite(scaler(x + 1)).all()


def test_a_new_scaler_changes_nothing() -> None:
    x = normal(3, 4)
    assert torch.equal(Standardize(4)(x), x)
    assert torch.equal(Rescale()(x), x)


def test_rescaling_takes_outputs_to_the_units_of_the_targets() -> None:
    targets = normal(500) * 77 + 150
    rescale = Rescale()
    rescale.fit(targets)
    standardised = (targets - targets.mean()) / targets.std(correction=0)
    assert torch.allclose(rescale(standardised), targets, atol=1e-3)


def test_each_of_several_outputs_is_rescaled_by_its_own_targets() -> None:
    targets = normal(500, 3) * torch.tensor([77.0, 1.0, 1e-3]) + torch.tensor([150.0, 0.0, -4.0])
    rescale = Rescale(3)
    assert torch.equal(rescale(targets), targets)
    rescale.fit(targets)
    assert rescale.mean.shape == rescale.std.shape == (3,)
    standardised = (targets - targets.mean(dim=0)) / targets.std(dim=0, correction=0)
    assert torch.allclose(rescale(standardised), targets, atol=1e-3)
    for column in range(3):  # what a network of that output alone would get
        alone = Rescale()
        alone.fit(targets[:, column].contiguous())
        assert alone.mean.shape == () and torch.allclose(alone.mean, rescale.mean[column], rtol=1e-6)
        assert torch.allclose(alone.std, rescale.std[column], rtol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_targets_of_another_width_are_refused(outputs: int) -> None:
    with pytest.raises(UsageError, match=f"rescales {outputs} outputs where the targets have 3 values"):
        Rescale(outputs).fit(normal(10, 3))


def test_one_column_of_targets_serves_all_outputs() -> None:
    rescale, alone = Rescale(3), Rescale()
    for part in (rescale, alone):
        part.fit(normal(50) * 7 + 2)
    assert torch.equal(rescale.mean, alone.mean.expand(3)) and torch.equal(rescale.std, alone.std.expand(3))


def test_targets_that_never_vary_do_not_divide_by_zero() -> None:
    rescale = Rescale()
    rescale.fit(torch.full((5,), 3.0))
    assert torch.allclose(rescale(torch.zeros(2)), torch.tensor(3.0))


def test_the_statistics_are_part_of_the_state() -> None:
    one, other = Standardize(4), Standardize(4)
    one.fit(normal(20, 4) * 3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(normal(2, 4)), one(normal(2, 4)))


def test_images_of_bytes_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole, parts = Standardize(3), Standardize(3)
    whole.fit(images)
    monkeypatch.setattr(scaling, "_ELEMENTS", 100)
    parts.fit(images)
    assert torch.allclose(parts.mean, whole.mean) and torch.allclose(parts.std, whole.std)
    assert torch.allclose(whole.std, images.double().transpose(0, 1).flatten(1).std(1, correction=0).float())
