from __future__ import annotations

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import PatternError
from qcore_bitnet.subln import insert_subln


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model


def batch(scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def test_a_norm_stands_before_each_layer_that_matches_and_no_other() -> None:
    model = insert_subln(network(), "[02]")
    assert isinstance(model[0].norm, nn.RMSNorm) and model[0].norm.weight.shape == (6,)
    assert isinstance(model[2].norm, nn.RMSNorm) and model[2].norm.weight.shape == (5,)
    assert isinstance(model[4], nn.Linear)


def test_the_given_model_is_left_alone() -> None:
    model = network()
    insert_subln(model)
    assert isinstance(model[0], nn.Linear)


def test_inplace_changes_the_given_model() -> None:
    model = network()
    assert insert_subln(model, inplace=True) is model
    assert isinstance(model[0], nn.Sequential)


def test_without_batches_a_layer_sees_inputs_of_unit_size() -> None:
    normed = insert_subln(network(), "0")[0].norm(batch(100.0))
    assert torch.allclose(normed.square().mean(dim=1), torch.ones(64), atol=1e-3)


def test_with_batches_the_size_of_the_inputs_is_kept() -> None:
    x = batch(100.0)
    normed = insert_subln(network(), "0", [x[:32], x[32:]])[0].norm(x)
    assert normed.square().mean().item() == pytest.approx(float(x.square().mean()), rel=1e-3)


def test_the_layers_can_then_be_quantized() -> None:
    model = qcore.quantize(insert_subln(network()), {"4.*": None, "type:Linear": "bitnet/ternary"})
    model(batch()).sum().backward()
    assert model[0].norm.weight.grad is not None
    assert type(model[0].linear).__name__ == "QuantLinear"
    assert type(model[4].linear) is nn.Linear


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(PatternError, match="matches no nn.Linear"):
        insert_subln(network(), "layer*")


def test_training_mode_survives_calibration() -> None:
    model = network().train()
    assert insert_subln(model, batches=[batch()]).training
