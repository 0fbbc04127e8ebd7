from __future__ import annotations

import pytest

from qcore.errors import UsageError
from qcore.measure.bench.plan import Shape, Weight, parse_counts, parse_sample, parse_weights


def test_a_shape_is_read_as_input_and_output_features() -> None:
    assert Shape.parse("2560x6912") == Shape(2560, 6912)
    assert Shape.parse(" 16 X 8 ") == Shape(16, 8)
    assert str(Shape(16, 8)) == "16 -> 8"


@pytest.mark.parametrize("text", ["", "16", "16x", "16x0", "axb", "16x8x4", "-1x8", "99999999x1"])
def test_what_is_no_shape_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="2560x6912"):
        Shape.parse(text)


def test_weights_are_read_from_a_list_and_each_counts_once() -> None:
    assert parse_weights("ternary, 4,8,4") == (Weight(None), Weight(4), Weight(8))
    assert parse_weights("4", 128, float_input=True) == (Weight(4, 128, True),)
    names = [str(weight) for weight in (Weight(None), Weight(4), Weight(4, 128), Weight(4, None, True))]
    assert names == ["ternary", "4 bit", "4 bit, g128", "4 bit, float input"]


@pytest.mark.parametrize(("text", "group"), [("9", None), ("0", None), ("ternery", None), (" ,", None), ("4", 0)])
def test_impossible_weights_are_refused(text: str, group: int | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_weights(text, group)
    assert text != "ternery" or "'ternary'" in str(caught.value)


def test_counts_and_samples_are_read() -> None:
    assert parse_counts("1, 8,8", "--batch") == (1, 8)
    assert parse_sample("64") == (64,)
    assert parse_sample("3x32X32") == (3, 32, 32)


@pytest.mark.parametrize("text", ["", "0", "1,a", "1.5"])
def test_impossible_counts_are_refused_by_the_name_of_their_option(text: str) -> None:
    with pytest.raises(UsageError, match="--batch"):
        parse_counts(text, "--batch")


def test_an_impossible_sample_is_refused() -> None:
    for text in ("", "3x", "3xa", "0"):
        with pytest.raises(UsageError, match="--input"):
            parse_sample(text)
