"""``nmpqat/activation``: inputs of a linear layer whose features have a clip and a width each."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from qcore.errors import CalibrationError, ConfigError
from qcore.quantizers import check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import as_tokens
from qcore_nmpqat.quantizers.config import ActivationConfig
from qcore_nmpqat.quantizers.grid import column_scheme, levels_of
from qcore_nmpqat.quantizers.packed import PackedActivation
from qcore_nmpqat.quantizers.widths import LearnedWidths

__all__ = ["ActivationQuantizer"]

SMALLEST = 1e-3
"""A clip never shrinks below this."""


class ActivationQuantizer(LearnedWidths):
    """Codes of each feature within its own clip ``alpha`` and of its own width, as parts of the clip.

    With ``n`` the largest code of a feature's width (15, 255, 65535; with negative values 7, 126, 32760)::

        v = clamp(round(x * (n / alpha)), 0 or -n, n)          # ties to even
        q = v / n                                              # what the layer gets: x over the clip, -1..1

    The clip itself is the layer's: it multiplies the columns of its weight by ``alpha`` before they are quantized
    (:meth:`~qcore.quantizers.Quantizer.column_scale`). So all features count on one integer grid, on which the codes of
    narrow widths are multiples (15 * 17 = 255, 255 * 257 = 65535; 7 * 18 = 126, 126 * 260 = 32760), and the layer's
    sums are integer whatever the widths.

    Gradient, with ``G = dL/dq``, and ``alpha q`` in the place of the paper's quantized activation::

        dL/dx      = G / alpha * 1[inside]                       inside = 0 < x < alpha, or |x| < alpha
        dL/dalpha  = sum of G / alpha * sign(x) beyond the clip  # gradient="pact"
                     and of G / alpha * (q - x / alpha) inside   # gradient="lsq"
        dL/ds      = sum_k g'_k(s) <G, q_{k+1} - q_k>            # the mixture over all widths, as of the weights

    Attributes:
        alpha: float32 (features,), a parameter; 0 before the first batch has set it to the largest magnitude of each
            feature. A feature that is always 0 there gets the median of the others.
        is_signed: int64 (), whether values may be negative; -1 before it is known.

    Source: Varshney et al. 2026, arXiv:2605.25054, section 2.2 and equation 5; Choi et al. 2018, arXiv:1805.06085 (the
    clip's gradient). That the clip is the weight's, and the aligned grids, are ours.
    """

    Config = ActivationConfig
    config: ActivationConfig
    is_signed: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.alpha = nn.Parameter(torch.empty(0))
        self._known = False
        given = self.config.signed
        self.register_buffer("is_signed", torch.tensor(-1 if given is None else int(given)))

    @property
    def needs_calibration(self) -> bool:
        """Whether the clips are not known yet."""
        if not self._known and self.alpha.numel():  # a look at a number halts a GPU's queue: once is enough
            self._known = bool(self.alpha[0] != 0)
        return not self._known

    def expect_features(self, features: int) -> None:
        """Begin with ``features`` features of the lowest width, whose clips the first batch sets."""
        self.allocate(features, self.alpha.device)
        self.alpha = nn.Parameter(torch.zeros(features, device=self.alpha.device))
        self._known = False

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clips from ``x`` (..., features); ranks that train together agree on them."""
        check_finite(x, self.tensor_name)
        tokens = as_tokens(x.detach()).to(torch.float32)
        if not tokens.shape[0]:
            return
        if self.alpha.numel() != tokens.shape[1]:
            self.expect_features(tokens.shape[1])
            self.to(x.device)
        peak = torch.linalg.vector_norm(tokens, torch.inf, dim=0)
        lowest = tokens.amin()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(peak, distributed.ReduceOp.MAX)
            distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        if int(self.is_signed) < 0:
            self.is_signed.fill_(int(lowest < 0))
        alive = peak > 0
        usual = peak[alive].median() if bool(alive.any()) else peak.new_ones(())
        self.alpha.copy_(torch.where(alive, peak, usual).clamp_min(SMALLEST))

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x`` (..., features)."""
        scheme = self.scheme()
        if scheme is None:
            raise CalibrationError(
                f"{self.tensor_name} has clips that were never set", "train it, or call qcore.calibrate(model, batches)"
            )
        check_finite(x, self.tensor_name)
        if x.shape[-1] != self.alpha.numel():
            raise ConfigError(f"{self.tensor_name} has {self.alpha.numel()} clips for {x.shape[-1]} features")
        return scheme.encode(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` over its clip, fake-quantized; see the class for the gradient."""
        if self.training:
            if self.needs_calibration:
                self.initialize(x)
            self.settle()
        quantized = self.encode(x).decode()
        if not torch.is_grad_enabled():
            return quantized
        return cast(Tensor, _Clipped.apply(x, self.alpha, self.strength, quantized, self))  # type: ignore[no-untyped-call]

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        clip = self.clip()
        wide = as_tokens(x).to(torch.float32)
        return (upstream.reshape(wide.shape) / clip * self._inside(wide, clip)).reshape(x.shape).to(x.dtype)

    def column_scale(self) -> Tensor | None:
        """Return the clips, float32 (features,); None before they are known."""
        return None if self.needs_calibration else self.clip()

    def clip(self) -> Tensor:
        """Return the clips as they are used, float32 (features,), without gradient."""
        return self.alpha.detach().abs().clamp_min(SMALLEST)

    def scheme(self) -> ActivationScheme | None:
        """Return the scheme of static columns, once the clips are known."""
        if self.needs_calibration:
            return None
        return column_scheme(self.clip(), self.widths(), signed=bool(self.is_signed))

    def packed(self) -> PackedActivation:
        """Return clips, widths and sign alone."""
        return PackedActivation.of(self.clip(), self.widths(), signed=bool(self.is_signed), name=self.tensor_name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._known = False  # the state may be of before the first batch

    def _inside(self, x: Tensor, clip: Tensor) -> Tensor:
        low = -clip if bool(self.is_signed) else torch.zeros_like(clip)
        return (x > low) & (x < clip)


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, strength: Tensor, quantized: Tensor, own: Any) -> Tensor:
        ctx.save_for_backward(x, alpha, quantized)
        ctx.own = own
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        (upstream,), (x, alpha, quantized), own = gradients, ctx.saved_tensors, cast(ActivationQuantizer, ctx.own)
        clip, wide = own.clip(), as_tokens(x).to(torch.float32)
        given = upstream.reshape(wide.shape).to(torch.float32)
        scaled, inside = given / clip, own._inside(wide, clip)
        beyond = (wide >= clip).to(torch.float32)
        terms = scaled * (beyond.sub_((wide <= -clip).to(torch.float32)) if bool(own.is_signed) else beyond)
        if own.config.gradient == "lsq":
            rounding = quantized.reshape(wide.shape).to(torch.float32) - wide / clip
            terms = terms + torch.where(inside, scaled * rounding, 0.0)
        dalpha = terms.sum(dim=0) * torch.where(alpha < 0, -1.0, 1.0)
        dstrength = None
        if ctx.needs_input_grad[2] and len(own.config.widths) > 1:
            dstrength = own.strength_gradient(_products(own, wide, given, clip))
        return (scaled * inside).reshape(x.shape).to(x.dtype), dalpha.to(alpha.dtype), dstrength, None, None


def _products(own: ActivationQuantizer, x: Tensor, given: Tensor, clip: Tensor) -> Tensor:
    """Return ``<G, q_k>`` of each feature for each width, float32 (features, widths)."""
    signed = bool(own.is_signed)
    part = (x / clip).clamp_(-1 if signed else 0, 1)
    found = []
    for width in own.config.widths:
        largest = levels_of(width, signed=signed)
        found.append((part * largest).round_().mul_(given).sum(dim=0).div_(largest))
    return torch.stack(found, dim=1)
