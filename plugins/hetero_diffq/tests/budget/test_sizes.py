"""Budgets as they are written."""

from __future__ import annotations

import pytest

from qcore_hetero_diffq.budget.sizes import Budget, format_nbytes, parse_budget


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("65536B", 65_536),
        ("120KB", 120_000),
        ("120 kb", 120_000),
        (" 1.5MB ", 1_500_000),
        ("70KiB", 71_680),
        ("1.5MiB", 1_572_864),
        (".5GiB", 536_870_912),
        ("2GB", 2_000_000_000),
        ("1.001KB", 1_001),  # 1.001 * 1000 is 1000.9999999999999
        ("4.1MB", 4_100_000),
        ("1.0005KB", 1_000),
    ],
)
def test_bytes(text: str, nbytes: int) -> None:
    assert parse_budget(text) == Budget(text, nbytes=nbytes)


@pytest.mark.parametrize(("text", "bits"), [("3bit", 3.0), ("1.6 bits", 1.6), ("2.5BIT", 2.5)])
def test_bits(text: str, bits: float) -> None:
    assert parse_budget(text) == Budget(text, bits=bits)


@pytest.mark.parametrize(
    "text",
    ["", "120", "KB", "0KB", "0bit", "-3KB", "1,5MB", "3bits per weight", "1e3KB", "nanKB", "12XB", "1.2.3KB", "0.4B"],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a budget is written like"):
        parse_budget(text)


def test_labels_are_parts_of_names() -> None:
    texts = ("120KB", "1.5 MiB", "3bit", "1.2bit", ".5GB")
    assert [parse_budget(text).label for text in texts] == ["120kb", "1_5mib", "3bit", "1_2bit", "5gb"]


def test_sizes_are_printed_in_units_of_1000() -> None:
    found = [format_nbytes(nbytes) for nbytes in (0, 9_999, 10_000, 123_456, 12_345_678)]
    assert found == ["0 bytes", "9,999 bytes", "10.0 kB", "123.5 kB", "12.35 MB"]
