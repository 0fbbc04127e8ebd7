from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from qcore.errors import ConfigError
from qcore.registry import QuantizerSpec, RouterSpec
from qcore.testing.variants import GIVEN, variants


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"name": "own"}]})

    mode: Literal["a", "b"] = "a"
    flag: bool = False
    bits: int = Field(default=2, ge=1, le=3)
    many: int = Field(default=2, ge=1, le=1000)
    maybe: Literal["x"] | None = None
    name: str = ""


class Grouped(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    granularity: Literal["tensor", "group", "never"] = "tensor"
    group_size: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Grouped:
        if self.granularity == "never" or (self.granularity == "group") != (self.group_size is not None):
            raise ValueError("no")
        return self


class Needy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: int
    secret: int


class Sized(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int
    experts: int


def spec(model: type[BaseModel] | None) -> QuantizerSpec:
    return QuantizerSpec(name="q", target="m:Q", summary="", config=model, plugin="p")


def test_an_offer_without_options_has_one_variant() -> None:
    assert variants(spec(None)) == [{}]


def test_every_choice_of_every_option_is_taken_once_and_examples_are_added() -> None:
    found = variants(spec(Options))
    assert found[0] == {}
    assert {"name": "own"} in found
    for change in ({"mode": "b"}, {"flag": True}, {"bits": 1}, {"bits": 3}, {"maybe": "x"}):
        assert change in found
    assert len(found) == 7


def test_a_group_gets_a_size_and_invalid_choices_are_left_out() -> None:
    assert variants(spec(Grouped)) == [{}, {"granularity": "group", "group_size": 4}]


def test_sizes_that_interfaces_need_are_given() -> None:
    router = RouterSpec(name="r", target="m:R", summary="", config=Sized, plugin="p")
    assert variants(router) == [{"in_features": GIVEN["in_features"], "experts": GIVEN["experts"]}]


def test_an_option_without_default_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ConfigError, match="secret"):
        variants(spec(Needy))
