"""What a squared error of a row counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcore_hetero_diffq.budget.sensitivity import error_weights

NUMBERS = {"a": 9, "b": 64}


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


FISHER = {"a": rows(1e-3, 4.0, 0.5), "b": rows(2.0, 7e-2)}
ENERGIES = {"a": rows(0.3, 2.0, 11.0), "b": rows(5.0, 0.1)}


def test_full_trust_leaves_the_gradients_as_they_are() -> None:
    found = error_weights(FISHER, ENERGIES, NUMBERS, 1.0)
    assert all(torch.equal(found[path], FISHER[path]) for path in FISHER)


def test_without_trust_a_relative_error_costs_each_number_the_same() -> None:
    found = error_weights(FISHER, ENERGIES, NUMBERS, 0.0)
    costs = torch.cat([found[path] * ENERGIES[path] / NUMBERS[path] for path in FISHER])
    torch.testing.assert_close(costs, costs[:1].expand_as(costs))


@pytest.mark.parametrize("trust", [0.0, 0.3, 0.75, 1.0])
def test_the_geometric_mean_over_all_numbers_stays(trust: float) -> None:
    def mean(weights: dict[str, Tensor]) -> float:
        logs = sum(NUMBERS[path] * float(found.log().sum()) for path, found in weights.items())
        return logs / sum(NUMBERS[path] * len(found) for path, found in weights.items())

    assert mean(error_weights(FISHER, ENERGIES, NUMBERS, trust)) == pytest.approx(mean(FISHER))


def test_trust_between_is_between() -> None:
    none, half, full = (error_weights(FISHER, ENERGIES, NUMBERS, trust) for trust in (0.0, 0.5, 1.0))
    for path in FISHER:
        torch.testing.assert_close(half[path].square(), none[path] * full[path])


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_rows_without_gradient_or_without_weights_stay_finite(trust: float) -> None:
    fisher, energies = {"a": rows(0.0, 1.0), "b": rows(0.0)}, {"a": rows(1.0, 0.0), "b": rows(0.0)}
    found = error_weights(fisher, energies, NUMBERS, trust)
    assert all(bool(torch.isfinite(weights).all()) and bool((weights >= 0).all()) for weights in found.values())
