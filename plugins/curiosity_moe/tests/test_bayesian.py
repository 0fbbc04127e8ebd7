from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcore.errors import ConfigError
from qcore.nn import MixtureOfExperts, set_generator
from qcore_curiosity_moe.bayesian import BayesianRouter, UncalibratedRouterWarning
from qcore_curiosity_moe.config import BayesianRouterConfig

FEATURES = 12


def inputs(rows: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(seed))


def make_router(seed: int = 0, *, calibrated: bool = True, **options: object) -> BayesianRouter:
    values = {"in_features": FEATURES, "experts": 3, "bits": (1.6, 4.0, 8.0), "hidden": (24, 16), **options}
    router = BayesianRouter(BayesianRouterConfig.model_validate(values))
    router.reset_parameters(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        router.layer3.weight.mul_(3.0)
    router.eval()
    if calibrated:
        router.calibrate(inputs(512, seed=99))
    return router


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 33))
def test_each_row_alone_is_routed_as_in_any_batch(seed: int, rows: int) -> None:
    router, x = make_router(seed), inputs(rows, seed) * 3
    whole = router(x)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    shuffled = router(x[order])
    assert torch.equal(shuffled.probabilities, whole.probabilities[order])
    for row in range(rows):
        alone = router(x[row : row + 1])
        assert torch.equal(alone.probabilities[0], whole.probabilities[row])
        assert torch.equal(alone.weights[0], whole.weights[row])
        assert torch.equal(alone.uncertainty[0], whole.uncertainty[row])


def test_a_large_batch_is_routed_as_its_parts_are() -> None:
    router, x = make_router(hidden=(128, 64)), inputs(2000)
    whole = router(x)
    for size in (1, 7, 64, 999):
        parts = [router(part) for part in x[:500].split(size)]
        assert torch.equal(torch.cat([part.weights for part in parts]), whole.weights[:500])
        assert torch.equal(torch.cat([part.probabilities for part in parts]), whole.probabilities[:500])


def test_batch_minmax_depends_on_the_batch_and_is_no_default() -> None:
    router, x = make_router(normalisation="batch_minmax", batch_dependent=True), inputs()
    assert not torch.equal(router(x).extras["normalised"][:1], router(x[:1]).extras["normalised"])
    assert make_router().config.normalisation == "calibrated"
    with pytest.raises(ValueError, match="batch_dependent=true"):
        make_router(normalisation="batch_minmax")


@pytest.mark.parametrize("rule", ["precision_prior", "sharpen", "info_gain"])
def test_alpha_zero_gives_the_probabilities_without_a_prior(rule: str) -> None:
    routing = make_router(alpha=0.0, rule=rule)(inputs())
    assert (routing.probabilities - routing.extras["base"]).abs().max() <= 1e-7


def test_only_alpha_decides_whether_probabilities_change() -> None:
    router, x = make_router(alpha=0.0), inputs()
    before = router(x)
    router.alpha.fill_(1.0)
    after = router(x)
    unsure = after.extras["normalised"] > 0.1
    assert unsure.any()
    assert torch.equal(before.extras["base"], after.extras["base"])
    assert ((before.probabilities - after.probabilities).abs().amax(dim=1)[unsure] > 1e-4).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 8), st.floats(0, 8))
def test_expected_bits_never_fall_as_alpha_rises(seed: int, one: float, other: float) -> None:
    router, x, bits = make_router(seed), inputs(32, seed), torch.tensor([1.6, 4.0, 8.0])
    expected = []
    for alpha in sorted((one, other)):
        router.alpha.fill_(alpha)
        expected.append(router(x).probabilities @ bits)
    assert (expected[1] >= expected[0] - 1e-5).all()


def test_curiosity_sends_rows_up_and_never_down() -> None:
    router, x = make_router(alpha=4.0), inputs(500)
    routing = router(x)
    plain = router.choose(router.without_curiosity(routing.extras["base"]))[:, 0]
    assert (routing.experts >= plain).all()
    assert (routing.experts > plain).any()


def test_equal_bits_leave_the_routes_alone() -> None:
    routing = make_router(bits=(4.0, 4.0, 4.0), alpha=5.0)(inputs())
    assert torch.equal(routing.probabilities, routing.extras["base"])


@pytest.mark.parametrize("kind", ["mutual_information", "variance"])
def test_one_pass_has_no_uncertainty(kind: str) -> None:
    routing = make_router(passes=1, uncertainty=kind)(inputs())
    assert torch.equal(routing.uncertainty, torch.zeros(64))
    assert torch.equal(routing.extras["normalised"], torch.zeros(64))
    assert torch.equal(routing.probabilities, routing.extras["base"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["mutual_information", "variance"]), st.floats(0.1, 100))
def test_uncertainty_is_normalised_and_probabilities_sum_to_one(seed: int, kind: str, scale: float) -> None:
    routing = make_router(seed, uncertainty=kind)(inputs(32, seed) * scale)
    u = routing.extras["normalised"]
    assert ((u >= 0) & (u <= 1)).all()
    assert (routing.uncertainty >= 0).all()
    assert torch.allclose(routing.probabilities.sum(dim=1), torch.ones(32), atol=1e-6)


def test_the_same_seed_gives_the_same_routes_and_another_seed_others() -> None:
    one, same, other = make_router(1)(inputs()), make_router(1)(inputs()), make_router(2)(inputs())
    assert torch.equal(one.probabilities, same.probabilities)
    assert not torch.equal(one.probabilities, other.probabilities)


def test_the_masks_travel_with_the_model() -> None:
    router, copied = make_router(3), make_router(4)
    copied.load_state_dict(router.state_dict())
    assert torch.equal(copied(inputs()).probabilities, router(inputs()).probabilities)
    assert torch.equal(copy.deepcopy(router)(inputs()).probabilities, router(inputs()).probabilities)


def test_training_draws_new_masks_each_step_from_the_given_generator() -> None:
    router, x = make_router().train(), inputs()
    set_generator(router, torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    first, second = router(x).extras["base"], router(x).extras["base"]
    set_generator(router, torch.Generator().manual_seed(5))
    assert not torch.equal(first, second)
    assert torch.equal(router(x).extras["base"], first)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_passes_are_those_of_a_loop_over_the_masks() -> None:
    router, x = make_router(), inputs(9).double()
    passes, base = router.probabilities(x)
    scale = 1 / (1 - router.config.dropout)
    layers = [copy.deepcopy(layer).double() for layer in (router.layer1, router.layer2, router.layer3)]
    for index, found in enumerate(passes):
        hidden = layers[0](x).relu() * router.keep1[index] * scale
        hidden = layers[1](hidden).relu() * router.keep2[index] * scale
        assert torch.allclose(layers[2](hidden).softmax(dim=1), found, atol=1e-12)
    assert torch.allclose(passes.mean(dim=0), base, atol=1e-15)


def test_the_deterministic_base_is_the_pass_without_masks() -> None:
    router, x = make_router(base="deterministic"), inputs(9).double()
    layers = [copy.deepcopy(layer).double() for layer in (router.layer1, router.layer2, router.layer3)]
    expected = layers[2](layers[1](layers[0](x).relu()).relu()).softmax(dim=1)
    assert torch.allclose(router.probabilities(x)[1], expected, atol=1e-12)


def test_no_gradient_passes_through_the_uncertainty() -> None:
    x = inputs()
    plain, curious = make_router(base="deterministic", alpha=0.0), make_router(base="deterministic", alpha=3.0)
    for router in (plain, curious):
        router.train()
        set_generator(router, torch.Generator().manual_seed(0))
    routing = curious(x)
    u = routing.extras["normalised"]
    assert not u.requires_grad
    assert not routing.uncertainty.requires_grad
    base = plain(x).extras["base"]
    tilted = torch.softmax(torch.log(base) + 3.0 * u.unsqueeze(1) * curious.beta, dim=1)
    target = torch.randn(tilted.shape, generator=torch.Generator().manual_seed(1))
    (routing.probabilities * target).sum().backward()
    (tilted * target).sum().backward()
    for one, other in zip(curious.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


@pytest.mark.parametrize("gate", ["probability", "straight_through"])
def test_the_chosen_expert_weighs_its_probability_in_training_and_one_in_eval(gate: str) -> None:
    router, x = make_router(gate=gate), inputs()
    assert torch.equal(router(x).weights.amax(dim=1), torch.ones(64))
    routing = router.train()(x)
    top = routing.probabilities.amax(dim=1)
    weights = routing.weights.amax(dim=1)
    assert torch.allclose(weights, top if gate == "probability" else torch.ones(64))
    weights.sum().backward()
    assert router.layer3.weight.grad.abs().sum() > 0


def test_two_experts_share_the_weight_one() -> None:
    routing = make_router(k=2)(inputs())
    assert ((routing.weights > 0).sum(dim=1) == 2).all()
    assert torch.allclose(routing.weights.sum(dim=1), torch.ones(64))
    assert torch.equal(routing.experts, routing.probabilities.argmax(dim=1))


def test_equal_probabilities_go_to_the_lowest_index() -> None:
    router = make_router(alpha=0.0)
    with torch.no_grad():
        router.layer3.weight.zero_()
    assert torch.equal(router(inputs()).experts, torch.zeros(64, dtype=torch.int64))


def test_an_uncalibrated_router_warns_once_and_divides_by_the_bound() -> None:
    router = make_router(calibrated=False)
    with pytest.warns(UncalibratedRouterWarning, match="calibrate"):
        routing = router(inputs())
    assert torch.allclose(routing.extras["normalised"], routing.uncertainty / torch.tensor(3.0).log())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        router(inputs())
        make_router()(inputs())


def test_calibration_sets_the_quantiles_of_the_training_rows() -> None:
    router, x = make_router(), inputs(5000, seed=7)
    router.calibrate(x)
    u = router(x).uncertainty
    assert float(router.low) == pytest.approx(float(u.quantile(0.05)), rel=1e-5)
    assert float(router.high) == pytest.approx(float(u.quantile(0.95)), rel=1e-5)
    assert not router.training


def test_training_follows_the_range_of_the_uncertainty() -> None:
    router = make_router(calibrated=False).train()
    router(inputs())
    assert bool(router.fitted)
    assert 0 <= float(router.low) < float(router.high) < 1


def test_a_prior_for_inference_alone_leaves_training_alone() -> None:
    router, x = make_router(prior_when="inference", alpha=4.0), inputs()
    assert not torch.equal(router(x).probabilities, router(x).extras["base"])
    routing = router.train()(x)
    assert torch.equal(routing.probabilities, routing.extras["base"])


def test_the_ramp_weakens_alpha_in_training_only() -> None:
    router, x = make_router(alpha=4.0), inputs()
    router.ramp.zero_()
    assert not torch.equal(router(x).probabilities, router(x).extras["base"])
    routing = router.train()(x)
    assert torch.equal(routing.probabilities, routing.extras["base"])
    assert "ramp" not in router.state_dict()


def test_a_router_of_other_many_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 experts for a router of 3"):
        MixtureOfExperts([torch.nn.Identity()] * 2, make_router())
    with pytest.raises(ValueError, match="2 entries for 3 experts"):
        make_router(bits=(4.0, 8.0))
    with pytest.raises(ValueError, match="more than the 3 experts"):
        make_router(k=4)


def test_eval_mode_exports() -> None:
    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = make_router()

        def forward(self, x: Tensor) -> Tensor:
            return self.router(x).probabilities

    module, x = Probabilities().eval(), inputs(8)
    program = torch.export.export(module, (x,), strict=False)
    assert torch.equal(program.module()(x), module(x))
