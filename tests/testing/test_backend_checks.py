from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from qcore.backends import Kernel, KernelRequest, Probe
from qcore.backends.plan import Constant, PackedStep, Program
from qcore.backends.plan.base import Compiled
from qcore.backends.plan.routing import combine
from qcore.backends.reference import ReferenceBackend
from qcore.registry import BackendSpec, Registry
from qcore.tensor import Encoded, QTensor
from qcore.testing import backend_checks
from qcore.testing.backend_problems import convolutions, extremes, float_layers, linears, mixed_widths
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(backend_checks)}
Input = Tensor | Encoded
Grouped = Callable[[Tensor, Tensor], Tensor]


class Good(ReferenceBackend):
    """The reference by another name, which runs the experts of a mixture too."""

    name: ClassVar[str] = "tried"
    hands_over_codes: ClassVar[bool] = True

    def experts(self, kernels: Sequence[Kernel]) -> Grouped | None:
        return lambda x, weights: combine([kernel.call for kernel in kernels], x, weights)


class Changed(Good):
    """Changes what the reference returns."""

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        kernel = super().prepare(request, weight, bias)
        return replace(kernel, call=lambda x: self.change(kernel.call(x), request, x))

    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y


class OffByOneUlp(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return torch.where(y > 10, y * (1 + 2**-23), y)


class OverflowsInSixteenBits(Changed):
    """Wrong only where the sums are long and their terms large."""

    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y.clamp(-1000, 1000) if request.weight_shape[-1] >= 1024 and request.bits == (8,) else y


class SumsWideInputsIn32Bits(Changed):
    """Wrong only where codes have 16 bits and the sums are long."""

    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        wide = request.activation is not None and request.activation.bits == 16
        return y * 0.5 if wide and request.weight_shape[-1] > 1024 else y


class ForgetsPadding(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y * 2 if request.conv is not None and request.conv.padding != (0, 0) else y


class SortsItsRows(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y.flip(-1) if len(request.bits) > 1 else y


class ExceedsItsBound(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y * 1.001 if not request.integer else y


class MindsTheBatch(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        return y - y.mean(dim=0, keepdim=True) * 1e-6 if y.dim() == 2 and len(y) > 1 else y


class WritesIntoItsInput(Changed):
    def change(self, y: Tensor, request: KernelRequest, x: Input) -> Tensor:
        if isinstance(x, Tensor):
            x.mul_(0.5)
        return y


class WritesIntoItsWeight(Good):
    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        kernel = super().prepare(request, weight, bias)
        weight.scale.mul_(2)
        return kernel


class TakesNoBytes(Good):
    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        return replace(super().prepare(request, weight, bias), nbytes=0)


class RaisesInProbe(Good):
    def probe(self) -> Probe:
        raise OSError("no driver")


class GivesNoReason(Good):
    def probe(self) -> Probe:
        return Probe(False, "cuda")


class NamedOtherwise(Good):
    name: ClassVar[str] = "another"


class RoundsItsPlans(Good):
    def compile(self, program: Program) -> Compiled:
        run = super().compile(program)
        return lambda shape: lambda x: run(shape)(x).to(torch.bfloat16).float()


class PlansWithoutNorms(Good):
    """Runs a packed layer and forgets what is fused into it."""

    def compile(self, program: Program) -> Compiled:
        steps = [replace(step, norm=None) if isinstance(step, PackedStep) else step for step in program.steps]
        return super().compile(replace(program, steps=tuple(steps)))


class PlansOneRowOfConstants(Good):
    def compile(self, program: Program) -> Compiled:
        run = super().compile(program)
        lone = isinstance(program.steps[0], Constant)
        return lambda shape: lambda x: run(shape)(x)[:1] if lone else run(shape)(x)


class LosesNaNInCodes(Good):
    def compile(self, program: Program) -> Compiled:
        coded = bool(program.handed_over())
        return lambda shape: lambda x: program(x).nan_to_num() if coded else program(x)


class EncodesOtherwise(Good):
    """Takes another range for the codes that the first layer hands over."""

    def compile(self, program: Program) -> Compiled:
        first, *others = program.steps
        if isinstance(first, PackedStep) and first.codes is not None:
            assert first.codes.high is not None
            codes = replace(first.codes, high=first.codes.high * 1.01)
            program = Program((replace(first, codes=codes), *others), program.output)
        return lambda shape: program


class HandsOverFloats(Good):
    hands_over_codes: ClassVar[bool] = False


class IgnoresWeightsOfExperts(Good):
    """Adds the outputs of the experts that a row calls, whatever its weights are."""

    def experts(self, kernels: Sequence[Kernel]) -> Grouped:
        return lambda x, weights: combine([kernel.call for kernel in kernels], x, (weights != 0).float())


class MixesRowsOfExperts(Good):
    """Adds nothing, but of all rows."""

    def experts(self, kernels: Sequence[Kernel]) -> Grouped:
        exact = super().experts(kernels)
        assert exact is not None
        return lambda x, weights: exact(x, weights) + 0 * x.sum()


class RunsNoExperts(Good):
    def experts(self, kernels: Sequence[Kernel]) -> None:
        return None


class CompilesNoPlans(Good):
    def compile(self, program: Program) -> str:  # type: ignore[override]
        return "not this year"


class RefusesPlansSilently(Good):
    def compile(self, program: Program) -> str:  # type: ignore[override]
        return ""


class Absent(Good):
    def probe(self) -> Probe:
        return Probe(False, "cuda", "no such device here")


class RejectsAll(Good):
    def reject(self, request: KernelRequest) -> str | None:
        return "not today"


class RejectsSilently(Good):
    def reject(self, request: KernelRequest) -> str | None:
        return ""


def offer(target: type[ReferenceBackend]) -> Offer:
    registry = Registry()
    spec = BackendSpec(name="tried", target=f"{__name__}:{target.__name__}", summary="for a test")
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry, {})


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_passes_every_check(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer(Good)))
    assert result.status == "passed", result.message


FAULTY: list[tuple[type[ReferenceBackend], str, str]] = [
    (OffByOneUlp, "integer_linear_is_exact", "off by"),
    (OverflowsInSixteenBits, "extremes_are_exact", "inputs all"),
    (SumsWideInputsIn32Bits, "input_columns_are_exact", "columns of"),
    (ForgetsPadding, "integer_conv_is_exact", "conv2d"),
    (SortsItsRows, "mixed_widths_are_exact", "off by"),
    (ExceedsItsBound, "float_layers_are_within_their_bound", "its bound allows 0"),
    (MindsTheBatch, "rows_do_not_depend_on_their_batch", "differs alone"),
    (WritesIntoItsInput, "kernel_leaves_its_inputs_alone", ""),
    (WritesIntoItsWeight, "kernel_leaves_its_inputs_alone", "scale was changed"),
    (TakesNoBytes, "kernel_says_what_it_is", "takes 0 bytes"),
    (RaisesInProbe, "probe_answers", "no driver"),
    (GivesNoReason, "probe_answers", "no reason"),
    (NamedOtherwise, "name_is_its_specs", "'another'"),
    (RejectsSilently, "integer_linear_is_exact", "without a reason"),
    (RoundsItsPlans, "plans_compute_their_steps", "bounds allow"),
    (RefusesPlansSilently, "plans_compute_their_steps", "without a reason"),
    (PlansWithoutNorms, "plans_compute_their_steps", "packed linear + batch norm + relu: off by"),
    (PlansOneRowOfConstants, "plans_compute_their_steps", "constant: (1, 4)"),
    (LosesNaNInCodes, "plans_hand_over_codes", "NaN elsewhere"),
    (EncodesOtherwise, "plans_hand_over_codes", "from the plan of floats"),
    (IgnoresWeightsOfExperts, "experts_equal_one_by_one", "from one by one"),
    (MixesRowsOfExperts, "experts_equal_one_by_one", "NaN in one row changes another's output"),
]


@pytest.mark.parametrize(("target", "name", "message"), FAULTY)
def test_a_faulty_backend_is_caught(target: type[ReferenceBackend], name: str, message: str) -> None:
    result = run_case(Case(CHECKS[name], offer(target)))
    assert result.status == "failed"
    assert message in result.message


def test_every_check_has_a_faulty_backend() -> None:
    assert set(CHECKS) == {name for _, name, _ in FAULTY}


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"probe_answers", "name_is_its_specs"}))
def test_absent_hardware_is_skipped_with_its_reason(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer(Absent)))
    assert (result.status, result.message) == ("skipped", "no such device here")


def test_a_backend_that_rejects_every_layer_is_skipped_with_the_reason() -> None:
    result = run_case(Case(CHECKS["integer_conv_is_exact"], offer(RejectsAll)))
    assert result.status == "skipped" and "not today" in result.message


def test_a_backend_that_compiles_no_plan_is_skipped_with_the_reason() -> None:
    result = run_case(Case(CHECKS["plans_compute_their_steps"], offer(CompilesNoPlans)))
    assert result.status == "skipped" and "not this year" in result.message


def test_a_backend_whose_plans_hand_over_floats_is_skipped() -> None:
    result = run_case(Case(CHECKS["plans_hand_over_codes"], offer(HandsOverFloats)))
    assert result.status == "skipped" and "floats" in result.message


def test_a_backend_without_experts_in_one_call_is_skipped_with_the_reason() -> None:
    result = run_case(Case(CHECKS["experts_equal_one_by_one"], offer(RunsNoExperts)))
    assert result.status == "skipped" and "no experts" in result.message


def test_problems_cover_every_width_and_reach_both_ends_of_the_codes() -> None:
    problems = list(extremes())
    bits_of = [(problem.weight.encoding, problem.weight.bits) for problem in problems]
    widths = {(encoding, bits) for encoding, bits in bits_of if isinstance(bits, int)}
    assert {("int", bits) for bits in range(2, 9)} | {("uint", bits) for bits in range(1, 9)} <= widths
    for problem in problems:
        codes = problem.coded_input().codes
        assert codes.abs().min() == 127 and all(len(row.unique()) == 1 for row in problem.weight.codes)
    assert max(problem.weight.codes.shape[1] for problem in problems) > 2**12


def test_problems_are_the_same_each_time() -> None:
    for source in (linears, mixed_widths, convolutions, float_layers):
        for first, second in zip(source(), source(), strict=True):
            assert first.name == second.name
            assert torch.equal(first.weight.codes, second.weight.codes)
