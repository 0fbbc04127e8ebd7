from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from qcore.quantizers import Quantizer, QuantizerConfig, check_finite, straight_through
from qcore.registry import QuantizerSpec, Registry
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.testing import quantizer_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(quantizer_checks)}


class GoodConfig(QuantizerConfig):
    scale: Literal["mean", "max"] = Field("mean", description="what a code is worth")


class LooseConfig(GoodConfig):
    model_config = ConfigDict(extra="allow")


class Good(Quantizer):
    """Signs times a scale a row, learned from the first tensor; the gradient passes straight through."""

    Config = GoodConfig

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("offset", torch.zeros(1))

    def encode(self, x: Tensor) -> Encoded:
        check_finite(x, self.tensor_name)
        rows = x.detach().float().reshape(x.shape[0], -1)
        magnitude = rows.abs().mean(dim=1, keepdim=True, dtype=torch.float64).float()
        if self.config.scale == "max":
            magnitude = rows.abs().amax(dim=1, keepdim=True)
        return Encoded(torch.where(rows >= 0, 1.0, -1.0), magnitude + self.offset, x.shape, x.dtype, "odd", 1)

    def bits(self) -> Tensor:
        return torch.tensor(1.0)

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        return upstream


class PacksOtherwise(Good):
    def quantize(self, x: Tensor) -> QTensor:
        encoded = self.encode(x)
        return QTensor.pack(replace(encoded, scale=encoded.scale * (1 + 2**-23)))


class RoundsInTraining(Good):
    def forward(self, x: Tensor) -> Tensor:
        quantized = self.encode(x).decode()
        return x + (quantized - x).detach() if self.training else quantized


class SaysSo(RoundsInTraining):
    trains_on_codes = False


class ReturnsDouble(Good):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class ReturnsNan(Good):
    def encode(self, x: Tensor) -> Encoded:
        encoded = super().encode(x)
        return replace(encoded, scale=encoded.scale / encoded.scale * encoded.scale)


class WritesIntoItsInput(Good):
    def quantize(self, x: Tensor) -> QTensor:
        packed = super().quantize(x)
        x.data.clamp_(-1, 1)
        return packed


class ReturnsItsInput(Good):
    def forward(self, x: Tensor) -> Tensor:
        return x


class HalfCodes(Good):
    def encode(self, x: Tensor) -> Encoded:
        encoded = super().encode(x)
        return replace(encoded, codes=encoded.codes / 2, scale=encoded.scale * 2)


class NegativeScale(Good):
    def encode(self, x: Tensor) -> Encoded:
        encoded = super().encode(x)
        return replace(encoded, codes=-encoded.codes, scale=-encoded.scale)


class MindsTheLayout(Good):
    def encode(self, x: Tensor) -> Encoded:
        encoded = super().encode(x)
        return encoded if x.is_contiguous() else replace(encoded, scale=encoded.scale * 2)


class AcceptsNan(Good):
    def encode(self, x: Tensor) -> Encoded:
        return super().encode(x.nan_to_num())


class DoesNotNameTheTensor(Good):
    def encode(self, x: Tensor) -> Encoded:
        check_finite(x, "some tensor")
        return super().encode(x)


class NoGradient(Good):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() + 0 * x.detach().requires_grad_(x.requires_grad)


class NanGradient(Good):
    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.encode(x).decode(), x.detach() / x.detach())


class AnotherGradient(Good):
    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.encode(x).decode(), torch.full_like(x, 0.5))


class Counts(Good):
    calls = 0

    def encode(self, x: Tensor) -> Encoded:
        self.calls += 1
        encoded = super().encode(x)
        return replace(encoded, scale=encoded.scale * self.calls)


class DrawsGlobally(Good):
    def encode(self, x: Tensor) -> Encoded:
        torch.rand(1)
        return super().encode(x)


class HidesItsState(Good):
    seen = 1.0

    def initialize(self, x: Tensor) -> None:
        self.seen = 2.0

    def encode(self, x: Tensor) -> Encoded:
        encoded = super().encode(x)
        return replace(encoded, scale=encoded.scale * self.seen)


class SharesItsState(Good):
    def initialize(self, x: Tensor) -> None:
        self.offset.fill_(1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharesItsState:
        other = copy.copy(self)
        other._buffers = self._buffers
        return other


class ZeroBits(Good):
    def bits(self) -> Tensor:
        return torch.tensor([1.0, 0.0])


class AnotherScheme(Good):
    def scheme(self) -> ActivationScheme:
        return ActivationScheme(8)


class DescribedWrongly(Good):
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "scale": "max"}


class DocumentsNoGradient(Quantizer):
    Config = GoodConfig
    encode = Good.encode
    bits = Good.bits

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("offset", torch.zeros(1))


class Loose(Good):
    Config = LooseConfig


def offer(target: type[Quantizer], **options: Any) -> Offer:
    registry = Registry()
    spec = QuantizerSpec(
        name="tried", target=f"{__name__}:{target.__name__}", summary="for a test", config=target.Config
    )
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry, options)


@pytest.mark.parametrize("name", CHECKS)
def test_a_good_quantizer_passes_every_check(name: str) -> None:
    result = run_case(Case(CHECKS[name], offer(Good)))
    assert result.status == "passed", result.message


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (PacksOtherwise, "packed_equals_eval", "differ"),
        (RoundsInTraining, "training_equals_eval", "differ"),
        (ReturnsDouble, "output_is_like_input", "float64"),
        (ReturnsNan, "output_is_like_input", "all zero, float32: NaN"),
        (WritesIntoItsInput, "input_is_untouched", "was changed"),
        (ReturnsItsInput, "input_is_untouched", "is the input itself"),
        (HalfCodes, "encoding_is_well_formed", "whole numbers"),
        (NegativeScale, "encoding_is_well_formed", "negative"),
        (MindsTheLayout, "layout_does_not_matter", "transposed"),
        (AcceptsNan, "nan_and_infinity_are_refused", "accepts nan"),
        (DoesNotNameTheTensor, "nan_and_infinity_are_refused", "does not name"),
        (NoGradient, "gradient_is_finite", ""),
        (NanGradient, "gradient_is_finite", "the gradient of input"),
        (AnotherGradient, "gradient_is_as_documented", "differ"),
        (Counts, "same_input_same_output", "a second call differs"),
        (DrawsGlobally, "random_state_is_left_alone", "torch"),
        (HidesItsState, "state_round_trip", "other numbers"),
        (SharesItsState, "copy_is_independent", "changes the original"),
        (ZeroBits, "bits_are_sane", "outside"),
        (AnotherScheme, "scheme_is_what_it_encodes", "differ"),
        (DescribedWrongly, "made_again_from_its_description", "config became"),
        (Loose, "config_is_json", "unknown option is accepted"),
    ],
)
def test_a_faulty_quantizer_is_caught(target: type[Quantizer], name: str, message: str) -> None:
    result = run_case(Case(CHECKS[name], offer(target)))
    assert result.status == "failed"
    assert message in result.message


def test_what_trains_on_something_else_than_codes_says_so() -> None:
    results = {name: run_case(Case(check, offer(SaysSo))) for name, check in CHECKS.items()}
    assert results.pop("training_equals_eval").status == "skipped"
    assert {result.status for result in results.values()} == {"passed"}


def test_every_check_on_numbers_has_a_faulty_quantizer_above() -> None:
    (mark,) = [
        mark for mark in test_a_faulty_quantizer_is_caught.pytestmark if mark.args[0] == ("target", "name", "message")
    ]
    assert set(CHECKS) - {name for _, name, _ in mark.args[1]} == {"packed_parts_round_trip"}


def test_options_are_checked_too_and_named() -> None:
    subject = offer(Good, scale="max")
    assert str(subject) == "tests/tried(scale='max')"
    assert run_case(Case(CHECKS["packed_equals_eval"], subject)).status == "passed"


def test_a_quantizer_that_documents_no_gradient_is_skipped_not_passed() -> None:
    result = run_case(Case(CHECKS["gradient_is_as_documented"], offer(DocumentsNoGradient)))
    assert result.status == "skipped" and "expected_gradient" in result.message
