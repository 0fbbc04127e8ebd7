from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcore.registry import Registry, RouterSpec
from qcore.routers import Router, RouterConfig, Routing
from qcore.testing import router_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(router_checks)}


class Good(Router):
    """The nearest of fixed centres, with the entropy as uncertainty."""

    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        drawn = torch.randn(config.experts, config.in_features, generator=torch.Generator().manual_seed(0))
        self.centres = nn.Parameter(drawn)
        self.register_buffer("scale", torch.ones(()))

    def calibrate(self, x: Tensor) -> None:
        self.scale.copy_(x.double().std())

    def probabilities(self, x: Tensor) -> Tensor:
        distances = (x.double()[:, None] - self.centres.double()).square().mean(dim=2).clamp_max(1e6)
        return torch.softmax(-distances / self.scale.double(), dim=1).float()

    def forward(self, x: Tensor) -> Routing:
        p = self.probabilities(x)
        weights = p if self.training else nn.functional.one_hot(p.argmax(dim=1), self.experts).float()
        return Routing(weights, p, torch.special.entr(p.detach()).sum(dim=1))


class HalfPrecision(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, weights=routing.weights.half())


class NegativeWeights(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, weights=2 * routing.weights - 1 / self.experts)


class WeightsOfTwo(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, weights=2 * routing.weights)


class LogitsForProbabilities(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, probabilities=routing.probabilities * 0.9)


class LooksAtItsNeighbours(Good):
    def probabilities(self, x: Tensor) -> Tensor:
        return super().probabilities(x - x.mean(dim=0, keepdim=True) if len(x) else x)


class UncertaintyOfTheBatch(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        u = routing.uncertainty
        return replace(routing, uncertainty=u / u.sum().clamp_min(1e-9))


class Stochastic(Good):
    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        self.generator: torch.Generator | None = None

    def probabilities(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=self.generator)
        return super().probabilities(x + noise)


class DrawsGlobally(Good):
    def calibrate(self, x: Tensor) -> None:
        torch.manual_seed(0)
        super().calibrate(x)


class NegativeUncertainty(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, uncertainty=-routing.uncertainty - 0.1)


class NoUncertainty(Good):
    def forward(self, x: Tensor) -> Routing:
        return replace(super().forward(x), uncertainty=None)


class HidesItsCalibration(Good):
    hidden = 1.0

    def calibrate(self, x: Tensor) -> None:
        self.hidden = -1.0

    def probabilities(self, x: Tensor) -> Tensor:
        return super().probabilities(x * self.hidden)


class WritesIntoItsInput(Good):
    def probabilities(self, x: Tensor) -> Tensor:
        p = super().probabilities(x)
        x[:1] = 0
        return p


class NoGradient(Good):
    def forward(self, x: Tensor) -> Routing:
        routing = super().forward(x)
        return replace(routing, weights=routing.weights.detach().requires_grad_(torch.is_grad_enabled()))


class ForgetsUnknownOptions(Good):
    class Config(RouterConfig, extra="allow"):
        pass


def offer(target: type[Router]) -> Offer:
    registry = Registry()
    spec = RouterSpec(
        name="tried",
        target=f"{__name__}:{target.__name__}",
        summary="for a test",
        config=target.Config,
        uncertainty=True,
    )
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry, {"in_features": 6, "experts": 3})


@pytest.mark.parametrize("name", CHECKS)
def test_a_good_router_passes_every_check(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer(Good)))
    assert result.status == "passed", result.message


FAULTY: list[tuple[type[Router], str, str]] = [
    (HalfPrecision, "shapes_and_dtypes", "float16"),
    (NegativeWeights, "weights_are_shares", "negative"),
    (WeightsOfTwo, "weights_are_shares", "sum to 1"),
    (LogitsForProbabilities, "probabilities_sum_to_one", "sum to 1"),
    (LooksAtItsNeighbours, "rows_do_not_depend_on_their_batch", "row 0 alone"),
    (UncertaintyOfTheBatch, "rows_do_not_depend_on_their_batch", "uncertainty differ"),
    (Stochastic, "eval_is_deterministic", "other probabilities"),
    (DrawsGlobally, "random_state_is_left_alone", "torch"),
    (NegativeUncertainty, "uncertainty_is_nats", "negative"),
    (NoUncertainty, "uncertainty_is_nats", "promises"),
    (HidesItsCalibration, "state_round_trip", "routes otherwise"),
    (WritesIntoItsInput, "input_is_untouched", "was changed"),
    (NoGradient, "gradient_reaches_the_router", "no parameter"),
    (ForgetsUnknownOptions, "config_is_json", "unknown option"),
]


@pytest.mark.parametrize(("target", "name", "message"), FAULTY)
def test_a_faulty_router_is_caught(target: type[Router], name: str, message: str) -> None:
    result = run_case(Case(CHECKS[name], offer(target)))
    assert result.status == "failed"
    assert message in result.message


def test_every_check_has_a_faulty_router() -> None:
    assert set(CHECKS) == {name for _, name, _ in FAULTY}


def test_a_router_with_nothing_to_train_is_skipped_there() -> None:
    from qcore.plugins import Framework

    registry: Any = Framework(load=False).registry
    subject = Offer(registry.get("router", "core/uniform"), registry, {"in_features": 6, "experts": 3})
    assert run_case(Case(CHECKS["gradient_reaches_the_router"], subject)).status == "skipped"
