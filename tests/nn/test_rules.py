"""Rules: ordered patterns, the first match wins, and a pattern that matches nothing is an error."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from qcore.errors import ConfigError, PatternError
from qcore.nn.rules import assign, parse_rules


class Own(nn.Linear):
    """A subclass: it may do anything in its forward."""


def network() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model = nn.Sequential()
    model.add_module("features", features)
    model.add_module("norm", nn.LayerNorm(4))
    model.add_module("head", nn.Linear(4, 2))
    return model


def chosen(rules: dict[str, Any], model: nn.Module | None = None) -> dict[str, tuple[Any, Any]]:
    return {path: (rule.weight, rule.input) for path, rule in assign(model or network(), rules).items()}


def test_the_first_rule_that_matches_wins() -> None:
    assert chosen({"features.0": None, "features.*": "a", "*": "b"}) == {"features.2": ("a", None), "head": ("b", None)}
    assert chosen({"*": "b", "features.0": None}) == dict.fromkeys(["features.0", "features.2", "head"], ("b", None))


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*", ["features.0", "features.2", "head"]),
        ("head", ["head"]),
        ("features.[02]", ["features.0", "features.2"]),
        ("?ead", ["head"]),
        ("type:Linear", ["head"]),
        ("type:Conv2d", ["features.0", "features.2"]),
        (r"re:features\.\d+", ["features.0", "features.2"]),
        ("re:h.*", ["head"]),
    ],
)
def test_a_pattern_is_a_glob_a_type_or_a_whole_regular_expression(pattern: str, paths: list[str]) -> None:
    assert list(chosen({pattern: "a"})) == paths


@pytest.mark.parametrize("pattern", ["haed", "HEAD", "norm", "features", "type:LayerNorm", "re:hea", "type:linear", ""])
def test_a_pattern_that_matches_no_layer_names_the_layers(pattern: str) -> None:
    with pytest.raises(PatternError, match=r"features\.0 \(Conv2d\).*head \(Linear\)") as caught:
        chosen({"*": "a", pattern: "b"})
    assert caught.value.exit_code == 2
    assert repr(pattern) in str(caught.value)


def test_a_misspelt_path_is_recognised() -> None:
    with pytest.raises(PatternError, match="did you mean 'head'"):
        chosen({"haed": "a"})


def test_a_model_without_float_layers_says_so() -> None:
    with pytest.raises(PatternError, match="quantized already"):
        chosen({"*": "a"}, nn.Sequential(nn.ReLU()))


def test_weight_and_input_are_asked_for_apart_or_together() -> None:
    both = {"weight": "a", "input": "b"}
    assert chosen({"head": both}) == {"head": ("a", "b")}
    assert chosen({"head": {"input": "b"}}) == {"head": (None, "b")}
    mapping = {"quantizer": "core/int", "bits": 4}
    assert chosen({"head": mapping}) == {"head": (mapping, None)}
    assert chosen({"head": {"weight": mapping}}) == {"head": (mapping, None)}
    assert chosen({"head": {"weight": None, "input": None}}) == {}


def test_no_rules_leave_everything_float() -> None:
    assert chosen({}) == {}


def test_a_model_that_is_one_layer_has_the_empty_path() -> None:
    assert list(chosen({"*": "a"}, nn.Linear(2, 2))) == [""]
    assert list(chosen({"type:Linear": "a"}, nn.Linear(2, 2))) == [""]


def test_subclasses_are_left_alone_because_their_forward_may_be_another() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Own(2, 2))
    assert list(chosen({"*": "a"}, model)) == ["0"]
    with pytest.raises(PatternError):
        chosen({"type:Own": "a"}, model)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"head": {"wieght": "a"}}, "did you mean 'weight'"),
        ({"head": 4}, "no rule"),
        ({"head": {}}, "no rule"),
        ({"head": ["a"]}, "no rule"),
        ({"re:(": "a"}, "regular expression"),
        ({3: "a"}, "no pattern"),
        (["head"], "mapping"),
        ("head", "mapping"),
    ],
)
def test_what_is_no_rule_is_refused(rules: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_rules(rules)


def test_a_layer_in_two_places_gets_one_rule() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert list(chosen({"*": "a"}, model)) == ["0", "2"]
    assert chosen({"*": None}, model) == {}
    for rules in ({"0": "a"}, {"2": "a", "0": None}, {"0": "a", "2": "b"}):
        with pytest.raises(ConfigError, match="0 and 2 are one layer"):
            chosen(rules, model)
