from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.backends import Backend, Kernel
from qcore.nn.plan.compile import compile_plan
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.testing.backend_problems import coded_weight, expert_layers, problem
from qcore.testing.inputs import normal
from qcore_backend_cuda.backend import CudaBackend

INPUT = 'core/int(bits=8, granularity="token")'
TOKENS = ActivationScheme(8)


def rejected(
    weight: Encoded, x: Tensor, scheme: ActivationScheme | None, conv: Conv2dShape | None = None
) -> str | None:
    return CudaBackend().reject(problem(weight, x, scheme, conv=conv).to(_device()).request)


def _device() -> str:
    return "cuda" if CudaBackend().probe().device.startswith("cuda") else "cpu"


def test_what_it_cannot_run_it_rejects_with_a_reason() -> None:
    x, images = normal((2, 64), torch.float32), normal((2, 34, 7, 7), torch.float32)
    assert "32" in str(rejected(coded_weight("int", 4, (5, 64), "group"), x, None))
    assert "groups of columns" in str(rejected(coded_weight("int", 4, (5, 64), "group"), x, TOKENS))
    many = coded_weight("int", 4, (34, 1, 3, 3), "row")
    assert "34 groups" in str(rejected(many, images, TOKENS, Conv2dShape(groups=34)))
    long = coded_weight("odd", 8, (1, 70_000), "row")
    assert "32 bits" in str(rejected(long, normal((1, 70_000), torch.float32), TOKENS))
    request = problem(coded_weight("int", 4, (5, 64), "row"), x, TOKENS).request
    assert "balanced" in str(CudaBackend().reject(replace(request, encoding="balanced")))
    elsewhere = "cuda" if _device() == "cpu" else "cpu"
    assert elsewhere in str(CudaBackend().reject(_on(request, elsewhere)))


def _on(request: qcore.backends.KernelRequest, device: str) -> qcore.backends.KernelRequest:
    return replace(request, device=torch.device(device))


def test_a_packed_model_runs_here_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "backend_cuda/cuda")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).to(_device())
    quantized = qcore.quantize(model, {"*": {"weight": "core/int(bits=4)", "input": INPUT}})
    packed = qcore.pack(quantized)
    rows = qcore.explain(packed).rows
    assert [row["backend"] for row in rows] == ["backend_cuda/cuda"] * 2
    x = torch.randn(2, 3, 8, 8, device=_device())
    assert torch.equal(packed(x), quantized.eval()(x))


def test_experts_of_several_widths_run_in_one_launch() -> None:
    backend = CudaBackend()
    layers = [layer.to(_device()) for layer in expert_layers()]
    kernels = [backend.prepare(layer.request, QTensor.pack(layer.weight), layer.bias) for layer in layers]
    run = backend.experts(kernels)
    assert run is not None
    x = layers[0].x
    assert isinstance(x, Tensor)
    shares = torch.tensor([0.25, 0.0, 0.75], device=x.device).expand(len(x), -1)
    wanted = 0.25 * kernels[0].call(x) + 0.75 * kernels[2].call(x)
    assert torch.allclose(run(x, shares), wanted, rtol=1e-6)


def test_experts_that_do_not_go_together_are_run_one_by_one() -> None:
    backend, x = CudaBackend(), normal((3, 30), torch.float32)
    kernels = []
    for scheme, encoding in ((TOKENS, "int"), (ActivationScheme(4), "int"), (TOKENS, "odd")):
        layer = problem(coded_weight(encoding, 4, (20, 30), "row"), x, scheme).to(_device())
        kernels.append(backend.prepare(layer.request, QTensor.pack(layer.weight), layer.bias))
    assert backend.experts(kernels[:2]) is None
    assert backend.experts([kernels[0], kernels[2]]) is None
    assert backend.experts([*kernels[:1], Kernel("another", kernels[0].call, 1)]) is None


def test_a_plan_is_a_graph_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "backend_cuda/cuda")
    device = _device()
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5)).to(device)
    packed = qcore.pack(qcore.quantize(model, {"*": {"weight": "core/int(bits=4)", "input": INPUT}})).eval()
    if device == "cpu":
        monkeypatch.delenv("QCORE_BACKEND")
        plan = compile_plan(packed, backend="reference")
        reason = CudaBackend().compile(plan.program)
        assert isinstance(reason, str) and "GPU" in reason
        return
    plan = compile_plan(packed)
    assert plan.backend == "backend_cuda/cuda"
    for rows in (1, 7, 1, 0):
        x = torch.randn(rows, 30, device=device)
        assert torch.equal(plan(x), packed(x))


def test_a_backend_for_gpus_is_the_core_s_kind() -> None:
    assert issubclass(CudaBackend, Backend) and CudaBackend.priority < 100
