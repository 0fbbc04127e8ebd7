"""The best step of each level, against a fine search in float64."""

from __future__ import annotations

import pytest
import torch

from qcore_hetero_diffq.budget.candidates import weight_candidates
from qcore_hetero_diffq.quantizers.levels import LEVELS, largest_codes


def slices(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 2, 40, generator=torch.Generator().manual_seed(seed))


def error(x: torch.Tensor, step: torch.Tensor, level: int) -> torch.Tensor:
    """Return the squared error of each slice, float64 (rows, groups)."""
    x, d = x.double(), step.double().unsqueeze(-1)
    top = float(largest_codes(torch.tensor(level)))
    codes = torch.where(x >= 0, 1.0, -1.0) if level == 1 else (x / d).round().clamp(-top, top)
    return (codes * d - x).square().sum(dim=-1)


def test_errors_are_those_of_the_steps() -> None:
    x = slices()
    found = weight_candidates(x, torch.full((5, 2), 2.0), LEVELS)
    assert found.levels == LEVELS and found.steps.shape == (8, 5, 2) and found.errors.shape == (5, 8)
    for place, level in enumerate(LEVELS):
        expected = error(x, found.steps[place], level).sum(dim=1)
        torch.testing.assert_close(found.errors[:, place], expected, rtol=1e-4, atol=1e-8)


def test_each_bit_loses_less() -> None:
    errors = weight_candidates(slices(), torch.full((5, 2), 2.0), LEVELS).errors
    assert bool((errors.diff(dim=1) < 0).all())


@pytest.mark.parametrize("level", LEVELS)
def test_steps_are_close_to_the_best(level: int) -> None:
    x = torch.randn(5, 2, 500, generator=torch.Generator().manual_seed(1))
    found = weight_candidates(x, torch.full((5, 2), 2.0), (level,))
    top = float(largest_codes(torch.tensor(level)))
    peak = x.abs().amax(dim=-1)
    tried = torch.stack([error(x, peak * share / top, level) for share in torch.linspace(0.02, 1.1, 400)])
    assert bool((error(x, found.steps[0], level) <= 1.2 * tried.amin(dim=0)).all())


def test_a_binary_step_is_the_mean_magnitude() -> None:
    x = slices()
    step = weight_candidates(x, torch.ones(5, 2), (1,)).steps[0]
    torch.testing.assert_close(step, x.abs().mean(dim=-1))


def test_the_learned_range_is_tried() -> None:
    """A range that no share of the peak comes near, but codes at which the values lie."""
    x = torch.tensor([[[0.1, -0.3, 0.2, 100.0]]]).repeat(1, 1, 1)
    x[..., 3] = 0.3
    learned = torch.tensor([[0.3]])
    assert float(weight_candidates(x, learned, (3,)).errors) < 1e-12


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-25, 1e25, 1e38])
def test_any_size_has_a_step_and_an_error(size: float) -> None:
    found = weight_candidates(slices() * (size / 4), torch.full((5, 2), max(size, 1e-38)), LEVELS)
    assert bool((found.steps > 0).all()) and bool(torch.isfinite(found.steps).all())
    assert bool(torch.isfinite(found.errors).all()) and bool((found.errors >= 0).all())


def test_no_rows() -> None:
    found = weight_candidates(torch.zeros(0, 1, 4), torch.zeros(0, 1), LEVELS)
    assert found.errors.shape == (0, 8) and found.steps.shape == (8, 0, 1)
