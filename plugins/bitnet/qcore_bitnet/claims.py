"""The papers' statements as checks on the evidence of a run, and the evidence that only this method has."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from qcore.methods import Claim, MissingEvidenceError, Verdict
from qcore.methods.claim_library import better, equivalence, packed_equals_eval, size_ratio
from qcore.nn import QuantLayer
from qcore_bitnet.ternary import MIN_SCALE, Ternary

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Evidence

__all__ = ["MARGIN", "list_claims", "observe_ternary", "paper_codes"]

MARGIN = 0.01
"""Equal means within this much of a classification's metric; the paper names no margin."""

FLOAT16_RATIO = 2.6
"""What the whole of the smallest model of arXiv:2402.17764 (700M, table 1) takes in float16 over ternary."""


def list_claims() -> list[Claim]:
    """Return the claims of arXiv:2402.17764 that a run without a language model can test."""
    return [
        Claim("codes_follow_the_formula", "ternary codes are round(W / mean|W|), clipped to -1..1", "exact", _codes),
        packed_equals_eval(),
        Claim("five_weights_a_byte", "a ternary weight takes 1.6 bits: five a byte, rows apart", "size", _bits),
        size_ratio(
            "file_is_smaller_than_float16",
            "ternary",
            "float",
            at_least=FLOAT16_RATIO,
            key="file_nbytes",
            baseline_share=0.5,
            statement=f"the ternary file is at least {FLOAT16_RATIO} times smaller than float16, all included",
        ),
        size_ratio(
            "file_is_smaller_than_float32",
            "ternary",
            "float",
            at_least=2 * FLOAT16_RATIO,
            key="file_nbytes",
            statement=f"the ternary file is at least {2 * FLOAT16_RATIO} times smaller than float32, all included",
        ),
        equivalence("ternary_equals_float", "ternary", "float", margin=MARGIN, family="quality"),
        better("ternary_beats_ptq2", "ternary", "ptq2", family="quality"),
        better("conversion_beats_ptq2", "ternary_converted", "ptq2", family="quality"),
    ]


def paper_codes(weight: Tensor) -> Tensor:
    """Return ``clip(round(W / max(mean|W|, 1e-5)), -1, 1)`` of the whole tensor, as the paper writes it."""
    gamma = weight.double().abs().mean().float().clamp_min(MIN_SCALE)
    return (weight / gamma).round().clamp(-1, 1)


def observe_ternary(model: nn.Module) -> dict[str, float]:
    """Return what claims need to know of the ternary layers of ``model``; nothing if it has none.

    ``wrong_codes``: codes that differ from :func:`paper_codes`, -1 where the scale is not the tensor's. ``bits``: what
    a weight takes, packed, with its scales. ``bits_due``: what it should take at a byte for five weights, rows apart.
    """
    layers = [m for m in model.modules() if isinstance(m, QuantLayer) and isinstance(m.weight_quantizer, Ternary)]
    if not layers:
        return {}
    weights = [(cast(Ternary, layer.weight_quantizer), layer.weight.detach()) for layer in layers]
    count = sum(weight.numel() for _, weight in weights)
    nbytes = sum(quantizer.quantize(weight).nbytes for quantizer, weight in weights)
    due = sum(_nbytes_due(quantizer, weight) for quantizer, weight in weights)
    papers = all(quantizer.config.granularity == "tensor" for quantizer, _ in weights)
    wrong = sum(_wrong_codes(quantizer, weight) for quantizer, weight in weights) if papers else -1
    return {"wrong_codes": float(wrong), "bits": 8 * nbytes / count, "bits_due": 8 * due / count}


def _nbytes_due(quantizer: Ternary, weight: Tensor) -> int:
    rows, cols = weight.shape[0], weight[0].numel()
    return rows * -(-cols // 5) + 4 * quantizer.encode(weight).scale.numel()


def _wrong_codes(quantizer: Ternary, weight: Tensor) -> int:
    return int((quantizer.encode(weight).codes != paper_codes(weight).flatten(1)).sum())


def _observed(evidence: Evidence, key: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    samples = evidence.samples("ternary")
    if key not in samples:
        raise MissingEvidenceError(f"the run kept no {key} of the ternary arm")
    return np.asarray(samples[key], dtype=np.float64)


def _codes(evidence: Evidence) -> Verdict:
    wrong = float(_observed(evidence, "wrong_codes").max())
    test = "every code of every fold against the paper's formula"
    if wrong < 0:
        return Verdict(verdict="untested", value=None, test=test, reason="the paper's scale is that of the tensor")
    return Verdict(verdict="holds" if wrong == 0 else "fails", value=wrong, test=test)


def _bits(evidence: Evidence) -> Verdict:
    bits, due = _observed(evidence, "bits"), _observed(evidence, "bits_due")
    return Verdict(
        verdict="holds" if bool((bits == due).all()) else "fails",
        value=float(bits.mean()),
        test="bytes of the packed layers against ceil(columns / 5) a row and 4 a scale; the value is bits a weight",
    )
