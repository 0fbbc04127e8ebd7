"""Plans of the plugin's networks: routes equal eager's, outputs agree, and what has no steps is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import qcore
from qcore.errors import UsageError
from qcore.nn import build_model
from qcore_curiosity_moe.bayesian import BayesianRouter, UncalibratedRouterWarning
from qcore_curiosity_moe.config import BayesianRouterConfig
from qcore_curiosity_moe.experts import expert_bits, mixture_rules
from qcore_curiosity_moe.models import Mixture

EXPERTS = ("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)")
TOKEN = "core/int(bits=8, granularity='token')"
FEATURES = 20


@pytest.fixture(params=["core/reference", "auto"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pack and compile on the reference, and on the best backend that is installed."""
    monkeypatch.setenv("QCORE_BACKEND", request.param)
    return str(request.param)


def inputs(rows: int = 200) -> Tensor:
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(1)) * 2 + 1


def make_mixture(*, trunk: bool = False, rescale: bool = False, **routing: object) -> Mixture:
    config = {
        "in_features": FEATURES,
        "out_features": 5,
        "hidden": (32, 24),
        "experts": len(EXPERTS),
        "trunk": trunk,
        "rescale": rescale,
        "routing": {"bits": expert_bits(EXPERTS), **routing},
    }
    model = build_model("curiosity_moe/mixture", config, torch.Generator().manual_seed(0))
    qcore.quantize(model, mixture_rules(EXPERTS, TOKEN, trunk=trunk), inplace=True)
    assert isinstance(model, Mixture)
    with torch.no_grad():
        model.moe.router.layer3.weight.mul_(4.0)
    model.fit_scalers(inputs(), torch.linspace(0, 9, 200))
    model.eval()
    model.moe.router.calibrate(model.scaler(inputs()))
    return qcore.pack(model)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "options",
    [{}, {"trunk": True}, {"rescale": True}, {"k": 2, "alpha": 3.0}, {"uncertainty": "variance"}, {"passes": 1}],
    ids=str,
)
@torch.no_grad()
def test_a_plan_routes_as_the_packed_mixture_and_agrees_with_it(options: dict[str, object]) -> None:
    model, x = make_mixture(**options), inputs()
    plan, route = qcore.compile_plan(model), qcore.compile_plan(model.moe.router)
    expected = model(x)
    assert torch.equal(route(model.scaler(x)) > 0, model.moe.router(model.scaler(x)).weights > 0)
    scale = float(expected.abs().max())
    # Layer norms are rounded in another order, which may move an input's code by one of 127 steps.
    torch.testing.assert_close(plan(x), expected, rtol=0.0, atol=0.03 * scale)
    assert (plan(x) - expected).abs().mean() < 1e-3 * scale
    for row in range(20):
        torch.testing.assert_close(plan(x[row : row + 1])[0], plan(x)[row], rtol=1e-5, atol=1e-5)
    assert torch.equal(plan(x[:0]), expected[:0])


@pytest.mark.usefixtures("backend")
@torch.no_grad()
def test_a_row_with_nan_gives_nan_and_spoils_no_other() -> None:
    plan, x = qcore.compile_plan(make_mixture()), inputs(9)
    clean = plan(x)
    x[4, 7] = torch.nan
    y = plan(x)
    assert bool(y[4].isnan().all())
    assert torch.equal(torch.cat([y[:4], y[5:]]), torch.cat([clean[:4], clean[5:]]))


def router(**options: object) -> BayesianRouter:
    values = {"in_features": 4, "experts": 2, "hidden": (6, 5), **options}
    return BayesianRouter(BayesianRouterConfig.model_validate(values)).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "sharpen"},
        {"rule": "info_gain"},
        {"base": "deterministic"},
        {"normalisation": "batch_minmax", "batch_dependent": True},
    ],
    ids=str,
)
def test_options_without_steps_are_named(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(str(value) for value in options.values())):
        qcore.compile_plan(router(**options))


def test_layers_that_are_packed_or_hooked_are_named() -> None:
    rule = {"weight": "core/int(bits=4)", "input": TOKEN}
    packed = qcore.pack(qcore.quantize(router(), {"layer1": rule}), "core/reference")
    hooked = router()
    hooked.layer2.register_forward_hook(lambda *_: None)
    for model, message in ((packed, r"layer1 \(PackedLinear\)"), (hooked, r"layer2 \(Linear\) has hooks")):
        model.fitted.fill_(1)
        with pytest.raises(UsageError, match=message):
            qcore.compile_plan(model)


def test_a_router_that_never_saw_data_warns_once() -> None:
    uncalibrated = router()
    with pytest.warns(UncalibratedRouterWarning):
        plan = qcore.compile_plan(uncalibrated)
    assert torch.equal(plan(torch.ones(3, 4)) > 0, uncalibrated(torch.ones(3, 4)).weights > 0)


@pytest.mark.parametrize("name", ["cascade", "ensemble"])
def test_networks_without_steps_are_named(name: str) -> None:
    model = build_model(f"curiosity_moe/{name}", {"in_features": 4, "out_features": 2}).eval()
    with pytest.raises(UsageError, match="no steps for"):
        qcore.compile_plan(model)
