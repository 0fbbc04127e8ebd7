"""Plans as CUDA graphs: one launch for a whole packed model, captured for each number of rows."""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from qcore.backends.plan import PackedStep, Program
from qcore.backends.plan.base import Compiled, Runner, Shape
from qcore_backend_cuda.kernel import CudaKernel

__all__ = ["compile_graph"]

_GRAPHS_HELD = 16
_WARM_UPS = 2


def compile_graph(program: Program) -> Compiled | str:
    """Return what captures ``program`` for samples of a shape, or why it cannot be captured."""
    device: torch.device | None = None
    for step in program.walk():
        if getattr(step, "bodies", ()):
            return "which experts see which rows is known only when the router has run: no graph holds that"
        if isinstance(step, PackedStep):
            if not isinstance(step.kernel, CudaKernel):
                return f"{step.layer or 'a layer'} runs on another backend ({step.kernel.name})"
            device = step.request.device
    if device is None:
        return "no layer of it is packed"
    if device.type != "cuda":
        return f"CUDA graphs are of GPUs, and the weights are on {device}"

    def specialize(shape: Shape) -> Runner:
        program.shapes(shape)
        return _Graphs(program, device)

    return specialize


class _Captured:
    """A graph, its input and its output, and the end of its last use."""

    def __init__(self, program: Program, x: Tensor) -> None:
        self.x = x.clone()
        stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # kernels are compiled, and libraries take their workspaces
                program(self.x)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.y = program(self.x)
        self.used = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, x: Tensor) -> Tensor:
        """Return the program's output, in memory of its own."""
        stream = torch.cuda.current_stream(x.device)
        stream.wait_event(self.used)
        self.x.copy_(x)
        self.graph.replay()
        y = self.y.clone()
        self.used.record(stream)
        return y


class _Graphs:
    """Runs a program by graphs, one for each number of rows; the numbers used last are kept."""

    def __init__(self, program: Program, device: torch.device) -> None:
        self._program, self._device = program, device
        self._graphs: dict[int, _Captured] = {}
        self._lock = Lock()

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.cuda.device(self._device):
            if not len(x):
                return self._program(x)
            with self._lock:
                captured = self._graphs.pop(len(x), None) or _Captured(self._program, x)
                self._graphs[len(x)] = captured
                if len(self._graphs) > _GRAPHS_HELD:
                    del self._graphs[next(iter(self._graphs))]
                return captured.run(x)
