"""Checks on backends: what they say they can run, they run exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from qcore.backends import Backend, Kernel, Probe
from qcore.backends.plan.base import FLOAT_BOUND
from qcore.backends.plan.routing import combine
from qcore.nn.plan.handover import hand_over
from qcore.tensor import Encoded, QTensor
from qcore.tensor.layers import conv2d, linear
from qcore.testing.backend_problems import (
    Problem,
    convolutions,
    expert_layers,
    extremes,
    float_layers,
    linears,
    mixed_widths,
)
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.column_problems import columned
from qcore.testing.handover_problems import handover_plans
from qcore.testing.inputs import generator
from qcore.testing.plan_problems import PlanProblem, float_plans, packed_layers, packed_plan
from qcore.testing.subjects import Offer


def available(offer: Offer) -> Backend:
    """Return the backend, or skip the check with the reason for which it cannot run here."""
    backend: Backend = offer.make()
    probe = backend.probe()
    if not probe.available:
        raise SkipCheck(probe.reason or "not available here")
    return backend


def check_probe_answers(offer: Offer) -> None:
    """``qcore doctor`` asks every backend: probing never raises, and an absent one says why."""
    backend: Backend = offer.make()
    first = backend.probe()
    expect(isinstance(first, Probe), f"probe() returns {type(first).__name__}")
    expect(first.available or bool(first.reason), "it is not available and gives no reason")
    expect(backend.probe() == first, "a second probe says something else")


def check_name_is_its_specs(offer: Offer) -> None:
    """``QCORE_BACKEND`` and reports use one name: the class has that of its spec."""
    backend: Backend = offer.make()
    expect(backend.name == offer.spec.name, f"the class is named {backend.name!r}, the spec {offer.spec.name!r}")
    expect(isinstance(backend.priority, int), "its priority is no whole number")


def check_integer_linear_is_exact(offer: Offer) -> None:
    """Packed equals eval, bit for bit: every encoding, width, odd size and activation that it accepts."""
    _run_exactly(available(offer), linears())


def check_mixed_widths_are_exact(offer: Offer) -> None:
    """Rows of different widths come back in their own order, bit for bit."""
    _run_exactly(available(offer), mixed_widths())


def check_input_columns_are_exact(offer: Offer) -> None:
    """Inputs with a clip and a width for each column, 16 bits among them: bit for bit, whatever the codes."""
    _run_exactly(available(offer), columned())


def check_extremes_are_exact(offer: Offer) -> None:
    """No sum overflows: all codes and all activations at their ends, over thousands of columns."""
    _run_exactly(available(offer), extremes())


def check_integer_conv_is_exact(offer: Offer) -> None:
    """Convolutions equal eval, bit for bit: strides, padding, dilation and groups."""
    _run_exactly(available(offer), convolutions())


def check_float_layers_are_within_their_bound(offer: Offer) -> None:
    """Where sums are float by nature, the kernel states a bound and keeps it."""
    backend = available(offer)
    _each(backend, float_layers(), _compare_within_bound)


def check_rows_do_not_depend_on_their_batch(offer: Offer) -> None:
    """A sample gets one answer: an integer layer's row is the same alone and in a batch."""
    _each(available(offer), linears(), _compare_rows)


def check_kernel_leaves_its_inputs_alone(offer: Offer) -> None:
    """Kernels are pure: neither the input nor the stored weight changes, and a second call gives the same."""
    backend = available(offer)
    for problem in _accepted(backend, linears()):
        packed = QTensor.pack(problem.weight)
        stored = {name: tensor.clone() for name, tensor in packed.tensors().items()}
        kernel = backend.prepare(problem.request, packed, problem.bias)
        given = problem.x.codes if isinstance(problem.x, Encoded) else problem.x
        before = given.clone()
        first, second = kernel.call(problem.x), kernel.call(problem.x)
        expect(torch.equal(first, second), f"{problem.name}: a second call differs")
        expect(torch.equal(before, given), f"{problem.name}: the input was changed")
        for name, tensor in packed.tensors().items():
            expect(torch.equal(stored[name], tensor), f"{problem.name}: the weight's {name} was changed")


def check_kernel_says_what_it_is(offer: Offer) -> None:
    """``qcore.explain`` prints it: a kernel has a name, its bytes, and a bound of 0 where it is exact."""
    backend = available(offer)
    for problem in _accepted(backend, [*convolutions(), *float_layers()]):
        kernel = backend.prepare(problem.request, QTensor.pack(problem.weight), problem.bias)
        expect(kernel.name.strip(), f"{problem.name}: the kernel has no name")
        expect(kernel.nbytes > 0, f"{problem.name}: the kernel takes {kernel.nbytes} bytes")
        expect(kernel.bound >= 0, f"{problem.name}: the kernel's bound is {kernel.bound}")


def check_plans_compute_their_steps(offer: Offer) -> None:
    """A plan is its steps: what the backend compiles agrees with their definitions, and with exact ones bit for bit."""
    backend = available(offer)
    refusals = []
    problems = [*float_plans(), *_packed_plans(backend)]
    for problem in problems:
        compiled = backend.compile(problem.program)
        if isinstance(compiled, str):
            expect(compiled.strip(), f"{problem.name}: not compiled, without a reason")
            refusals.append(compiled)
            continue
        run, wanted = compiled(tuple(problem.x.shape[1:])), problem.program(problem.x)
        got = run(problem.x)
        expect(
            got.dtype == wanted.dtype and got.shape == wanted.shape, f"{problem.name}: {tuple(got.shape)} {got.dtype}"
        )
        off, limit = _worst(got, wanted), problem.bound * float(wanted.abs().max())
        expect(off <= limit, f"{problem.name}: off by {off:.3g}, its steps' bounds allow {limit:.3g}")
        expect(len(run(problem.x[:0])) == 0, f"{problem.name}: no rows give rows")
    if len(refusals) == len(problems):
        raise SkipCheck(f"it compiles no plan: {refusals[0]}")


def check_plans_hand_over_codes(offer: Offer) -> None:
    """Codes between layers change no number: a plan that hands them over gives the bits of the one of floats."""
    backend = available(offer)
    if not backend.hands_over_codes:
        raise SkipCheck("its plans hand over floats")

    def prepare(layer: Problem) -> Kernel | None:
        refused = backend.reject(layer.request)
        return None if refused else backend.prepare(layer.request, QTensor.pack(layer.weight), layer.bias)

    count = 0
    for problem in handover_plans(prepare, _device(backend)):
        coded = hand_over(problem.program)
        expect(len(coded.handed_over()) > 1, f"{problem.name}: nothing is handed over")
        compiled = [backend.compile(program) for program in (coded, problem.program)]
        for refused in compiled:
            expect(not isinstance(refused, str), f"{problem.name}: not compiled: {refused}")
        run, floats = [given(tuple(problem.x.shape[1:])) for given in compiled if not isinstance(given, str)]
        got, wanted = run(problem.x), floats(problem.x)
        expect(torch.equal(got.isnan(), wanted.isnan()), f"{problem.name}: NaN elsewhere than among floats")
        off = _worst(got.nan_to_num(), wanted.nan_to_num())
        expect(off == 0, f"{problem.name}: off by up to {off:.3g} from the plan of floats")
        expect(len(run(problem.x[:0])) == 0, f"{problem.name}: no rows give rows")
        count += 1
    if not count:
        raise SkipCheck("it rejects every such layer")


def check_experts_equal_one_by_one(offer: Offer) -> None:
    """A mixture in one call is its experts one by one, each on the rows that have a weight for it, and no others."""
    backend = available(offer)
    layers = _accepted(backend, expert_layers())
    kernels = [backend.prepare(layer.request, QTensor.pack(layer.weight), layer.bias) for layer in layers]
    run = backend.experts(kernels)
    if run is None:
        raise SkipCheck("it runs no experts in one call")
    x = layers[0].x
    assert isinstance(x, Tensor)
    weights = torch.rand(len(x), len(layers), generator=generator(5)).to(x.device)
    sparse = weights * (torch.arange(len(layers)) != torch.arange(len(x))[:, None] % len(layers)).to(x.device)
    lone = sparse * (torch.arange(len(layers)) == 0).to(x.device)  # the others see no row
    for name, given in (("all", weights), ("some", sparse), ("one", lone), ("none", 0 * weights)):
        _compare_experts(f"{name} of {len(layers)} experts a row", run(x, given), x, given, kernels)
    _compare_experts("no rows", run(x[:0], weights[:0]), x[:0], weights[:0], kernels)
    spoilt = x.clone()
    spoilt[0, 0] = torch.nan
    expect(torch.equal(run(spoilt, sparse)[1:], run(x, sparse)[1:]), "NaN in one row changes another's output")


def _compare_experts(name: str, got: Tensor, x: Tensor, weights: Tensor, kernels: list[Kernel]) -> None:
    wanted = combine([kernel.call for kernel in kernels], x, weights)
    expect(got.dtype == wanted.dtype and got.shape == wanted.shape, f"{name}: {tuple(got.shape)} {got.dtype}")
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    off, limit = _worst(got, wanted), (FLOAT_BOUND + max(kernel.bound for kernel in kernels)) * scale
    expect(off <= limit, f"{name}: off by {off:.3g} from one by one, rounding allows {limit:.3g}")


def _packed_plans(backend: Backend) -> list[PlanProblem]:
    """Return plans of the packed layers that the backend runs, on its kernels."""
    found = []
    for layer in (given.to(_device(backend)) for given in packed_layers()):
        if backend.reject(layer.request) is None:
            kernel = backend.prepare(layer.request, QTensor.pack(layer.weight), layer.bias)
            for norm, limit in ((False, None), (True, None), (False, 0.5), (True, 0.5)):
                found.append(packed_plan(layer, kernel, norm=norm, limit=limit))
    return found


def _device(backend: Backend) -> str:
    return "cuda" if backend.probe().device.startswith("cuda") else "cpu"


def _run_exactly(backend: Backend, problems: Iterable[Problem]) -> None:
    _each(backend, problems, _compare_exactly)


def _each(backend: Backend, problems: Iterable[Problem], compare: Callable[[Problem, Kernel], None]) -> None:
    for problem in _accepted(backend, problems):
        kernel = backend.prepare(problem.request, QTensor.pack(problem.weight), problem.bias)
        compare(problem, kernel)


def _accepted(backend: Backend, problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that the backend does not reject; skip the check if it rejects all."""
    accepted, reason = [], ""
    device = _device(backend)
    for problem in (given.to(device) for given in problems):
        refused = backend.reject(problem.request)
        if refused is None:
            accepted.append(problem)
        else:
            expect(refused.strip(), f"{problem.name}: rejected without a reason")
            reason = refused
    if not accepted:
        raise SkipCheck(f"it rejects every such layer: {reason}")
    return accepted


def _compare_exactly(problem: Problem, kernel: Kernel) -> None:
    got, wanted = kernel.call(problem.x), exact(problem)
    expect(got.dtype == wanted.dtype and got.shape == wanted.shape, f"{problem.name}: {tuple(got.shape)} {got.dtype}")
    expect(torch.equal(got, wanted), f"{problem.name}: {kernel.name} is off by up to {_worst(got, wanted):.3g}")
    expect(kernel.bound == 0, f"{problem.name}: {kernel.name} states the bound {kernel.bound} for integer sums")


def _compare_within_bound(problem: Problem, kernel: Kernel) -> None:
    x = problem.x if problem.request.activation is None else problem.coded_input()
    conv = problem.request.conv
    wanted = linear(x, problem.weight, problem.bias) if conv is None else conv2d(x, problem.weight, problem.bias, conv)
    off, limit = _worst(kernel.call(problem.x), wanted), kernel.bound * float(wanted.abs().max())
    expect(off <= limit, f"{problem.name}: {kernel.name} is off by {off:.3g}, its bound allows {limit:.3g}")


def _compare_rows(problem: Problem, kernel: Kernel) -> None:
    if isinstance(problem.x, Encoded) or problem.x.dim() != 2:
        return
    whole = kernel.call(problem.x)
    for row in range(len(problem.x)):
        alone = kernel.call(problem.x[row : row + 1])
        expect(torch.equal(alone[0], whole[row]), f"{problem.name}: row {row} differs alone")


def exact(problem: Problem) -> Tensor:
    """Return what an integer layer must compute, from float64 sums, exact for whole numbers below 2**53."""
    x, weight = problem.coded_input(), problem.weight
    conv = problem.request.conv
    if conv is None:
        acc = x.centred().double() @ weight.centred().double().t()
        column = [1, -1]
    else:
        images, kernels = x.centred().reshape(x.shape).double(), weight.centred().reshape(weight.shape).double()
        acc = F.conv2d(images, kernels, None, *conv).round()
        column = [1, -1, 1, 1]
    y = acc.float() * (x.scale.reshape(-1, *[1] * (acc.dim() - 1)) * weight.scale.reshape(column))
    if problem.bias is not None:
        y = y + problem.bias.reshape(column)
    shape = y.shape if conv is not None else (*x.shape[:-1], weight.shape[0])
    return y.reshape(shape).to(x.dtype)


def _worst(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
