"""What is timed on a GPU: sections, most important first; each yields rows for the table.

A section first warms up all that it times, so that several can compile at once, then waits until it is its turn.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timing import Contender, copies, eager, interleaved
from torch import Tensor
from torch.nn import functional as F

from qcore.backends import Grid
from qcore.quantizers import checks_together
from qcore.tensor import ActivationScheme
from qcore.tensor.encoded import offset_and_step
from qcore_backend_cuda.config import Config, candidates, default_config
from qcore_backend_cuda.layout import choose_lanes, row_nbytes
from qcore_backend_cuda.run import quantize, run_float, run_fused, run_integer
from qcore_backend_cuda.training import CudaTrainingKernels
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["SECTIONS", "Row", "Wait"]

Row = dict[str, Any]
Wait = Callable[[], None]
Section = Callable[[Wait], Iterator[Row]]
TOKENS = ActivationScheme(8)
HALF = torch.bfloat16
DEVICE = "cuda"


def random_packed(
    rows: int, cols: int, bits: int, encoding: str = "int", *, integer: bool, group: int = 0
) -> PackedWeight:
    """Return random bytes as a packed weight: all bytes are codes of some weight."""
    lanes = choose_lanes(cols, (bits,), group or None)
    data = torch.randint(0, 256, (rows * row_nbytes(cols, bits, lanes),), dtype=torch.uint8, device=DEVICE)
    groups = -(-cols // group) if group else 1
    step, offset = offset_and_step(encoding, bits)
    none = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    whole = torch.full((rows,), offset + step * 128 * (bits == 8), dtype=torch.int32, device=DEVICE)
    return PackedWeight(
        data=data, table=torch.zeros((1, 3), dtype=torch.int64, device=DEVICE),
        scale=torch.rand(groups, rows, device=DEVICE) * 0.01, zero=none.float().reshape(1, 1),
        offset=whole if integer else none, total=whole if integer else none, bias=none.float(), order=none,
        rows=rows, cols=cols, lanes=lanes, widths=(bits,), counts=(rows,), encoding=encoding, group_size=group,
        integer=integer, has_zero=False, has_bias=False, has_order=False,
    )  # fmt: skip


def float_calls(weights: list[PackedWeight], x: Tensor, config: Config) -> Contender:
    return [functools.partial(run_float, x, weight, config) for weight in weights]


def integer_calls(weights: list[PackedWeight], x: Tensor, config: Config) -> Contender:
    def call(weight: PackedWeight) -> Tensor:
        if config.fused:
            return run_fused(x, TOKENS, None, weight, config)
        return run_integer(quantize(x, TOKENS, None, weight.stride), weight, x.dtype, config)

    return [functools.partial(call, weight) for weight in weights]


def half_calls(rows: int, cols: int, x: Tensor) -> Contender:
    weights = [torch.randn(rows, cols, device=DEVICE, dtype=HALF) for _ in range(copies(2 * rows * cols))]
    return [functools.partial(F.linear, x, weight) for weight in weights]


def warm(contenders: dict[str, Contender]) -> dict[str, str]:
    """Call each once, and take out those that fail; return their errors."""
    failed = {}
    for name, calls in list(contenders.items()):
        try:
            calls[0]()
            torch.cuda.synchronize()
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:800]
            del contenders[name]
    return failed


def compared(contenders: dict[str, Contender], facts: dict[str, Row], wait: Wait, base: str = "bf16") -> Iterator[Row]:
    """Yield a row for each contender: times, and how many times as fast as the base, in one interleaved run."""
    failed = warm(contenders)
    wait()
    times = interleaved(contenders, failed=failed)
    for name, error in failed.items():
        yield {"name": name, **facts.get(name, {}), "error": error}
    for name, found in times.items():
        row: Row = {"name": name, **facts.get(name, {}), **found}
        if base in times:
            row["x_base"] = times[base]["us"] / found["us"]
        if "nbytes" in row:
            row["tb_per_s"] = row["nbytes"] / found["us"] / 1e6
        if "operations" in row:
            row["t_per_s"] = row["operations"] / found["us"] / 1e6
        yield row


def copy(wait: Wait) -> Iterator[Row]:
    """Copy bandwidth, read and written bytes together, and that of reading alone."""
    n = 1 << 30
    x = torch.randint(0, 256, (n,), dtype=torch.uint8, device=DEVICE)
    y, wide = torch.empty_like(x), x.view(torch.float32).nan_to_num_(0.0)
    calls: dict[str, Contender] = {"copy": [lambda: y.copy_(x)], "sum": [lambda: wide.sum()]}
    yield from compared(calls, {"copy": {"nbytes": 2 * n}, "sum": {"nbytes": n}}, wait, "copy")


def batch_one(rows: int, cols: int, bits: int, count: int, wait: Wait, *, every: bool = True) -> Iterator[Row]:
    """Weight-only layers in bfloat16 at a small batch, in each configuration."""
    x = torch.randn(count, cols, device=DEVICE, dtype=HALF)
    weights = [random_packed(rows, cols, bits, integer=False) for _ in range(copies(rows * cols * bits // 8))]
    calls: dict[str, Contender] = {"bf16": half_calls(rows, cols, x)}
    facts: dict[str, Row] = {"bf16": {"nbytes": 2 * rows * cols}}
    default = default_config(count, rows, cols, integer=False, wide=False, widths=(bits,))
    plain = Config(default.kind, default.rows, default.across, default.warps, default.stages, default.split, False)
    tried = [default, plain, *candidates(count, integer=False, wide=False)] if every else [default]
    for config in dict.fromkeys(tried):
        calls[str(config)] = float_calls(weights, x, config)
        facts[str(config)] = {"bits": bits, "nbytes": weights[0].data.numel(), "default": config == default}
    yield from compared(calls, facts, wait)


def integers(rows: int, cols: int, bits: int, count: int, wait: Wait, *, every: bool = True) -> Iterator[Row]:
    """Integer layers with dynamic int8 tokens at a small batch, quantization included, and its parts alone."""
    x = torch.randn(count, cols, device=DEVICE, dtype=HALF)
    encoding = "ternary" if bits == 2 else "int"
    weights = [random_packed(rows, cols, bits, encoding, integer=True) for _ in range(copies(rows * cols * bits // 8))]
    calls: dict[str, Contender] = {"bf16": half_calls(rows, cols, x)}
    facts: dict[str, Row] = {"bf16": {"nbytes": 2 * rows * cols}}
    default = default_config(count, rows, cols, integer=True, wide=False)
    tried = [default, *candidates(count, integer=True, wide=False)] if every else [default]
    for config in dict.fromkeys(tried):
        calls[str(config)] = integer_calls(weights, x, config)
        facts[str(config)] = {"bits": bits, "nbytes": weights[0].data.numel(), "default": config == default}
    codes = quantize(x, TOKENS, None, weights[0].stride)
    calls["quantization alone"] = [functools.partial(quantize, x, TOKENS, None, weights[0].stride)] * 8
    calls["product alone"] = [functools.partial(run_integer, codes, weight, HALF, default) for weight in weights]
    yield from compared(calls, facts, wait)


def int8_product(count: int, wait: Wait) -> Iterator[Row]:
    """Large batches of 8192 x 8192: int8 and packed weights, quantization included, against bfloat16."""
    rows = cols = 8192
    x = torch.randn(count, cols, device=DEVICE, dtype=HALF)
    wide = random_packed(rows, cols, 8, integer=True)
    facts: dict[str, Row] = {}
    calls: dict[str, Contender] = {"bf16": half_calls(rows, cols, x)}
    for shape in (
        (128, 128, 4, 4),
        (128, 128, 8, 4),
        (128, 256, 8, 3),
        (256, 128, 8, 3),
        (128, 256, 8, 4),
        (64, 256, 4, 4),
    ):
        calls[f"int8 {shape}"] = integer_calls([wide] * 2, x, Config("dot", *shape))
    narrow = random_packed(rows, cols, 4, integer=True)
    for config in (Config("dense", 128, 128, 8, 4), Config("dot", 128, 128, 8, 3), Config("dot", 128, 64, 4, 3)):
        calls[f"4 bits, {config}"] = integer_calls([narrow] * 2, x, config)
    codes = quantize(x, TOKENS, None, cols)
    calls["quantization alone"] = [functools.partial(quantize, x, TOKENS, None, cols)] * 2
    dense = torch.randint(-128, 128, (rows, cols), dtype=torch.int8, device=DEVICE)
    calls["torch._int_mm alone"] = [lambda: torch._int_mm(codes.codes, dense.t())] * 2
    for name in calls:
        if name != "quantization alone":
            facts[name] = {"operations": 2 * count * rows * cols}
    yield from compared(calls, facts, wait)


def weight_only_large(count: int, wait: Wait) -> Iterator[Row]:
    """Weight-only layers of 4 bits at larger batches: on the fly, and decoded whole."""
    rows = cols = 8192
    x = torch.randn(count, cols, device=DEVICE, dtype=HALF)
    weights = [random_packed(rows, cols, 4, integer=False) for _ in range(8)]
    calls: dict[str, Contender] = {"bf16": half_calls(rows, cols, x)}
    across = 64 if count < 128 else 128
    tried = (
        Config("dot", 64, across, 4, 3), Config("dot", 128, across, 8, 3), Config("dot", 64, across, 4, 3, 2),
        Config("dense", 128, 128, 8, 4),
    )  # fmt: skip
    for config in tried:
        calls[str(config)] = float_calls(weights, x, config)
    yield from compared(calls, {name: {"operations": 2 * count * rows * cols} for name in calls}, wait)


def fake_quantize(wait: Wait) -> Iterator[Row]:
    """Fused fake quantization of 8192 x 8192 floats, without the question whether they are finite."""
    from qcore_backend_cuda import training

    kernels, n = CudaTrainingKernels(), 8192
    x, g = torch.randn(n, n, device=DEVICE), torch.randn(n, n, device=DEVICE)
    y, high = torch.empty_like(x), x.abs().amax(dim=1, keepdim=True)
    grid = Grid(high / 7, -7, 7, 7 / high)
    whole = x.reshape(1, -1)
    # Asking waits for the GPU, which a graph cannot hold.
    training._unless_raised = lambda y, flag: y
    calls: dict[str, Contender] = {
        "copy": [lambda: y.copy_(x)],
        "range a row, symmetric": [lambda: kernels.round_over_range(x, 4, symmetric=True)],
        "range a row, affine": [lambda: kernels.round_over_range(x, 4, symmetric=False)],
        "range of a tensor": [lambda: kernels.round_over_range(whole, 4, symmetric=True)],
        "grid a row": [lambda: kernels.round_to_grid(x, grid)],
        "grid of a tensor, division": [lambda: kernels.round_to_grid(whole, Grid(high[:1] / 7, -7, 7))],
        "sign": [lambda: kernels.round_to_sign(x, high)],
        "sums": [lambda: kernels.slice_sums(x, magnitude=True)],
        "mask": [lambda: kernels.mask_gradient(g, x, -high, high)],
        "learned scale, backward": [lambda: kernels.learned_scale_gradients(g, x, high / 7, -7, 7)],
    }
    moved = {"sums": 4, "mask": 12, "learned scale, backward": 12}
    facts: dict[str, Row] = {name: {"nbytes": moved.get(name, 8) * n * n} for name in calls}
    yield from compared(calls, facts, wait, "copy")


def qat_step(wait: Wait) -> Iterator[Row]:
    """A training step of a VGG, as the training loop takes it, against the float step; how often each waits."""
    import os

    import qcore
    from qcore.plugins import default

    for name in ("backend_cuda", "true4bit"):
        if name not in {status.name for status in default().plugins if status.status == "loaded"}:
            default().add(f"qcore_{name}", name)
    rules: dict[str, Any] = {
        "float": None,
        "true4bit/tanh": {"weight": "true4bit/tanh", "input": None},
        "core/int 4 bits": {"weight": "core/int(bits=4)", "input": 'core/int(bits=8, granularity="token")'},
        "core/int 4 bits, torch": {"weight": "core/int(bits=4)", "input": 'core/int(bits=8, granularity="token")'},
    }
    x, target = torch.randn(128, 3, 32, 32, device=DEVICE), torch.randint(10, (128,), device=DEVICE)

    def step(rule: Any, backend: str | None) -> Callable[[], None]:
        torch.manual_seed(0)
        model = vgg()
        if rule is not None:
            rule = {role: chosen for role, chosen in rule.items() if chosen}
            model = qcore.quantize(model, {"type:Conv2d": rule, "type:Linear": rule})
        model = model.to(DEVICE).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def run() -> None:
            if backend:
                os.environ["QCORE_BACKEND"] = backend
            with checks_together() as check:
                loss = F.cross_entropy(model(x), target)
                check()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            os.environ.pop("QCORE_BACKEND", None)

        return run

    calls = {name: step(rule, "reference" if "torch" in name else None) for name, rule in rules.items()}
    waits = {name: _count_waits(call) for name, call in calls.items()}
    wait()
    times = eager(calls)
    for name, found in times.items():
        yield {"name": name, **found, "x_base": times["float"]["us"] / found["us"], "waits": waits[name]}


def vgg() -> torch.nn.Module:
    """Return nine convolutions of 3 x 3 with batch norm and ReLU, four max pools, two linear layers."""
    layers: list[torch.nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 256, 256, 0):
        if width:
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
            channels = width
        else:
            layers.append(torch.nn.MaxPool2d(2))
    head = [torch.nn.Flatten(), torch.nn.Linear(1024, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)]
    return torch.nn.Sequential(*layers, *head)


def _count_waits(call: Callable[[], None]) -> int:
    """Return how often ``call`` waits for the GPU, once it is warm."""
    call()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def packing(wait: Wait) -> Iterator[Row]:
    """Peak memory of packing 8192 x 8192 codes of 4 bits, beyond what was there before."""
    from qcore.tensor import QTensor
    from qcore.tensor.qtensor import Block

    wait()
    n = 8192
    data = torch.randint(0, 256, (n, n // 2), dtype=torch.uint8, device=DEVICE)
    block = Block(4, "packn@1", data)
    stored = QTensor((block,), torch.rand(n, 1, device=DEVICE), torch.Size((n, n)), torch.float32, "int", n)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    packed = PackedWeight.pack(stored, None, integer=True)
    peak = torch.cuda.max_memory_allocated() - before
    yield {"name": "8192 x 8192, 4 bits", "peak_nbytes": peak, "nbytes": packed.nbytes, "float_nbytes": 4 * n * n}


SECTIONS: dict[str, Section] = {
    "copy": copy,
    "batch 1, 8192x8192, 2 bits": functools.partial(batch_one, 8192, 8192, 2, 1),
    "batch 1, 8192x8192, 4 bits": functools.partial(batch_one, 8192, 8192, 4, 1),
    "W2A8, 13824x2560, batch 1": functools.partial(integers, 13824, 2560, 2, 1),
    "batch 16, 8192x8192, 4 bits": functools.partial(batch_one, 8192, 8192, 4, 16),
    "int8, 8192x8192, batch 1024": functools.partial(int8_product, 1024),
    "fake quantization": fake_quantize,
    "QAT step": qat_step,
    "batch 1, 14336x4096, 2 bits": functools.partial(batch_one, 14336, 4096, 2, 1),
    "batch 1, 14336x4096, 4 bits": functools.partial(batch_one, 14336, 4096, 4, 1),
    "int8, 8192x8192, batch 256": functools.partial(int8_product, 256),
    "int8, 8192x8192, batch 4096": functools.partial(int8_product, 4096),
    "W4A8, 8192x8192, batch 16": functools.partial(integers, 8192, 8192, 4, 16),
    "batch 16, 8192x8192, 2 bits": functools.partial(batch_one, 8192, 8192, 2, 16),
    "weight-only, batch 64": functools.partial(weight_only_large, 64),
    "weight-only, batch 256": functools.partial(weight_only_large, 256),
    "packing": packing,
    "batch 1, 8192x8192, 3 bits": functools.partial(batch_one, 8192, 8192, 3, 1),
    "batch 1, 8192x8192, 8 bits": functools.partial(batch_one, 8192, 8192, 8, 1),
    "batch 1, 4096x14336, 4 bits": functools.partial(batch_one, 4096, 14336, 4, 1, every=False),
}
