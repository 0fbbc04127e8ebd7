from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcore.tensor.codecs import CODECS, PackN
from qcore.testing import codec_checks
from qcore.testing.cases import Case, checks_of, run_case

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(codec_checks)}


class LosesTheLast(PackN):
    def decode(self, data: Tensor, bits: int, cols: int) -> Tensor:
        codes = super().decode(data, bits, cols)
        codes[:, 17:18] = 0
        return codes


class PromisesMore(PackN):
    def row_nbytes(self, cols: int, bits: int) -> int:
        return super().row_nbytes(cols, bits) + 1


class AlignsTheWhole(PackN):
    """Rows lean on the row before them."""

    def encode(self, codes: Tensor, bits: int) -> Tensor:
        return super().encode(codes, bits).cumsum(dim=0).to(torch.uint8)

    def decode(self, data: Tensor, bits: int, cols: int) -> Tensor:
        first = torch.zeros_like(data[:1])
        return super().decode(torch.diff(data, dim=0, prepend=first), bits, cols)


class SharesItsCodes(PackN):
    def encode(self, codes: Tensor, bits: int) -> Tensor:
        return codes if bits == 8 else super().encode(codes, bits)


class ReadsMemory(PackN):
    def encode(self, codes: Tensor, bits: int) -> Tensor:
        return super().encode(codes.as_strided(codes.shape, (codes.shape[1], 1)), bits)


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_cores_codecs_pass(check, codec) -> None:
    assert run_case(Case(check, codec)).status == "passed"


@pytest.mark.parametrize(
    ("codec", "check"),
    [
        (LosesTheLast(), "round_trip_is_exact"),
        (PromisesMore(), "row_nbytes_is_what_is_stored"),
        (AlignsTheWhole(), "rows_stand_alone"),
        (SharesItsCodes(), "codes_are_untouched"),
        (ReadsMemory(), "strides_do_not_matter"),
    ],
)
def test_a_faulty_codec_is_caught(codec, check) -> None:
    result = run_case(Case(CHECKS[check], codec))
    assert result.status == "failed" and "bits" in result.message
