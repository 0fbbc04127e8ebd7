"""``nmpqat/noise``: the codes of ``nmpqat/neuron``, trained with noise in their place (DiffQ)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from qcore.nn.dropout import generator_on
from qcore.quantizers import check_finite, straight_through
from qcore.quantizers.config import QuantizerConfig
from qcore.quantizers.integer import as_rows
from qcore_nmpqat.quantizers.config import NoiseConfig
from qcore_nmpqat.quantizers.neuron import NeuronQuantizer

__all__ = ["NoiseQuantizer"]

FARTHEST = 6.0
"""A logit is kept within this of 0: beyond, the sigmoid is too flat for it to come back."""


class NoiseQuantizer(NeuronQuantizer):
    """In eval mode codes of ``nmpqat/neuron``; in training noise as large as a step of a real number of bits ``b``.

    A row ``w`` has a ``logit``, and in training it becomes ``q``, with ``v`` drawn anew for each element::

        s = sigmoid(logit)
        b = b_min + (b_max - b_min) s
        q = w + (max w - min w) / (2**b - 1) * v / 2        # v uniform in (-1, 1), or standard normal

    So nothing is rounded, and all is differentiable. Gradient, with ``G = dL/dq``, the range being without one::

        dL/dw     = G
        dL/ds     = -(b_max - b_min) ln 2 * 2**b / (2**b - 1) <G, q - w>
        dL/dlogit = s (1 - s) dL/ds

    The hard width of eval mode, and so of what is packed, is the one of ``widths`` that is nearest to ``b``. While the
    logit is not trained (``requires_grad`` is False), ``b`` is that hard width; with ``settle="codes"`` training then
    sees the codes, and the gradient passes straight through, as it does in eval mode.

    Attributes:
        logit: float32 (rows,), a parameter, within -6..6.
        strength: float32 (rows,), ``s``, differentiable in the logit.
        generator: where noise is drawn from; training sets it, see :func:`qcore.nn.set_generator`. None: one of its
            own, of seed 0, is made on first use.
        budget: float64 (), the mean width that the network is to end with; NaN if it has none. It stands here, as the
            price does, because it may be another network's mean width.

    Source: Defossez et al. 2021, arXiv:2104.09987, sections 3.2 and 3.3. That a group is a row, the hard widths, and
    the bound of the logit are ours.
    """

    Config: ClassVar[type[QuantizerConfig]] = NoiseConfig
    config: NoiseConfig
    trains_on_codes: ClassVar[bool] = False
    budget: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("budget", torch.tensor(torch.nan, dtype=torch.float64))
        self.generator: torch.Generator | None = None

    @property
    def strength(self) -> Tensor:  # type: ignore[override]
        """Where ``b`` lies between the lowest width, 0, and the highest, 1: float32 (rows,)."""
        return torch.sigmoid(self.logit)

    def allocate(self, neurons: int, device: torch.device | None = None) -> None:
        """Begin with ``neurons`` neurons of the config's ``start``."""
        super().allocate(neurons, device)
        self.put(torch.full_like(self.demand, self.config.first_strength))
        self.level.fill_(self.config.widths.index(self.config.first_width))

    def begin(self, strength: Tensor) -> None:
        """Make the parameter anew, for neurons of these strengths, float32 (rows,)."""
        self.logit = nn.Parameter(torch.logit(strength).clamp_(-FARTHEST, FARTHEST))

    @torch.no_grad()
    def put(self, strength: Tensor, where: Tensor | slice = slice(None)) -> None:
        """Write the logits of strengths, float32, into the parameter, for the neurons ``where`` says."""
        self.logit[where] = torch.logit(strength).clamp_(-FARTHEST, FARTHEST)

    @torch.no_grad()
    def confine(self) -> None:
        """Bring logits back within their bound."""
        self.logit.clamp_(-FARTHEST, FARTHEST)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with noise in training, else fake-quantized; see the class for the gradient."""
        levels = self.settle() if self.training else self.levels()
        rows = as_rows(x).contiguous()
        if not self.training or (self.config.settle == "codes" and not self.logit.requires_grad):
            return straight_through(x, self._quantized(x, rows, self._all_half_steps(rows), levels))
        check_finite(x, self.tensor_name)
        moves = self.logit.requires_grad
        bits = self.real_bits() if moves else self.widths(levels).to(torch.float32)
        noise = self._draw(rows).mul_(_half_noise(rows, bits).unsqueeze(1))
        return cast(Tensor, _Noisy.apply(x, self.strength, noise, bits, self))  # type: ignore[no-untyped-call]

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        return upstream

    def bits(self) -> Tensor:
        """Return each row's hard width, float32 (rows,), with the gradient of ``b``.

        Before any rows are known, it is the width nearest to what they will begin with, float32 ().
        """
        if not self.logit.numel():
            return torch.tensor(float(self.config.first_width))
        hard = self.widths().to(torch.float32)
        if not (self.logit.requires_grad and torch.is_grad_enabled()):
            return hard
        return hard + self.config.span * (self.strength - self.strength.detach())

    def real_bits(self) -> Tensor:
        """Return ``b``, float32 (rows,), without gradient."""
        return self.config.widths[0] + self.config.span * self.strength.detach()

    def _draw(self, rows: Tensor) -> Tensor:
        self.generator = generator_on(self.generator, rows.device)
        if self.config.distribution == "normal":
            return torch.randn(rows.shape, generator=self.generator, device=rows.device)
        return torch.rand(rows.shape, generator=self.generator, device=rows.device).mul_(2).sub_(1)


class _Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor, noise: Tensor, bits: Tensor, own: Any) -> Tensor:
        ctx.save_for_backward(noise, bits)
        ctx.own = own
        return (as_rows(x) + noise).reshape(x.shape).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (upstream,), (noise, bits), own = gradients, ctx.saved_tensors, cast(NoiseQuantizer, ctx.own)
        if not ctx.needs_input_grad[1]:
            return upstream, None, None, None, None
        power = torch.exp2(bits)
        slope = power / (power - 1) * (-own.config.span * math.log(2))
        gradient = torch.linalg.vecdot(as_rows(upstream), noise).mul_(slope)
        own.note_demand(gradient)
        return upstream, gradient, None, None, None


def _half_noise(rows: Tensor, bits: Tensor) -> Tensor:
    """Return ``(max w - min w) / 2 / (2**b - 1)`` of each row, float32 (rows,)."""
    if not rows.shape[1]:
        return rows.new_zeros(rows.shape[0])
    # Halves first, since the range of huge numbers overflows.
    return (rows.amax(dim=1) / 2 - rows.amin(dim=1) / 2) / (torch.exp2(bits) - 1)
