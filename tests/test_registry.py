from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from qcore.errors import ConfigError, PluginError, UnknownNameError, UsageError
from qcore.registry import KINDS, ExporterSpec, QuantizerSpec, Registry, RouterSpec, TaskSpec


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bits: Annotated[int, Field(ge=1, le=8)] = 8
    granularity: str = "row"

    @model_validator(mode="after")
    def _agree(self) -> Options:
        if self.granularity == "never":
            raise ValueError("granularity is never 'never'")
        return self


class Thing:
    spec_id = ""

    def __init__(self, config: Options) -> None:
        self.config = config


class Bare:
    pass


def write(path: object) -> None: ...


def quantizer(name: str = "thing", **more: object) -> QuantizerSpec:
    fields = {"name": name, "target": f"{__name__}:Thing", "config": Options, "summary": "for tests", **more}
    return QuantizerSpec(**fields)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    registry = Registry()
    registry.commit(
        [quantizer(), quantizer("ternary"), RouterSpec(name="thing", target="a:B", summary="a router")], plugin="one"
    )
    registry.commit([quantizer("ternary"), quantizer("binary", bits=(1.0,))], plugin="two", version="2.0")
    return registry


def _this_module() -> object:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


def test_a_full_id_and_a_bare_name_that_one_plugin_offers_both_resolve(registry):
    assert registry.get("quantizer", "one/thing").id == "one/thing"
    assert registry.get("quantizer", "binary").id == "two/binary"
    assert registry.get("quantizers", "binary").id == "two/binary"


def test_one_name_in_two_kinds_is_two_things(registry):
    assert registry.get("router", "thing").kind == "router"
    assert registry.get("quantizer", "thing").kind == "quantizer"


def test_a_bare_name_that_two_plugins_offer_lists_their_ids(registry):
    with pytest.raises(UsageError, match="one/ternary, two/ternary"):
        registry.get("quantizer", "ternary")


def test_an_unknown_name_lists_the_close_matches(registry):
    with pytest.raises(UnknownNameError, match="did you mean .*'two/binary'") as caught:
        registry.get("quantizer", "two/binery")
    assert caught.value.exit_code == 2
    assert "pip install" not in str(caught.value)


def test_an_unknown_name_says_how_many_plugins_failed(registry):
    registry.failed = 2
    with pytest.raises(UnknownNameError, match="2 plugins failed to load: see 'qcore plugins'"):
        registry.get("quantizer", "nothing_like_it")


def test_an_id_of_a_plugin_that_is_not_there_says_what_might_bring_it(registry):
    with pytest.raises(UnknownNameError, match="if it belongs .* pip install qcore-third-party"):
        registry.get("quantizer", "third_party/quarter")


def test_a_bare_method_may_be_a_plugin_that_is_not_there(registry):
    with pytest.raises(UnknownNameError, match="pip install qcore-new-paper"):
        registry.get("method", "new_paper")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("quantizer", "new_paper")
    assert "pip install" not in str(caught.value)


def test_an_id_of_a_known_plugin_names_its_distribution(registry):
    registry.known["third_party"] = "tp-quant"
    with pytest.raises(UnknownNameError, match="install it with: pip install tp-quant"):
        registry.get("quantizer", "third_party/quarter")


def test_an_id_of_an_absent_plugin_gives_the_reason_it_is_absent(registry):
    registry.absent["third_party"] = "disabled by QCORE_PLUGINS"
    with pytest.raises(PluginError, match="disabled by QCORE_PLUGINS") as caught:
        registry.get("quantizer", "third_party/quarter")
    assert caught.value.exit_code == 3


def test_an_unknown_kind_lists_the_kinds(registry):
    with pytest.raises(UnknownNameError, match="did you mean 'quantizer'"):
        registry.get("quantiser", "thing")


def test_listings_are_sorted_and_hold_what_the_kind_has(registry):
    ids = [spec.id for spec in registry.list("quantizer")]
    assert ids == sorted(ids)
    row = registry.get("quantizer", "binary").listing()
    assert row == {
        "name": "two/binary",
        "kind": "quantizer",
        "plugin": "two",
        "summary": "for tests",
        "reference": "",
        "bits": [1.0],
        "granularity": [],
        "tensors": ["weight"],
    }
    assert {spec.kind for spec in registry.list()} == {"quantizer", "router"}
    assert registry.list("task") == []


def test_a_commit_with_one_bad_spec_adds_none(registry):
    before = [spec.id for spec in registry.list()]
    with pytest.raises(PluginError, match="registered twice"):
        registry.commit([quantizer("fresh"), quantizer("same"), quantizer("same")], plugin="three")
    with pytest.raises(PluginError, match="registered twice"):
        registry.commit([quantizer("fresh"), quantizer("thing")], plugin="one")
    with pytest.raises(PluginError, match="not a spec"):
        registry.commit([quantizer("fresh"), "nonsense"], plugin="three")
    assert [spec.id for spec in registry.list()] == before


def test_making_validates_the_config_and_says_which_spec_it_was(registry):
    made = registry.make("quantizer", "one/thing", bits=3)
    assert (made.config.bits, made.spec_id) == (3, "one/thing")


def test_all_problems_of_a_config_are_told_at_once_with_the_nearest_keys(registry):
    with pytest.raises(ConfigError) as caught:
        registry.make("quantizer", "one/thing", bit=3, granularity=5, bits=99)
    text = str(caught.value)
    assert "3 problems in the options of one/thing" in text
    assert "bit: unknown option; did you mean 'bits'?" in text
    assert "got 5" in text and "got 99" in text
    assert caught.value.exit_code == 2


def test_a_problem_between_fields_reads_as_a_sentence(registry):
    with pytest.raises(ConfigError, match=r"\(all\): granularity is never 'never'"):
        registry.make("quantizer", "one/thing", granularity="never")


def test_what_has_no_config_takes_no_options(registry):
    registry.commit([TaskSpec(name="bare", target=f"{__name__}:Bare", summary="no config")], plugin="three")
    assert type(registry.make("task", "bare")).__name__ == "Bare"
    with pytest.raises(ConfigError, match="takes no options, got: data"):
        registry.make("task", "bare", data="x")


def test_an_exporter_is_returned_and_not_called(registry):
    registry.commit([ExporterSpec(name="writer", target=f"{__name__}:write", summary="a function")], plugin="three")
    assert registry.make("exporter", "writer").__name__ == "write"


@pytest.mark.parametrize("target", ["module_that_is_nowhere:Thing", "json:NoSuchThing"])
def test_a_target_that_cannot_be_imported_names_the_spec(target, registry):
    registry.commit([quantizer("lost", target=target)], plugin="three")
    with pytest.raises(PluginError, match="three/lost names .* cannot be imported"):
        registry.make("quantizer", "lost")


def test_each_kind_has_its_own_spec_class():
    assert set(KINDS) == {"quantizer", "router", "backend", "method", "task", "model", "exporter"}
    assert len(set(KINDS.values())) == len(KINDS)
