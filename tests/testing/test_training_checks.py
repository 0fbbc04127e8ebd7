from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from qcore.backends import Grid, Probe, TrainingKernels
from qcore.backends.reference import ReferenceBackend
from qcore.registry import BackendSpec, Registry
from qcore.testing import training_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer
from qcore.testing.training_problems import TorchTrainingKernels

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(training_checks)}


class Good(ReferenceBackend):
    """Offers the formulas."""

    kernels: ClassVar[type[TrainingKernels]] = TorchTrainingKernels

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        return self.kernels()


class Multiplies(TorchTrainingKernels):
    """Takes a reciprocal where the formula divides: wrong in the last bit, and so across ties."""

    def round_to_grid(self, x: Tensor, grid: Grid) -> Tensor | None:
        inverse = 1.0 / grid.scale if grid.inverse is None else grid.inverse
        return super().round_to_grid(x, replace(grid, inverse=inverse))


class NudgesZeros(TorchTrainingKernels):
    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        y = super().round_over_range(x, bits, symmetric=symmetric, floor=floor)
        return y if y is None or floor else torch.where(y == 0, y + 1e-9, y)


class ForgetsTheFloor(TorchTrainingKernels):
    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        return super().round_over_range(x, bits, symmetric=symmetric)


class TakesZeroForMinus(TorchTrainingKernels):
    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        return super().round_to_sign(x, magnitude, torch.zeros(1, 1) if threshold is None else threshold)


class RoundsUp(TorchTrainingKernels):
    def round_to_odd(self, x: Tensor, half_step: Tensor, top: Tensor) -> Tensor | None:
        y = super().round_to_odd(x, half_step, top)
        return y if y is None else torch.where(x == 0, -y, y)


class ForgetsTheWidest(TorchTrainingKernels):
    def odd_products(self, gradient: Tensor, x: Tensor, half_steps: Tensor, tops: Tensor) -> Tensor:
        found = super().odd_products(gradient, x, half_steps, tops)
        found[:, 2] = found[:, 1]
        return found


class SumsInAnyOrder(TorchTrainingKernels):
    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        return (x.abs() if magnitude else x).flip(-1).cumsum(-1, dtype=torch.float64)[:, -1:]


class LeavesOutTheEnds(TorchTrainingKernels):
    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return gradient * ((x > low.reshape(-1, 1)) & (x < high.reshape(-1, 1)))


class SumsInFloat32(TorchTrainingKernels):
    def learned_scale_gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        dx, dscale = super().learned_scale_gradients(gradient, x, scale, low, high)
        return dx, dscale * (1 + 2.0**-20)


class PassesNaN(TorchTrainingKernels):
    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        return super().round_to_sign(x.nan_to_num(), magnitude, threshold)


class WritesIntoItsInput(TorchTrainingKernels):
    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        y = super().round_over_range(x, bits, symmetric=symmetric, floor=floor)
        return y if y is None else x.copy_(y)


def offer(
    kernels: type[TrainingKernels] = TorchTrainingKernels, backend: type[ReferenceBackend] | None = None
) -> Offer:
    made = backend or type("Tried", (Good,), {"kernels": kernels})
    globals()["Tried"] = made
    registry = Registry()
    spec = BackendSpec(name="tried", target=f"{__name__}:Tried", summary="for a test")
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry, {})


@pytest.mark.parametrize("name", CHECKS)
def test_the_formulas_pass_every_check(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer()))
    assert result.status == "passed", result.message


FAULTY: list[tuple[type[TrainingKernels], str]] = [
    (Multiplies, "training_rounds_to_grids_exactly"),
    (NudgesZeros, "training_rounds_over_ranges_exactly"),
    (ForgetsTheFloor, "training_rounds_over_ranges_exactly"),
    (TakesZeroForMinus, "training_rounds_to_signs_exactly"),
    (RoundsUp, "training_rounds_to_odd_codes_exactly"),
    (ForgetsTheWidest, "training_multiplies_every_width"),
    (SumsInAnyOrder, "training_sums_keep_their_order"),
    (LeavesOutTheEnds, "training_masks_gradients_exactly"),
    (SumsInFloat32, "training_learned_scales_have_their_gradients"),
    (PassesNaN, "training_refuses_nan_and_infinity"),
    (WritesIntoItsInput, "training_leaves_its_inputs_alone"),
]


@pytest.mark.parametrize(("kernels", "name"), FAULTY)
def test_faulty_kernels_are_caught(kernels: type[TrainingKernels], name: str) -> None:
    assert run_case(Case(CHECKS[name], offer(kernels))).status == "failed"


def test_every_check_has_faulty_kernels() -> None:
    assert set(CHECKS) == {name for _, name in FAULTY}


@pytest.mark.parametrize("name", CHECKS)
def test_a_backend_without_any_is_skipped(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer(backend=ReferenceBackend)))
    assert (result.status, result.message) == ("skipped", "it offers no kernels for training")


class Missing(Good):
    def probe(self) -> Probe:
        return Probe(False, "cuda", "no such device here")


def test_absent_hardware_is_skipped_with_its_reason() -> None:
    result = run_case(Case(CHECKS["training_sums_keep_their_order"], offer(backend=Missing)))
    assert (result.status, result.message) == ("skipped", "no such device here")
