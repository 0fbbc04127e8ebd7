from __future__ import annotations

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import UsageError
from qcore.nn import build_model
from qcore_hetero_diffq.models.resnet import ZeroChannels


def build(**options: object) -> nn.Module:
    return build_model("hetero_diffq/resnet20", options, torch.Generator().manual_seed(0)).eval()


def pictures(rows: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, size, size), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize(("shortcut", "parameters"), [("A", 269_722), ("B", 272_474)])
def test_the_number_of_parameters_is_the_published_one(shortcut: str, parameters: int) -> None:
    model = build(shortcut=shortcut)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19


def test_shortcut_a_takes_every_second_pixel_and_adds_channels_of_zeros() -> None:
    x = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    given = ZeroChannels(3, 6)(x)
    assert given.shape == (2, 6, 3, 2)
    assert torch.equal(given[:, :3], x[:, :, ::2, ::2]) and not given[:, 3:].any()


@pytest.mark.parametrize("shortcut", ["A", "B"])
@torch.no_grad()
def test_a_plan_computes_the_network_s_logits(shortcut: str) -> None:
    model = build(width=4, shortcut=shortcut)
    expected = model(pictures())
    assert torch.allclose(qcore.compile_plan(model)(pictures()), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_its_norms_fold() -> None:
    model = qcore.quantize(build(width=4, shortcut="B"), {"*": "core/int(bits=8)"})
    folded = qcore.pack(model, fold=True)
    norms = qcore.explain(folded).norms
    assert len(norms) == 21 and all(norm.folded for norm in norms)
    assert torch.allclose(folded(pictures()), model.eval()(pictures()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [8, 33, 64])
def test_images_of_any_size_give_logits(size: int) -> None:
    assert build(width=4)(pictures(2, size)).shape == (2, 10)


def test_other_channels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images \(n, 3, height, width\), not \(2, 1, 32, 32\)"):
        build(width=4)(torch.zeros(2, 1, 32, 32))
