"""References to quantizers are read as they are written, or refused with what is wrong."""

from __future__ import annotations

import pytest

from qcore.errors import ConfigError, UnknownNameError
from qcore.quantizers import make_quantizer, parse_reference
from qcore.quantizers.config import IntConfig
from qcore.quantizers.integer import IntQuantizer


@pytest.mark.parametrize(
    ("reference", "name", "options"),
    [
        ("core/int", "core/int", {}),
        ("  core/int ( bits = 4 ) ", "core/int", {"bits": 4}),
        ("core/int()", "core/int", {}),
        ("core/int(bits=4, symmetric=False,)", "core/int", {"bits": 4, "symmetric": False}),
        ("x/y(a='row (3)', b=[1, 2.5], c=None, d=-1)", "x/y", {"a": "row (3)", "b": [1, 2.5], "c": None, "d": -1}),
    ],
)
def test_a_reference_is_a_name_and_literal_options(reference: str, name: str, options: dict[str, object]) -> None:
    assert parse_reference(reference) == (name, options)


@pytest.mark.parametrize(
    "reference",
    [
        "core/int(4)",
        "core/int(bits=4",
        "core/int(bits=4))",
        "core/int(bits=4) and more",
        "core/int(bits=4)(bits=3)",
        "core/int(bits=4).x",
        "core/int(bits=4, bits=3)",
        "core/int(**{'bits': 3})",
        "core/int(*[4])",
        "core/int(bits=two)",
        "core/int(bits=__import__('os'))",
        "core/int(bits={[]: 1})",
        "core/int(bits=1 +)",
        "core/int(bits=" + "(" * 5000,
    ],
)
def test_a_reference_that_cannot_be_read_says_how_to_write_one(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"write it like core/int\(bits=4\)"):
        parse_reference(reference)


def test_a_text_a_mapping_and_a_quantizer_name_the_same() -> None:
    text = make_quantizer("core/int(bits=4)")
    mapping = make_quantizer({"quantizer": "core/int", "bits": 4})
    copied = make_quantizer(text)
    assert text.config == mapping.config == copied.config
    assert copied is not text
    assert {q.spec_id for q in (text, mapping, copied)} == {"core/int"}
    assert make_quantizer("int").spec_id == "core/int"


def test_a_mapping_is_not_changed() -> None:
    reference = {"quantizer": "core/int", "bits": 4}
    make_quantizer(reference)
    assert reference == {"quantizer": "core/int", "bits": 4}


def test_a_quantizer_made_by_its_class_is_recognised() -> None:
    assert make_quantizer(IntQuantizer(IntConfig(bits=3))).spec_id == "core/int"


def test_an_unknown_name_lists_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="core/int"):
        make_quantizer("core/itn")


@pytest.mark.parametrize("reference", [4, None, ["core/int"], {"bits": 4}, {"quantizer": 4}])
def test_what_is_no_reference_is_refused(reference: object) -> None:
    with pytest.raises(ConfigError, match="names no quantizer"):
        make_quantizer(reference)  # type: ignore[arg-type]


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="bits"):
        make_quantizer("core/int(bit=4)")
