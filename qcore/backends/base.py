"""Backend: what runs packed layers on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape

if TYPE_CHECKING:
    from qcore.backends.plan.base import Compiled, Program
    from qcore.backends.training import TrainingKernels

__all__ = ["Backend", "Kernel", "KernelRequest", "Probe", "Refusal"]


@dataclass(frozen=True)
class Probe:
    """What a backend found on this machine.

    Attributes:
        available: whether it can run here at all.
        device: the type of device that it runs on or would, such as ``"cpu"``, or ``"any"``; ``"none"``: unknown.
        reason: why it is not available; None if it is.
        details: further facts for ``qcore doctor``, such as instruction sets.
    """

    available: bool
    device: str
    reason: str | None = None
    details: dict[str, str] = field(default_factory=dict)

    def runs_on(self, device: str) -> bool:
        """Return whether the backend is one for devices of this type, here or where it is available."""
        return self.device in ("any", "none", device)


@dataclass(frozen=True)
class KernelRequest:
    """One packed layer, described so that a backend can say whether it can run it.

    Attributes:
        op: ``"linear"`` or ``"conv2d"``.
        encoding: encoding of the weight's codes.
        bits: the widths that occur in the weight, ascending.
        scales: ``"tensor"``, ``"row"`` or ``"group"``: what a weight scale covers.
        group_size: columns a group, or None.
        zero_point: whether the weight has zero points.
        activation: how the input becomes integers; None if it stays float (weight-only), or if ``coded_input``.
        coded_input: the layer passes an :class:`Encoded` input, because its quantizer cannot be said as a scheme.
        weight_shape: shape of the weight.
        conv: how a convolution walks; None for ``"linear"``.
        device: where the weight lies.
        dtype: of the weight.
    """

    op: Literal["linear", "conv2d"]
    encoding: str
    bits: tuple[int, ...]
    scales: Literal["tensor", "row", "group"]
    group_size: int | None
    zero_point: bool
    activation: ActivationScheme | None
    coded_input: bool
    weight_shape: torch.Size
    conv: Conv2dShape | None
    device: torch.device
    dtype: torch.dtype

    @property
    def integer(self) -> bool:
        """Whether the layer computes in integers."""
        return self.activation is not None or self.coded_input


@dataclass(frozen=True)
class Kernel:
    """A prepared layer.

    Attributes:
        name: what runs, for ``qcore.explain``.
        call: maps the layer's input (float, or Encoded with ``coded_input``) to its output.
        nbytes: bytes of the kernel's own weight layout, made at load time and never stored.
        bound: the largest difference from eval's output, relative to the largest output; 0 where the arithmetic is
            integer and therefore equal bit for bit.
    """

    name: str
    call: Callable[[Tensor | Encoded], Tensor]
    nbytes: int
    bound: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """Why a backend was not chosen, and what would enable it.

    Attributes:
        backend: its id.
        reason: why.
        hint: what would enable it, or None.
        elsewhere: whether it is for another kind of device: then nothing falls back from it.
    """

    backend: str
    reason: str
    hint: str | None = None
    elsewhere: bool = False


class Backend(ABC):
    """Runs packed layers on a device; found at run time.

    Attributes:
        name: the backend's name, as in its spec.
        priority: the available backend of highest priority that does not reject a request gets it; the reference has 0.
        hands_over_codes: whether :meth:`compile` knows plans whose steps hand over integer codes; others get floats.
    """

    name: ClassVar[str]
    priority: ClassVar[int]
    hands_over_codes: ClassVar[bool] = False

    @abstractmethod
    def probe(self) -> Probe:
        """Say whether this backend can run here, on what, or why not. Never raises."""

    @abstractmethod
    def reject(self, request: KernelRequest) -> str | None:
        """Return why ``request`` cannot be served, or None if it can."""

    @abstractmethod
    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Repack ``weight`` once and return what computes the layer."""

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        """Return what quantizes tensors on ``device`` in training, or None: torch does."""
        return None

    def compile(self, program: Program) -> Compiled | str:
        """Return what runs a whole ``program``, or why this backend cannot; optional.

        The result maps the shape of a sample to what runs float32 (rows, *shape) on the weights' device, and raises
        UsageError for a shape that does not fit. What runs may be called from several threads at once.
        """
        return "it compiles no plans"

    def experts(self, kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return what runs linear layers of one shape as the experts of a mixture, in one call; optional.

        Args:
            kernels: one an expert, all prepared by this backend.

        Returns:
            What maps ``x`` (rows, features) and weights (rows, experts) to ``sum_e w_e f_e(x)``, where an expert sees
            the rows that have a weight for it alone; or None.
        """
        return None
