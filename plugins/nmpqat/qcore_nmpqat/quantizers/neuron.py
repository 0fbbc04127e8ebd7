"""``nmpqat/neuron``: weights whose rows have a width each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from qcore.backends.training import ChosenKernels
from qcore.quantizers import check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.quantizers.integer import as_rows
from qcore.tensor import Encoded
from qcore.tensor.integer import TINY, odd_codes, odd_inverse
from qcore.tensor.sums import slice_sums
from qcore_nmpqat.quantizers.config import NeuronConfig
from qcore_nmpqat.quantizers.widths import LearnedWidths

__all__ = ["NeuronQuantizer"]

BEST_STEP = {2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569}
"""Step of the uniform quantizer of ``2**b`` levels with the least squared error for normal numbers of variance 1.

Source: J. Max, "Quantizing for Minimum Distortion", IRE Transactions on Information Theory 6, 1960, table II.
"""

CHUNK = 1 << 15
"""Elements of a float temporary in the backward pass: what stays in a core's cache."""


class NeuronQuantizer(LearnedWidths):
    """Codes of ``2**b`` levels, ``b`` being the row's own width; a row is an output neuron or channel.

    For each row ``w``, in float32 and in this order::

        h    = mean|w|                      at 1 bit
               BEST_STEP[b] / 2 * rms(w)    at 2 to 7 bits, with scale="mse"
               max|w| / (2**b - 1)          at 8 bits, and at 2 to 7 with scale="absmax"
        code = 2 clamp(floor(w / (2 h)), -2**(b-1), 2**(b-1) - 1) + 1        # odd numbers; 0 counts as above 0
        Q(w) = code * h

    So one bit is ``sign(w) mean|w|``, two bits are four levels, and a higher width has a smaller error. With
    ``scale="learned"``, ``h`` is a parameter for each row and width that begins there. A width of 0 gives zeros.

    Gradient: ``dL/dw = dL/dQ`` for every element (learned: within the outermost steps), and that of the strength ``s``
    is the gradient of the mixture over all widths (:mod:`~qcore_nmpqat.quantizers.gates`), with ``G = dL/dQ``::

        dL/ds = sum_k g'_k(s) <G, Q_{k+1}(w) - Q_k(w)>
        dL/dh = sum of G * code outside the steps, of G * (code - w / h) within        # learned; the row's own width

    so a descent step raises ``s`` where, to first order, more precision lowers the loss. Nothing but ``w`` is kept for
    the backward pass: it makes the candidates again, a few rows at a time.

    Attributes:
        half_step: float32 (rows, widths), a parameter, with ``scale="learned"`` alone: ``h``.

    Source: Varshney et al. 2026, arXiv:2605.25054, equations 1-3; what they leave open is resolved as said here. The
    learned step: Esser et al. 2019, arXiv:1902.08153.
    """

    Config: ClassVar[type[QuantizerConfig]] = NeuronConfig
    config: NeuronConfig

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        if self.config.scale == "learned":
            self.half_step = nn.Parameter(torch.empty(0, len(self.config.widths)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Begin with the rows of ``x`` at the lowest width."""
        check_finite(x, self.tensor_name)
        rows = as_rows(x)
        self.allocate(rows.shape[0], x.device)
        if self.config.scale == "learned":
            self.half_step = nn.Parameter(_half_steps(rows, self.config.widths, "mse").clamp_min_(TINY))

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        check_finite(x, self.tensor_name)
        rows = as_rows(x).contiguous()
        return self._encode(x, rows, self._all_half_steps(rows), self.levels())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient."""
        levels = self.settle() if self.training else self.levels()
        rows = as_rows(x).contiguous()
        halves = self._all_half_steps(rows)
        quantized = self._quantized(x, rows, halves, levels)
        if not torch.is_grad_enabled():
            return quantized
        learned = self.half_step if self.config.scale == "learned" else None
        return cast(Tensor, _Mixture.apply(x, self.strength, learned, quantized, halves, levels, self))  # type: ignore[no-untyped-call]

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        if self.config.scale != "learned":
            return upstream
        rows = as_rows(x).contiguous()
        halves = self._all_half_steps(rows)
        return _learned_step(self, x, upstream, halves, self.levels())[0]

    def products(self, x: Tensor, upstream: Tensor, halves: Tensor | None = None) -> Tensor:
        """Return ``<dL/dq, Q_k(x)>``, float32 (rows, widths), for ``upstream = dL/dq``.

        ``halves``, if known, are the half steps of all rows and widths.
        """
        rows, given = as_rows(x).contiguous(), as_rows(upstream).contiguous()
        halves = self._all_half_steps(rows) if halves is None else halves
        kernels, tops = self.kernels.serve(rows), halves.new_tensor([1 << max(b - 1, 0) for b in self.config.widths])
        fused = None if kernels is None else kernels.odd_products(given, rows, halves, tops)
        if fused is not None:
            return fused
        found = torch.zeros_like(halves)
        for part in _chunks(rows):
            values, gradient = rows[part], given[part]
            for k, width in enumerate(self.config.widths):
                half = halves[part, k]
                if width:
                    codes = odd_codes(values, odd_inverse(half).unsqueeze(1), tops[k])
                    found[part, k] = torch.linalg.vecdot(gradient, codes) * half
        return found

    def _quantized(self, x: Tensor, rows: Tensor, halves: Tensor, levels: Tensor) -> Tensor:
        quantized = self._fused(x, rows, halves, levels)
        if quantized is None:
            check_finite(x, self.tensor_name)
            quantized = self._encode(x, rows, halves, levels).decode_()
        return quantized

    def _all_half_steps(self, rows: Tensor) -> Tensor:
        if self.config.scale == "learned":
            steps = self.half_step.detach().abs()
            return steps * steps.new_tensor([float(width > 0) for width in self.config.widths])
        return _half_steps(rows, self.config.widths, self.config.scale, self.kernels)

    def _chosen(self, halves: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stored width, int64 (rows,), the half step and ``2**(b-1)``, float32 (rows, 1), of each row."""
        stored = self.widths(levels).clamp_min(1)
        half = halves.gather(1, levels.unsqueeze(1)) if halves.shape[1] > 1 else halves
        return stored, half, torch.exp2(stored.to(torch.float32) - 1).unsqueeze(1)

    def _encode(self, x: Tensor, rows: Tensor, halves: Tensor, levels: Tensor) -> Encoded:
        stored, half, top = self._chosen(halves, levels)
        codes = odd_codes(rows, odd_inverse(half), top)
        bits: int | Tensor = self.config.widths[0] if len(self.config.widths) == 1 else stored
        return Encoded(codes, half, x.shape, x.dtype, "odd", bits)

    def _fused(self, x: Tensor, rows: Tensor, halves: Tensor, levels: Tensor) -> Tensor | None:
        kernels = self.kernels.serve(x)
        if kernels is None:
            return None
        _, half, top = self._chosen(halves, levels)
        quantized = kernels.round_to_odd(rows, half, top)
        return None if quantized is None else quantized.reshape(x.shape)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        strength: Tensor,
        learned: Tensor | None,
        quantized: Tensor,
        halves: Tensor,
        levels: Tensor,
        own: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, halves, levels)
        ctx.own = own
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,), (x, halves, levels), own = gradients, ctx.saved_tensors, cast(NeuronQuantizer, ctx.own)
        _, needs_strength, needs_step = ctx.needs_input_grad[:3]
        dstrength = None
        if needs_strength and len(own.config.widths) > 1:
            dstrength = own.strength_gradient(own.products(x, upstream, halves))
        if not needs_step:
            return upstream, dstrength, None, None, None, None, None
        dx, dhalf = _learned_step(own, x, upstream, halves, levels)
        return dx, dstrength, dhalf, None, None, None, None


def _learned_step(
    own: NeuronQuantizer, x: Tensor, upstream: Tensor, halves: Tensor, levels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and of the half steps (rows, widths), as LSQ has them."""
    rows, given = as_rows(x), as_rows(upstream)
    _, half, top = own._chosen(halves, levels)
    inverse = odd_inverse(half)
    v = rows * inverse
    inside = (v >= -top) & (v < top)
    codes = odd_codes(rows, inverse, top)
    terms = torch.where(inside, codes - 2 * v, codes).mul_(given)
    sums = terms.sum(dim=1, keepdim=True, dtype=torch.float64).to(torch.float32)
    sums = torch.where(half > 0, sums / (rows.shape[1] * top).sqrt(), 0.0)
    dhalf = torch.zeros_like(halves).scatter_(1, levels.unsqueeze(1), sums) * own.half_step.sign()
    return (given * inside).reshape(upstream.shape).to(upstream.dtype), dhalf


def _half_steps(rows: Tensor, widths: tuple[int, ...], rule: str, chosen: ChosenKernels | None = None) -> Tensor:
    """Return ``h`` of each row and width, float32 (rows, widths); 0 for a row of zeros, and for a width of 0."""
    if not rows.shape[1]:
        return rows.new_zeros(rows.shape[0], len(widths))
    rest = [width for width in widths if width > 1]
    # Not the largest norm: torch takes twenty times as long for it.
    peak = torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)) if 8 in rest or (rest and rule == "absmax") else None
    spread = _rms(rows) if rule == "mse" and any(width < 8 for width in rest) else None
    found = []
    for width in widths:
        if width == 0:
            found.append(rows.new_zeros(rows.shape[0]))
        elif width == 1:
            kernels = None if chosen is None else chosen.serve(rows)
            sums = None if kernels is None else kernels.slice_sums(rows, magnitude=True)
            found.append(((slice_sums(rows.abs()) if sums is None else sums).squeeze(1) / rows.shape[1]).float())
        elif spread is not None and width < 8:
            found.append(spread * (BEST_STEP[width] / 2))
        else:
            assert peak is not None
            found.append(peak / ((1 << width) - 1))
    return torch.stack(found, dim=1)


def _rms(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, 2, dim=1)
    if not bool(torch.isfinite(norm).all()):  # the squares of huge numbers
        norm = torch.linalg.vector_norm(rows, 2, dim=1, dtype=torch.float64)
    return norm.div(rows.shape[1] ** 0.5).float()


def _chunks(rows: Tensor) -> Iterator[slice]:
    height = max(1, CHUNK // max(rows.shape[1], 1))
    for start in range(0, rows.shape[0], height):
        yield slice(start, start + height)
