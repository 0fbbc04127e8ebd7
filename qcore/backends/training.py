"""TrainingKernels: what a backend offers to quantizers in training, fused into one pass over memory each way."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qcore.backends.base import Backend, Probe
from qcore.backends.choice import Candidate, find_backends
from qcore.backends.memory import is_plain
from qcore.errors import BackendError

if TYPE_CHECKING:
    from qcore.registry import Registry

__all__ = ["ChosenKernels", "Grid", "TrainingKernels", "choose_training_kernels"]


@dataclass(frozen=True)
class Grid:
    """Where the slices of a tensor are rounded to, in float32 and in this order of operations.

    ``code = clamp(round(x * inverse) + zero_point, low, high)``, ``y = (code - zero_point) * scale``; without an
    inverse ``x / scale`` takes the place of the product, and without a zero point nothing is added and subtracted.
    With a zero point a result beyond the largest float32 becomes that.

    Attributes:
        scale: float32, one element a slice, or one for all.
        low, high: the smallest and the largest code.
        inverse: like ``scale``, or None.
        zero_point: whole numbers like ``scale``, or None.
    """

    scale: Tensor
    low: float
    high: float
    inverse: Tensor | None = None
    zero_point: Tensor | None = None


class TrainingKernels(ABC):
    """Fused fake quantization; results equal those of the formulas, computed by torch one by one, bit for bit.

    ``x`` and ``gradient`` are float32 (slices, n) of at least one element on one device, with any strides; nothing has
    a gradient. What is given for each slice holds one element a slice in their order, or one for all. No method changes
    what it is given. A method returns None where it does not serve the tensor, or where ``x`` holds NaN or infinity:
    the quantizer then takes its own way through torch, which raises the error.
    """

    @abstractmethod
    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        """Return ``x`` with each slice rounded over its own range, by the formulas of :mod:`qcore.tensor.integer`.

        Args:
            x: float32 (slices, n).
            bits: 2 to 8.
            symmetric: codes around zero, else a range with a zero point.
            floor: lower limit of a symmetric clipping bound.
        """

    @abstractmethod
    def round_to_grid(self, x: Tensor, grid: Grid) -> Tensor | None:
        """Return ``x`` with each slice rounded to what ``grid`` says of it."""

    @abstractmethod
    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        """Return ``magnitude`` where ``x > threshold``, else ``-magnitude``; without a threshold where ``x >= 0``."""

    def round_to_odd(self, x: Tensor, half_step: Tensor, top: Tensor) -> Tensor | None:
        """Return ``x`` with each slice rounded to odd codes times its half step (:mod:`qcore.tensor.integer`).

        Args:
            x: float32 (slices, n).
            half_step: one a slice, or one for all.
            top: ``2**(bits-1)`` of each slice, or of all.
        """
        return None

    def odd_products(self, gradient: Tensor, x: Tensor, half_steps: Tensor, tops: Tensor) -> Tensor | None:
        """Return, for each slice and each of several widths, the sum of ``gradient`` times ``x`` rounded to that width.

        The terms ``gradient * code`` are float32, the order of their sum is free.

        Args:
            gradient: float32 (slices, n).
            x: float32 (slices, n); here it is not looked at for NaN.
            half_steps: float32 (slices, widths).
            tops: float32 (widths,), ``2**(bits-1)``.

        Returns:
            float32 (slices, widths).
        """
        return None

    @abstractmethod
    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Tensor | None:
        """Return the sum of each slice, or of its magnitudes, float64 (slices, 1), as :mod:`qcore.tensor.sums` does."""

    @abstractmethod
    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        """Return ``gradient * 1[low <= x <= high]``."""

    @abstractmethod
    def learned_scale_gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor] | None:
        """Return ``dL/dx``, like ``x``, and ``dL/dscale``, float32 like ``scale``: see ``learned_scale``.

        The terms of ``dL/dscale`` are exact to the bit, their order in the sum is free: it is taken in float64.
        """


def choose_training_kernels(device: torch.device, registry: Registry | None = None) -> TrainingKernels | None:
    """Return the kernels of the best available backend that has some for ``device``; None: quantize by torch.

    ``QCORE_BACKEND`` names the only backend that is asked; ``reference`` means torch. Without it a warning tells of
    each backend that is installed for ``device`` and not available.

    Raises:
        UnknownNameError: no loaded plugin offers the backend that ``QCORE_BACKEND`` names.
        BackendError: that backend is not available.
    """
    candidates, forced = find_backends(registry=registry)
    for candidate in candidates:
        probe = candidate.backend.probe()
        if not probe.available:
            _report_absent(candidate, probe, device, forced=forced)
            continue
        kernels = candidate.backend.training_kernels(device)
        if kernels is not None:
            return kernels
    return None


def _report_absent(candidate: Candidate, probe: Probe, device: torch.device, *, forced: bool) -> None:
    reason = probe.reason or "not available"
    if forced:
        raise BackendError(f"{candidate.id} does not quantize in training: {reason}", probe.details.get("hint"))
    offers = type(candidate.backend).training_kernels is not Backend.training_kernels
    where = probe.device.partition(":")[0]
    if where == "none" or (offers and where == device.type):  # "none": it does not even load
        # Not the caller's line: every quantizer asks, and Python shows a warning once a line.
        warnings.warn(f"{candidate.id} does not quantize in training: {reason}", stacklevel=1)


class ChosenKernels:
    """A quantizer's training kernels: chosen at its first call on a device; a copy or a pickle chooses anew."""

    def __init__(self) -> None:
        self._found: dict[torch.device, TrainingKernels | None] = {}

    def serve(self, x: Tensor) -> TrainingKernels | None:
        """Return what quantizes ``x``; None: torch does.

        That is so for other dtypes than float32, for tensors that are not :func:`~qcore.backends.memory.is_plain`, and
        while torch compiles, exports, traces or transforms a function, where its own operations belong into the graph.

        Raises:
            BackendError: ``QCORE_BACKEND`` names a backend that is not available.
        """
        if x.dtype is not torch.float32 or not is_plain(x) or not x.numel():
            return None
        device = x.device
        if device not in self._found:
            self._found[device] = choose_training_kernels(device)
        return self._found[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> ChosenKernels:
        return ChosenKernels()

    def __reduce__(self) -> tuple[type[ChosenKernels], tuple[()]]:
        return ChosenKernels, ()
