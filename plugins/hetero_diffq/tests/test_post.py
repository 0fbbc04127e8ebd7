"""Budgets without training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import DataError, UsageError
from qcore_hetero_diffq.bias import correct_biases, output_means
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of
from qcore_hetero_diffq.post import Fitted, prepare
from qcore_hetero_diffq.quantizers.losses import ACTIVATION_LEVELS, RATIOS


def batches(count: int = 3, size: int = 16, seed: int = 1) -> list[Tensor]:
    return list(torch.randn(count * size, 2, 8, 8, generator=torch.Generator().manual_seed(seed)).split(size))


def network(*, bias: bool = True) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return prepare(network(), batches())


def test_the_network_given_is_left_alone() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    prepare(model, batches())
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_all_widths_are_eight_and_gradients_were_noted(fitted: Fitted) -> None:
    assert not fitted.model.training
    for grid in learned_grids(fitted.model):
        assert set(grid.level.tolist()) == {8} and not grid.watching
        assert float(grid.seen) > 0
    assert all(bool((q.sensitivity > 0).any()) for _, q in weights_of(fitted.model).values())
    assert all(bool((q.losses[0] > q.losses[-1]).all()) for q in inputs_of(fitted.model).values())


def test_one_seed_gives_one_result_and_another_another() -> None:
    first, again, other = (prepare(network(), batches(), seed=seed) for seed in (0, 0, 1))
    noted = [torch.cat([q.sensitivity for _, q in weights_of(f.model).values()]) for f in (first, again, other)]
    assert torch.equal(noted[0], noted[1]) and not torch.equal(noted[0], noted[2])


def test_the_global_random_state_is_left_alone() -> None:
    model = network()
    before = torch.get_rng_state()
    prepare(model, batches(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("of", ["weights", "activations", "both"])
@pytest.mark.parametrize("counting", ["sum", "max", "peak"])
def test_budgets_are_kept_on_the_disk(fitted: Fitted, tmp_path: Path, of: str, counting: str) -> None:
    metadata = {"classes": ["a", "b", "c", "d"]}
    widest = fitted.to_budget("1MB", of=of, counting=counting, metadata=metadata)  # type: ignore[arg-type]
    full = _taken(widest, fitted, tmp_path, of, counting, metadata)
    for share in (0.95, 0.85):
        limit = int(full * share)
        try:
            made = fitted.to_budget(f"{limit}B", of=of, counting=counting, metadata=metadata)  # type: ignore[arg-type]
        except BudgetInfeasible as error:
            assert limit < error.smallest_nbytes
            continue
        assert _taken(made, fitted, tmp_path, of, counting, metadata) <= limit


def _taken(model: nn.Module, fitted: Fitted, folder: Path, of: str, counting: str, metadata: dict[str, object]) -> int:
    from qcore_hetero_diffq.budget.activations import trace_inputs

    widths = {path: float(q.bits().detach()) for path, q in inputs_of(model).items()}
    sizes = trace_inputs(fitted.model, fitted.batch[:1])
    inputs = -int(-sizes.nbits(widths, counting) // 8)  # type: ignore[arg-type]
    file = qcore.save(model, folder / "model.safetensors", metadata=metadata).stat().st_size
    return {"weights": file, "activations": inputs, "both": file + inputs}[of]


def test_an_impossible_budget_says_what_is_possible(fitted: Fitted) -> None:
    with pytest.raises(BudgetInfeasible, match="Largest: .*weight") as caught:
        fitted.to_budget("100B")
    least = caught.value.smallest_nbytes
    assert fitted.to_budget(f"{least}B") is not None
    with pytest.raises(BudgetInfeasible):
        fitted.to_budget(f"{least - 1}B")


def test_more_bytes_lose_less_and_the_widest_is_nearly_float(fitted: Fitted) -> None:
    x = torch.cat(batches(seed=5))
    expected = network().eval()(x)
    least = fitted.to_budget("100KB", levels=(1,))
    errors = [
        float((model(x) - expected).square().mean().detach())
        for model in (least, fitted.to_budget("3bit"), fitted.to_budget("6bit"), fitted.uniform(8))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * float(expected.detach().var())


def test_the_closest_to_float_is_taken(fitted: Fitted) -> None:
    alone = [fitted.divergence(fitted.to_budget("3bit", trusts=(trust,))) for trust in (1.0, 0.5, 0.0)]
    assert len(set(alone)) > 1
    assert fitted.divergence(fitted.to_budget("3bit", trusts=(1.0, 0.5, 0.0))) == min(alone)


@pytest.mark.parametrize("problem", ["classification", "regression"])
def test_the_float_network_does_not_diverge_from_itself_and_others_do(problem: Any) -> None:
    fitted = prepare(network(), batches(2), problem=problem)
    assert fitted.divergence(network().eval()) == 0
    assert 0 < fitted.divergence(fitted.uniform(8)) < fitted.divergence(fitted.uniform(2))


def test_biases_are_corrected_where_that_helps_and_only_there(fitted: Fitted) -> None:
    badly = copy.copy(fitted)
    badly.means = {path: mean + 9 * torch.arange(len(mean)) for path, mean in fitted.means.items()}
    kept, corrected = badly.uniform(3), fitted.uniform(3)
    assert torch.equal(kept[2].bias, network()[2].bias) and not torch.equal(corrected[2].bias, network()[2].bias)
    assert fitted.divergence(corrected) < fitted.divergence(kept)


def test_a_uniform_input_has_the_best_of_its_ranges(fitted: Fitted) -> None:
    for path, quantizer in inputs_of(fitted.uniform(8, 3)).items():
        noted = inputs_of(fitted.model)[path]
        ratio = RATIOS[int(noted.losses[ACTIVATION_LEVELS.index(3)].argmin())]
        torch.testing.assert_close(quantizer.ranges().detach(), noted.ranges().detach() * ratio)


def test_packed_equals_eval_where_all_is_integer(fitted: Fitted) -> None:
    made = fitted.to_budget("3bit")
    x = torch.cat(batches(1, seed=7))
    assert torch.allclose(qcore.pack(made)(x), made(x), atol=0.02)  # the first layer sums floats


def test_a_regression_needs_no_classes() -> None:
    fitted = prepare(network(), batches(2), problem="regression")
    assert all(float(grid.seen) > 0 for grid in learned_grids(fitted.model))


def test_without_a_batch_there_is_nothing_to_look_at() -> None:
    for given in ([], [torch.zeros(0, 2, 8, 8)]):
        with pytest.raises(DataError, match="no batch"):
            prepare(network(), given)


def test_biases_keep_the_mean_of_each_channel_and_layers_without_one_stay() -> None:
    model, x = network(bias=False), torch.cat(batches())
    made = qcore.quantize(model, {"*": "core/int(bits=2)"}).eval()
    wanted = output_means(model, x, {"0", "2", "4", "8"})
    first = made[0].weight.detach().clone()
    before = output_means(made, x, {"4", "8"})
    correct_biases(made, x, wanted)
    after = output_means(made, x, {"2", "4", "8"})
    assert made[0].bias is None and torch.equal(made[0].weight, first)
    for path in ("2", "4", "8"):
        torch.testing.assert_close(after[path], wanted[path], rtol=1e-3, atol=1e-4)
    assert any((before[path] - wanted[path]).abs().max() > 1e-2 for path in ("4", "8"))
    assert not any(module._forward_hooks for module in made.modules())


def test_means_are_of_the_last_axis_of_what_is_no_image() -> None:
    model, x = nn.Sequential(nn.Linear(5, 3)), torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))
    found = output_means(model, x, {"0"})["0"]
    torch.testing.assert_close(found, model(x).detach().double().mean(dim=(0, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "4kilo"}, "written like"),
        ({"of": "activation"}, "not of 'activation'"),
        ({"of": "both", "activation_budget": "40B"}, "leave 'of' at weights"),
        ({"counting": "average"}, "not by 'average'"),
        ({"levels": ()}, "levels rise"),
        ({"levels": (0, 3)}, "levels rise"),
        ({"trusts": ()}, "one at least"),
    ],
)
def test_what_says_nothing_is_refused(fitted: Fitted, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fitted.to_budget(**{"budget": "20KB", **arguments})


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to quantize"):
        prepare(nn.Sequential(nn.Flatten()), batches())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_packed_equals_eval_in_other_dtypes(fitted: Fitted, dtype: torch.dtype) -> None:
    for given in (fitted.model, fitted.to_budget("3bit")):
        model = copy.deepcopy(given).to(dtype).eval()
        assert all(grid.step.dtype == torch.float32 for grid in learned_grids(model))
        x = batches(1, seed=4)[0].to(dtype)
        with torch.no_grad():
            assert torch.equal(qcore.pack(model)(x), model(x))
