"""``nmpqat/packed_activation``: what a packed layer keeps of ``nmpqat/activation``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from qcore.quantizers import Quantizer, check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import as_tokens
from qcore_nmpqat.quantizers.config import PackedActivationConfig
from qcore_nmpqat.quantizers.grid import column_scheme

__all__ = ["PackedActivation"]


class PackedActivation(Quantizer):
    """The codes of :class:`~qcore_nmpqat.quantizers.activation.ActivationQuantizer`, and nothing to train.

    Of itself it begins with one clip for each feature, its largest magnitude.

    Attributes:
        clip: float32 (features,).
        width: uint8 (features,): 4, 8 or 16.
        is_signed: bool ().
    """

    Config = PackedActivationConfig
    config: PackedActivationConfig
    clip: Tensor
    width: Tensor
    is_signed: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("clip", torch.empty(0))
        self.register_buffer("width", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("is_signed", torch.tensor(False))

    @classmethod
    def of(cls, clip: Tensor, width: Tensor, *, signed: bool, name: str) -> Self:
        """Return a quantizer of these clips, float32 (features,), and widths (features,)."""
        made = cls()
        made.spec_id, made.tensor_name = "nmpqat/packed_activation", name
        made.clip, made.width = clip.clone(), width.to(torch.uint8)
        made.is_signed = torch.tensor(signed, device=clip.device)
        return made.eval()

    @property
    def needs_calibration(self) -> bool:
        """Whether the clips are not known."""
        return not self.clip.numel()

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clips to the largest magnitudes of ``x`` (..., features), all of 8 bits."""
        check_finite(x, self.tensor_name)
        tokens = as_tokens(x.detach()).to(torch.float32)
        if tokens.shape[0]:
            peak = torch.linalg.vector_norm(tokens, torch.inf, dim=0)
            self.clip = torch.where(peak > 0, peak, torch.ones_like(peak)).clamp_min(1e-3)
            self.width = torch.full_like(self.clip, 8, dtype=torch.uint8)
            self.is_signed = tokens.amin() < 0

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x`` (..., features)."""
        check_finite(x, self.tensor_name)
        return self._columns().encode(x)

    def bits(self) -> Tensor:
        """Return each feature's width, float32 (features,)."""
        return self.width.to(torch.float32)

    def column_scale(self) -> Tensor | None:
        """Return the clips, float32 (features,); None before they are known."""
        return None if self.needs_calibration else self.clip

    def scheme(self) -> ActivationScheme | None:
        """Return the scheme of static columns."""
        return None if self.needs_calibration else self._columns()

    def permute_columns(self, order: Tensor) -> bool:
        """Reorder clips and widths: feature i becomes what feature ``order[i]``, int64 (features,), was."""
        self.clip, self.width = self.clip[order], self.width[order]
        return True

    def _columns(self) -> ActivationScheme:
        return column_scheme(self.clip, self.width.long(), signed=bool(self.is_signed))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of features comes from the file.
        for name in ("clip", "width"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=self.clip.device))
        load: Callable[..., None] = super()._load_from_state_dict
        load(state_dict, prefix, *args)
