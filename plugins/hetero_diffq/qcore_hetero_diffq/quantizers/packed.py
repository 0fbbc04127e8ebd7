"""``hetero_diffq/packed_activation``: what a packed layer keeps of ``hetero_diffq/activation``."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from qcore.quantizers import Quantizer, check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.tensor import ActivationScheme, Encoded
from qcore_hetero_diffq.quantizers.config import PackedActivationConfig

__all__ = ["PackedActivation", "static_scheme"]


class PackedActivation(Quantizer):
    """The codes of a static range, signed and symmetric if it begins below 0, else from 0 up; nothing to train.

    Of itself it begins with the largest magnitude.

    Attributes:
        ends: float32 (2, 1, 1), a buffer: the smallest and the largest number of the range.
    """

    Config = PackedActivationConfig
    config: PackedActivationConfig
    ends: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("ends", torch.zeros(2, 1, 1))

    @classmethod
    def of(cls, ends: Tensor, bits: int, name: str) -> Self:
        """Return a quantizer of this range, float32 (2, 1, 1), and width."""
        made = cls(PackedActivationConfig(bits=bits))
        made.spec_id, made.tensor_name = "hetero_diffq/packed_activation", name
        made.ends = ends.detach().clone()
        return made.eval()

    @property
    def needs_calibration(self) -> bool:
        """Whether the range is not known."""
        return not bool(self.ends[1] > 0)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the range to the largest magnitude of ``x``, 1 if that is 0."""
        check_finite(x, self.tensor_name)
        if x.numel():
            values = x.detach().to(torch.float32)
            high = values.abs().amax().reshape(1, 1)
            high = torch.where(high > 0, high, torch.ones_like(high))
            self.ends = torch.stack([torch.where(values.amin() < 0, -high, 0.0), high])

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x`` (..., features)."""
        check_finite(x, self.tensor_name)
        return static_scheme(self.ends, self.config.bits).encode(x)

    def bits(self) -> Tensor:
        """Return the width, float32 ()."""
        return torch.tensor(float(self.config.bits))

    def scheme(self) -> ActivationScheme | None:
        """Return the scheme; None before the range is known."""
        return None if self.needs_calibration else static_scheme(self.ends, self.config.bits)


def static_scheme(ends: Tensor, bits: int) -> ActivationScheme:
    """Return the scheme of ``bits`` over the range ``ends``, float32 (2, 1, 1)."""
    low, high = ends
    return ActivationScheme(bits, symmetric=bool(low < 0), per_token=False, low=low, high=high)
