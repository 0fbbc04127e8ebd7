"""``bitnet/absmax``: the 8-bit activations of BitNet b1.58."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from qcore.quantizers import check_finite
from qcore.tensor import ActivationScheme
from qcore.tensor.integer import as_tokens
from qcore_bitnet.config import AbsmaxConfig
from qcore_bitnet.weights import Ramped

if TYPE_CHECKING:
    from torch import Tensor

    from qcore.backends import TrainingKernels
    from qcore.quantizers import QuantizerConfig
    from qcore.tensor import Encoded

__all__ = ["MIN_MAGNITUDE", "Absmax"]

MIN_MAGNITUDE = 1e-5
"""Lower limit of a token's largest magnitude."""


class Absmax(Ramped):
    """Activations in 8 bits, a scale for each token (a row of the last axis).

    The order of the operations, in float32::

        c    = max(max|x|, 1e-5)
        s    = 127 / c
        code = clamp(round(x * s), -127, 127)      # ties to even; -128 cannot occur
        Q(x) = code * (c / 127)

    Gradient: ``dL/dx = dL/dQ(x)``, none to the scale.

    Source: "The Era of 1-bit LLMs: Training Tips, Code and FAQ"; the paper (arXiv:2402.17764) writes 128 for 127.
    """

    Config: ClassVar[type[QuantizerConfig]] = AbsmaxConfig

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``.

        Raises:
            QuantizationError: if ``x`` holds NaN or infinity.
        """
        check_finite(x, self.tensor_name)
        return self.scheme().encode(x)

    def fused(self, x: Tensor, kernels: TrainingKernels) -> Tensor | None:
        """Return ``encode(x).decode()`` by a fused kernel."""
        rounded = kernels.round_over_range(as_tokens(x), 8, symmetric=True, floor=MIN_MAGNITUDE)
        return None if rounded is None else rounded.reshape(x.shape)

    def bits(self) -> Tensor:
        """Return 8, float32 ()."""
        return torch.tensor(8.0)

    def scheme(self) -> ActivationScheme:
        """Return the same as data for kernels."""
        return ActivationScheme(bits=8, symmetric=True, per_token=True, floor=MIN_MAGNITUDE)
