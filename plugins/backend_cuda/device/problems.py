"""What the check on a GPU runs: named calls that raise where a kernel is wrong.

The shared checks of backends come problem by problem, so that many processes can share them out; then every kernel of
every width on large and odd shapes, with the sums of a float64 product as the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from qcore.backends.plan.base import sum_bound
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.encoded import offset_and_step, stored_range
from qcore.testing import backend_checks, backend_problems, training_checks
from qcore.testing.backend_problems import Problem, problem
from qcore_backend_cuda.backend import CudaBackend
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.linear import float_rows, integer_rows
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["Mismatch", "tasks"]

Task = tuple[str, Callable[[], Any]]
OFFER = SimpleNamespace(make=CudaBackend)
ENCODINGS = (
    ("ternary", 2),
    ("odd", 1),
    ("odd", 8),
    *(("int", b) for b in range(2, 9)),
    *(("uint", b) for b in range(1, 9)),
    *(("symmetric", b) for b in (1, 2, 3)),
)
SCHEMES = {
    "tokens": ActivationScheme(8),
    "affine tokens": ActivationScheme(8, symmetric=False),
    "4 bits": ActivationScheme(4, floor=1e-5),
    "static": ActivationScheme(8, True, False, low=torch.tensor([[-1.5]]), high=torch.tensor([[1.5]])),
    "static affine": ActivationScheme(8, False, False, low=torch.tensor([[-1.5]]), high=torch.tensor([[2.0]])),
}
CONFIGS = (
    (1, Config("gemv", 8, 256, 4, 1)),
    (2, Config("gemv", 8, 0, 2, 3, shared=True)),
    (1, Config("gemv", 8, 0, 2, 3, shared=True, fraction=True)),
    (3, Config("gemv", 4, 0, 2, 1, shared=True, fused=True)),
    (5, Config("dot", 64, 16, 4, 3)),
    (5, Config("dot", 64, 16, 4, 3, split=3)),
    (40, Config("dot", 128, 64, 8, 3)),
    (70, Config("dense", 128, 128, 8, 4)),
)
LARGE_CONFIGS = (
    (1, Config("gemv", 8, 512, 4, 3)),
    (1, Config("gemv", 8, 0, 4, 4, shared=True, fraction=True, fused=True)),
    (16, Config("dot", 64, 16, 4, 4)),
    (16, Config("dot", 128, 16, 4, 3, split=4)),
    (300, Config("dot", 128, 64, 4, 3)),
    (300, Config("dot", 128, 128, 8, 3)),
    (300, Config("dot", 128, 256, 8, 3)),
    (300, Config("dense", 128, 128, 8, 4)),
)
BOUNDS = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


class Mismatch(AssertionError):
    """Numbers differ where they must not."""


def tasks(device: str, worker: int, workers: int) -> list[Task]:
    """Return one process's share of everything to run.

    Neighbours, which share compiled kernels, go to one process; and each runs some of every group before it runs the
    rest, so that what there is no time for is a part of each group.
    """
    groups = (_widths(device), _large(device), _shared(device), _training(), _whole(device))
    share = []
    for group in groups:
        every = list(group)
        mine = [(i, task) for i, task in enumerate(every) if i * workers // len(every) == worker]
        share += [(place / len(mine), task) for place, (_, task) in enumerate(mine)]
    return [task for _, task in sorted(share, key=lambda pair: pair[0])]


def _shared(device: str) -> Iterator[Task]:
    backend = CudaBackend()
    groups: tuple[tuple[str, Callable[[], Iterator[Problem]], bool], ...] = (
        ("linear", backend_problems.linears, True),
        ("widths", backend_problems.mixed_widths, True),
        ("extreme", backend_problems.extremes, True),
        ("convolution", backend_problems.convolutions, True),
        ("float", backend_problems.float_layers, False),
    )
    for group, problems, exact in groups:
        for given in problems():

            def run(given: Problem = given, exact: bool = exact) -> str | None:
                moved = given.to(device)
                refused = backend.reject(moved.request)
                if refused:
                    return f"rejected: {refused}"
                kernel = backend.prepare(moved.request, QTensor.pack(moved.weight), moved.bias)
                if not exact:
                    backend_checks._compare_within_bound(moved, kernel)
                    return None
                compare(kernel.call(moved.x).cpu(), backend_checks.exact(given), moved.name)
                backend_checks._compare_rows(moved, kernel)
                return None

            yield f"{group}: {given.name}", run


def _training() -> Iterator[Task]:
    checks = [getattr(training_checks, name) for name in dir(training_checks) if name.startswith("check_")]
    from qcore.testing.training_problems import slices

    for check in checks:
        if "refuses" in check.__name__ or "leaves" in check.__name__:
            yield check.__name__, lambda check=check: check(OFFER)
            continue
        for name, x in slices():

            def run(check: Any = check, name: str = name, x: Tensor = x) -> None:
                kept = training_checks.slices
                training_checks.slices = lambda: iter([(name, x)])
                try:
                    check(OFFER)
                finally:
                    training_checks.slices = kept

            yield f"{check.__name__}: {name}", run


def _whole(device: str) -> Iterator[Task]:
    names = (
        "check_kernel_leaves_its_inputs_alone",
        "check_experts_equal_one_by_one",
        "check_plans_compute_their_steps",
    )
    yield "a packed model, and its plan as a graph", lambda: _model(device)
    yield "ops", lambda: _ops(device)
    for name in names:
        yield name, lambda name=name: getattr(backend_checks, name)(OFFER)


def _model(device: str) -> None:
    """Pack a model of convolutions and linear layers, compare with eval mode, and its graph with both."""
    import qcore
    from qcore.plugins import default

    if "backend_cuda" not in {status.name for status in default().plugins}:
        default().add("qcore_backend_cuda", "backend_cuda")
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(128, 70), torch.nn.ReLU(), torch.nn.Linear(70, 5),
    )  # fmt: skip
    rule = {"weight": "core/int(bits=4)", "input": 'core/int(bits=8, granularity="token")'}
    quantized = qcore.quantize(layers.to(device), {"type:Conv2d": rule, "type:Linear": rule}).eval()
    packed = qcore.pack(quantized).eval()
    backends = {row["backend"] for row in qcore.explain(packed).rows}
    if device == "cuda" and backends != {"backend_cuda/cuda"}:
        raise Mismatch(f"it runs on {backends}")
    for rows in (4, 1, 4):
        x = torch.randn(rows, 3, 8, 8, device=device)
        with torch.no_grad():
            compare(packed(x), quantized(x), "the packed model")
    if device != "cuda":
        return
    plan = qcore.compile_plan(packed)
    if plan.backend != "backend_cuda/cuda":
        raise Mismatch(f"the plan runs on {plan.backend}: {plan.refused}")
    for rows in (1, 7, 1, 0, 7):
        x = torch.randn(rows, 3, 8, 8, device=device)
        with torch.no_grad():
            got, wanted = plan(x), packed(x)
        off = float((got - wanted).abs().max()) if rows else 0.0
        if got.shape != wanted.shape or off > 1e-5 * float(wanted.abs().max() if rows else 1.0):
            raise Mismatch(f"the plan of {rows} rows is off by {off}")


def _ops(device: str) -> None:
    """Let torch look for faults in the ops."""
    from qcore.testing.backend_problems import TOKENS, WALKS, coded_weight
    from qcore_backend_cuda.conv2d import op_arguments as conv2d_arguments
    from qcore_backend_cuda.linear import op_arguments as linear_arguments
    from qcore_backend_cuda.ops import conv2d_op, linear_op

    for scheme in (None, TOKENS):
        given = problem(coded_weight("int", 4, (5, 70), "row"), torch.randn(2, 3, 70), scheme).to(device)
        kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
        torch.library.opcheck(linear_op, (given.x, *linear_arguments(kernel.request, kernel.weight)))
    for shape, walk in WALKS[1], WALKS[3]:
        given = problem(coded_weight("int", 4, shape, "row"), torch.randn(2, 3, 7, 9), TOKENS, conv=walk).to(device)
        kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
        torch.library.opcheck(conv2d_op, (given.x, *conv2d_arguments(kernel.request, kernel.weights)))


def _widths(device: str) -> Iterator[Task]:
    """Yield every encoding and width, by every kernel, on an odd shape and in every dtype."""
    shape = (203, 1531)
    for encoding, bits in ENCODINGS:
        for count, config in CONFIGS:
            both = (encoding, bits) in (("int", 4), ("uint", 3), ("int", 8))
            for asm in (True, False) if both else (True,):
                chosen = replace(config, asm=asm)
                label = f"203x1531, {encoding} of {bits} bits, {count} inputs, {chosen}"
                yield f"integer {label}", _integer(device, encoding, bits, shape, count, "tokens", chosen)
                for dtype in (torch.bfloat16, torch.float16, torch.float32):
                    if dtype is torch.float32 and (config.kind == "dot" or config.shared):
                        continue  # not chosen; and shared ones differ in the input's width alone
                    if dtype is torch.float16 and not both and encoding != "odd":
                        continue  # it decodes as bfloat16 does
                    if config.fused:
                        continue  # of codes alone
                    if config.fraction and (encoding == "uint" or bits > 4):
                        continue  # served in another way
                    told = str(dtype).removeprefix("torch.")
                    yield f"{told} {label}", _float(device, encoding, bits, shape, count, dtype, chosen, 0)
    for name in SCHEMES:
        for chosen in (Config("dot", 64, 16, 4, 3), Config("gemv", 4, 0, 2, 3, shared=True, fused=True)):
            yield f"integer, input {name}, {chosen}", _integer(device, "uint", 4, (203, 1531), 9, name, chosen)
    for bits in (2, 3, 4, 8):
        for group in (32, 64, 128):
            for count, kind in ((1, "gemv"), (9, "dot"), (70, "dense")):
                chosen = Config(kind, 64 if kind == "dot" else 8, 16, 4, 3)
                run = _float(device, "uint", bits, (203, 1536), count, torch.bfloat16, chosen, group)
                yield f"uint of {bits} bits, groups of {group}, {count} inputs, {kind}", run


def _large(device: str) -> Iterator[Task]:
    """Yield the shapes that are timed, with all codes and all inputs at their ends as well."""
    for shape in ((8192, 8192), (14336, 4096), (4096, 14336), (13824, 2560)):
        for encoding, bits in (("ternary", 2), ("int", 4), ("int", 8), ("int", 3)):
            for count, chosen in LARGE_CONFIGS:
                label = f"{shape[0]}x{shape[1]} {encoding} of {bits} bits, {count} inputs, {chosen}"
                if bits != 3:
                    yield f"integer {label}", _integer(device, encoding, bits, shape, count, "tokens", chosen)
                    ends = _integer(device, encoding, bits, shape, count, "tokens", chosen, ends=True)
                    yield f"integer, all at their ends, {label}", ends
                if bits != 8 and chosen.across < 256:  # so many floats do not fit
                    yield f"bfloat16 {label}", _float(device, encoding, bits, shape, count, torch.bfloat16, chosen, 0)


def _integer(
    device: str, encoding: str, bits: int, shape: tuple[int, int], count: int, scheme_name: str, config: Config,
    *, ends: bool = False,
) -> Callable[[], None]:  # fmt: skip
    def run() -> None:
        weight = random_weight(device, encoding, bits, shape, 0, top=ends)
        x = torch.full((count, shape[1]), 2.0, device=device) if ends else torch.randn(count, shape[1], device=device)
        given = problem(weight, x, SCHEMES[scheme_name]).to(device)
        packed = PackedWeight.pack(QTensor.pack(weight), given.bias, integer=True)
        from qcore_backend_cuda.run import static_numbers

        scheme = given.request.activation
        assert scheme is not None
        fixed = static_numbers(scheme, torch.device(device)) if scheme.is_static else None
        coded = scheme.encode(x)
        acc = coded.centred().double() @ weight.centred().double().t()
        assert given.bias is not None
        wanted = acc.float() * (coded.scale * weight.scale.reshape(1, -1)) + given.bias
        compare(integer_rows(x, packed, scheme, fixed, config), wanted, str(config))

    return run


def _float(
    device: str, encoding: str, bits: int, shape: tuple[int, int], count: int, dtype: torch.dtype, config: Config,
    group: int,
) -> Callable[[], None]:  # fmt: skip
    def run() -> None:
        weight = random_weight(device, encoding, bits, shape, group)
        x = torch.randn(count, shape[1], device=device).to(dtype)
        bias = torch.randn(shape[0], device=device)
        packed = PackedWeight.pack(QTensor.pack(weight), bias, integer=False)
        values = weight.centred().double() * _spread(weight).double()
        wanted = x.double() @ values.t() + bias.double()
        got = float_rows(x, packed, config).double()
        bound = (BOUNDS[dtype] + sum_bound(shape[1])) * float(wanted.abs().max())
        off = (got - wanted).abs()
        if not bool((off <= bound).all()):
            raise Mismatch(f"{config}: " + profile(got, wanted, off > bound))

    return run


def random_weight(
    device: str, encoding: str, bits: int, shape: tuple[int, int], group: int, *, top: bool = False
) -> Encoded:
    """Return random codes over their whole range, or all at the upper end, with random scales a row or a group."""
    rows, cols = shape
    least, most = stored_range(encoding, bits)
    stored = torch.full(shape, most, device=device)
    if not top:
        stored = torch.randint(least, most + 1, shape, device=device)
    step, offset = offset_and_step(encoding, bits)
    groups = -(-cols // group) if group else 1
    scale = 0.5 + torch.rand(rows, groups, device=device)
    zero = torch.randint(0, 1 << bits, (rows, groups), device=device).float() if encoding == "uint" else None
    codes = stored.float() * step + offset
    return Encoded(codes, scale, torch.Size(shape), torch.float32, encoding, bits, zero, group or None)


def _spread(weight: Encoded) -> Tensor:
    if weight.group_size is None:
        return weight.scale
    return weight.scale.repeat_interleave(weight.group_size, dim=1)[:, : weight.codes.shape[1]]


def compare(got: Tensor, wanted: Tensor, name: str) -> None:
    """Raise Mismatch, with a profile of the differences, unless all numbers are equal."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise Mismatch(f"{name}: {tuple(got.shape)} {got.dtype}, not {tuple(wanted.shape)} {wanted.dtype}")
    if not torch.equal(got, wanted):
        raise Mismatch(f"{name}: " + profile(got, wanted, got != wanted))


def profile(got: Tensor, wanted: Tensor, wrong: Tensor) -> str:
    """Return how many numbers are wrong, by how much, where, and the first of them."""
    places = wrong.nonzero()[:4].tolist()
    pairs = [(place, float(got[tuple(place)]), float(wanted[tuple(place)])) for place in places]
    off = (got.double() - wanted.double()).abs()
    largest = float(off.nan_to_num(nan=torch.inf).max()) if off.numel() else 0.0
    told = f"{int(wrong.sum())} of {wrong.numel()} wrong, {int(got.isnan().sum())} NaN, off by up to {largest:.4g}"
    if wrong.dim() == 2:
        rows, cols = wrong.any(dim=1).nonzero().flatten(), wrong.any(dim=0).nonzero().flatten()
        told += f"; {len(rows)} inputs {rows[:6].tolist()}, {len(cols)} outputs {cols[:12].tolist()}"
    return f"{told}; first {pairs}"
