"""What the ternary and the binary quantizer share: slices, the conversion ramp, the straight-through gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from qcore.quantizers import Quantizer, check_finite, straight_through
from qcore.tensor.encoded import spread
from qcore.tensor.integer import grouped
from qcore.tensor.sums import slice_sums

if TYPE_CHECKING:
    from torch import Tensor

    from qcore.backends import TrainingKernels
    from qcore.tensor import Encoded
    from qcore_bitnet.config import WeightConfig

__all__ = ["Ramped", "WeightQuantizer", "as_rows", "fused_mean"]


class Ramped(Quantizer):
    """A quantizer that training can fade in.

    In training the output is ``x + blend * (Q(x) - x)``; in eval it is ``Q(x)`` whatever ``blend`` is. The gradient is
    that of the straight-through estimator, ``dL/dx = dL/dQ(x)``, for every ``blend``.

    Source: "Fine-tuning LLMs to 1.58 bits", Hugging Face blog, September 2024 (``lambda = min(step / 1000, 1)``).

    Attributes:
        blend: share of the quantized value, 0 to 1. Training sets it; it is no part of the model's state.
    """

    blend: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized, same shape and dtype."""
        kernels = self.kernels.serve(x)
        quantized = None if kernels is None else self.fused(x.detach(), kernels)
        if quantized is None:
            quantized = self.encode(x).decode()
        if self.training and self.blend < 1.0:
            quantized = x.detach() + self.blend * (quantized - x.detach())
        return straight_through(x, quantized, self.gradient_mask(x) if x.requires_grad else None)

    @abstractmethod
    def fused(self, x: Tensor, kernels: TrainingKernels) -> Tensor | None:
        """Return ``encode(x).decode()`` bit for bit by a fused kernel; None where there is none for it."""

    def gradient_mask(self, x: Tensor) -> Tensor | None:
        """Return what the gradient is multiplied with, shaped like ``x``; None means 1."""
        return None

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dQ(x)``, as documented; the conformance checks compare with it."""
        mask = self.gradient_mask(x)
        return upstream if mask is None else upstream * mask


class WeightQuantizer(Ramped):
    """Weights as (rows, cols): rows along axis 0 (output neuron or channel), whatever the rank of the tensor."""

    config: WeightConfig

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``.

        Raises:
            QuantizationError: if ``x`` holds NaN or infinity.
        """
        check_finite(x, self.tensor_name)
        return self._encode_rows(as_rows(x), x)

    def fused(self, x: Tensor, kernels: TrainingKernels) -> Tensor | None:
        """Return ``encode(x).decode()`` by a fused kernel; there is none for a short last group."""
        cols = x.numel() // x.shape[0] if x.dim() > 1 else x.numel()
        size = {"tensor": x.numel(), "row": cols, "group": self.config.group_size or 1}[self.config.granularity]
        if self.config.granularity == "group" and cols % size:
            return None
        quantized = self._fused_slices(x.reshape(-1, size), kernels)
        return None if quantized is None else quantized.reshape(x.shape)

    @abstractmethod
    def _fused_slices(self, slices: Tensor, kernels: TrainingKernels) -> Tensor | None:
        """Return what the codes of ``slices`` (slices, n) stand for: the float32 numbers that share a scale."""

    @abstractmethod
    def _encode_rows(self, rows: Tensor, x: Tensor) -> Encoded:
        """Return the codes of ``rows``, which is ``x`` as float32 (rows, cols)."""

    def slice_mean(self, rows: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return the mean of each slice of ``rows`` (rows, cols), or of its magnitudes.

        The sum is taken in float64 and in a fixed order, see :mod:`qcore.tensor.sums`: it cannot overflow, and does not
        depend on memory layout or threads.

        Returns:
            float32 (1, 1), (rows, 1) or (rows, groups).
        """
        slices = rows.reshape(1, -1) if self.config.granularity == "tensor" else rows
        cols = slices.shape[1]
        size = self.config.group_size or max(cols, 1)
        sums = slice_sums(grouped(slices.abs() if magnitude else slices, size)).squeeze(-1)
        if cols % size:  # the zeros that fill up the last group do not count
            counts = sums.new_full((1, sums.shape[1]), size)
            counts[:, -1] = cols % size
            return (sums / counts).to(rows.dtype)
        return (sums / size).to(rows.dtype)

    def spread(self, per_slice: Tensor, rows: Tensor) -> Tensor:
        """Return ``per_slice`` so that it broadcasts against ``rows``."""
        return spread(per_slice, self.config.group_size, rows.shape[1])


def fused_mean(slices: Tensor, kernels: TrainingKernels, *, magnitude: bool = False) -> Tensor:
    """Return what ``slice_mean`` does of float32 ``slices`` (slices, n): float32 (slices, 1)."""
    sums = kernels.slice_sums(slices, magnitude=magnitude)
    if sums is None:
        sums = slice_sums(slices.abs() if magnitude else slices)
    return sums.div_(slices.shape[1]).to(slices.dtype)


def as_rows(x: Tensor) -> Tensor:
    """View ``x`` as float32 (rows, cols); a vector or a scalar is one row."""
    x = x.detach().float()
    return x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(1, -1)
