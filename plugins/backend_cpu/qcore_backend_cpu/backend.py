"""``backend_cpu/cpu``: packed layers by compiled kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qcore.backends import Backend, Kernel, KernelRequest, Probe, TrainingKernels
from qcore.backends.plan.base import sum_bound
from qcore.errors import UsageError
from qcore.tensor import QTensor
from qcore_backend_cpu.conv2d import conv2d_blocks, conv2d_call
from qcore_backend_cpu.decoded import decoded_conv2d, is_decoded
from qcore_backend_cpu.experts import experts_call
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.layout import LONGEST_SEGMENT
from qcore_backend_cpu.linear import Call, coded_linear_call, linear_call, real_linear_call
from qcore_backend_cpu.native import ISA_VARIABLE, UNTRIED, chosen_isa, instruction_sets, load
from qcore_backend_cpu.plan import Assembly, refusal
from qcore_backend_cpu.prepare import columns_refusal, prepare_block
from qcore_backend_cpu.training import CpuTrainingKernels

if TYPE_CHECKING:
    from qcore.backends.plan import Program
    from qcore.backends.plan.base import Compiled

__all__ = ["CpuBackend"]

_ENCODINGS = ("int", "uint", "ternary", "odd", "symmetric")
"""A later core may have more: their codes would be read wrong."""
_LONGEST_GROUP = 32768


class CpuBackend(Backend):
    """Runs packed layers on the CPU, equal to the reference bit for bit where the arithmetic is integer."""

    name: ClassVar[str] = "cpu"
    priority: ClassVar[int] = 100
    hands_over_codes: ClassVar[bool] = True

    def probe(self) -> Probe:
        """Say which instruction sets run here, and which is used."""
        _, problem = load()
        if problem is not None:
            hint = "pip install --force-reinstall --no-binary qcore-backend-cpu qcore-backend-cpu"
            return Probe(False, "cpu", problem, {"hint": hint})
        try:
            isa = chosen_isa()
        except UsageError as error:
            return Probe(False, "cpu", error.message, {"hint": error.hint or ""})
        found = instruction_sets()
        details = {"isa": isa, "of": ", ".join(found), "threads": str(torch.get_num_threads())}
        if untried := [name for name in found if name in UNTRIED]:
            note = f"written, compiled, not yet run on such a machine; {ISA_VARIABLE} chooses one"
            details["untried"] = f"{', '.join(untried)} ({note})"
        return Probe(True, "cpu", None, details)

    def reject(self, request: KernelRequest) -> str | None:
        """Return why ``request`` cannot be served, or None."""
        if request.device.type != "cpu":
            return f"the weight is on {request.device}, and it runs on the CPU"
        if request.encoding not in _ENCODINGS:
            return f"codes of encoding {request.encoding!r}, which this version does not know"
        if request.scales == "group" and (request.group_size or 0) > _LONGEST_GROUP:
            return f"groups of more than {_LONGEST_GROUP} columns"
        refusal_of_columns = columns_refusal(request)
        if refusal_of_columns is not None:
            return refusal_of_columns
        if not request.integer and request.dtype is not torch.float32:
            return f"weight-only layers in {request.dtype}: its float sums are float32"
        if is_decoded(request):
            return None
        if request.op == "conv2d" and request.scales == "group":
            return "no convolution with scales for groups of columns"
        if request.conv is not None and request.weight_shape[0] % request.conv.groups:
            return f"{request.weight_shape[0]} output channels in {request.conv.groups} groups"
        if request.op == "conv2d" and math.prod(request.weight_shape[1:]) > LONGEST_SEGMENT:
            return f"a convolution of more than {LONGEST_SEGMENT} terms an output"
        if not math.prod(request.weight_shape):
            return "a weight without elements"
        return None

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Repack the weight into panels for this processor's vectors."""
        sums = "integer sums" if request.integer else "float sums"
        name = f"{request.op} {chosen_isa()}, {sums}"
        if is_decoded(request):
            return decoded_conv2d(request, weight, bias)
        if request.op == "conv2d":
            blocks = conv2d_blocks(request, weight, bias)
            return _kernel(name, conv2d_call(request, weight, blocks, bias), 0.0, request, blocks)
        block = prepare_block(request, weight, bias)
        if not request.integer:
            call = real_linear_call(request, weight, block, bias)
            return _kernel(name, call, sum_bound(weight.cols), request, [block])
        make = coded_linear_call if request.coded_input else linear_call
        return _kernel(name, make(request, block), 0.0, request, [block])

    def compile(self, program: Program) -> Compiled | str:
        """Return one compiled object that runs all steps in one call, or why there is none."""
        return refusal(program) or Assembly(program)

    def experts(self, kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return what runs integer linear layers of one shape on grouped rows."""
        return experts_call(kernels)

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        """Return the fused fake quantization, on the CPU."""
        return CpuTrainingKernels() if device.type == "cpu" else None


def _kernel(name: str, call: Call, bound: float, request: KernelRequest, blocks: list[Tensor]) -> CpuKernel:
    nbytes = sum(block.numel() for block in blocks)
    return CpuKernel(name, call, nbytes, bound, request=request, blocks=tuple(blocks))
