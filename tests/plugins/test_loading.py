from __future__ import annotations

import sys

import pytest

HEAD = """
from qcore import MethodSpec, QuantizerSpec, RouterSpec, hookimpl

def spec(name="plain", **more):
    return QuantizerSpec(**{"name": name, "target": "a.b:C", "summary": "for tests", **more})

"""

BROKEN = {
    "raises_at_import": ("raise ValueError('no luck')", "import", "no luck"),
    "lacks_a_module": ("import module_that_is_nowhere", "import", "module_that_is_nowhere"),
    "exits_at_import": ("import sys; sys.exit(3)", "import", "SystemExit"),
    "has_bad_syntax": ("def (", "import", "SyntaxError"),
    "misspells_a_hook": ("@hookimpl\ndef qcore_quantisers(): return []", "hooks", "did you mean 'qcore_quantizers'"),
    "misspells_specname": (
        "@hookimpl(specname='qcore_router')\ndef f(): return []",
        "hooks",
        "did you mean 'qcore_routers'",
    ),
    "forgets_to_mark": ("def qcore_quantizers(): return []", "hooks", "@hookimpl"),
    "has_no_hooks": ("x = 1", "hooks", "offers nothing"),
    "wants_an_argument": ("@hookimpl\ndef qcore_routers(wish): return []", "hooks", "wish"),
    "wraps_a_hook": ("@hookimpl(wrapper=True)\ndef qcore_routers():\n    return (yield)", "hooks", "wrapper"),
    "hook_raises": ("@hookimpl\ndef qcore_routers(): raise KeyError('oops')", "specs", "oops"),
    "hook_exits": ("@hookimpl\ndef qcore_routers(): raise SystemExit", "specs", "SystemExit"),
    "returns_none": ("@hookimpl\ndef qcore_routers(): pass", "specs", "got None"),
    "returns_text": ("@hookimpl\ndef qcore_routers(): return 'topk'", "specs", "got a str"),
    "returns_a_bare_spec": ("@hookimpl\ndef qcore_quantizers(): return spec()", "specs", "got a QuantizerSpec"),
    "returns_classes": ("@hookimpl\ndef qcore_quantizers(): return [int]", "specs", "it contains a type"),
    "returns_another_kind": ("@hookimpl\ndef qcore_routers(): return [spec()]", "specs", "list of RouterSpec"),
    "repeats_a_name": ("@hookimpl\ndef qcore_quantizers(): return [spec(), spec()]", "specs", "registered twice"),
    "shouts": ("@hookimpl\ndef qcore_quantizers(): return [spec('Loud')]", "specs", "lower-case"),
    "numbers_its_name": ("@hookimpl\ndef qcore_quantizers(): return [spec(7)]", "specs", "must be text"),
    "has_a_vague_target": ("@hookimpl\ndef qcore_quantizers(): return [spec(target='a.b')]", "specs", "target"),
    "has_a_vague_config": ("@hookimpl\ndef qcore_quantizers(): return [spec(config='a.b')]", "specs", "config"),
    "has_no_model": ("@hookimpl\ndef qcore_quantizers(): return [spec(config={'bits': 2})]", "specs", "config"),
    "raises_the_unprintable": (
        "class E(Exception):\n    def __str__(self): raise E\nraise E",
        "import",
        "exception str() failed",
    ),
    "says_nothing": ("@hookimpl\ndef qcore_quantizers(): return [spec(summary=' ')]", "specs", "one line"),
    "cannot_be_listed": ("@hookimpl\ndef qcore_quantizers(): return [spec(bits=(1j,))]", "specs", "cannot print"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_fails_alone_with_its_stage_and_reason(name, publish, load):
    source, stage, reason = BROKEN[name]
    publish(name, HEAD + source)
    publish("zz_healthy")
    framework = load(name, "zz_healthy")
    states = {status.name: status for status in framework.plugins}
    assert (states[name].status, states[name].stage) == ("failed", stage)
    assert reason in states[name].reason
    assert "\n" not in states[name].reason
    assert states["zz_healthy"].status == "loaded"
    assert not framework.pm.has_plugin(name)
    assert not [spec for spec in framework.registry if spec.plugin == name]
    assert framework.registry.failed == 1


def test_a_plugin_that_fails_in_its_last_hook_leaves_nothing_of_its_first(publish, load):
    publish(
        "half",
        HEAD + "@hookimpl\ndef qcore_quantizers(): return [spec()]\n@hookimpl\ndef qcore_tasks(): return [spec('b')]",
    )
    framework = load("half")
    assert "half/plain" not in framework.registry.specs["quantizer"]
    assert not any(
        implementation.plugin_name == "half" for implementation in framework.pm.hook.qcore_quantizers.get_hookimpls()
    )


def test_the_reason_says_which_file_and_line_raised(publish, load):
    publish("located", "\n\nraise ValueError('here')")
    (line,) = load("located").warnings()
    assert "(qcore_located_module.py:3)" in line and "qcore-located 1.0" in line


def test_ctrl_c_during_an_import_is_not_swallowed(publish, load):
    publish("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("slow")


def test_what_a_plugin_prints_at_import_does_not_reach_stdout(publish, load, capsys):
    publish("chatty", HEAD + "print('hello')\n@hookimpl\ndef qcore_quantizers():\n    print('again')\n    return []")
    assert load("chatty").require("chatty").status == "loaded"
    captured = capsys.readouterr()
    assert captured.out == "" and "hello" in captured.err and "again" in captured.err


def test_a_plugin_may_be_an_object_in_a_module(publish, load):
    source = HEAD + "class P:\n    @hookimpl\n    def qcore_quantizers(self): return [spec()]\nplugin = P()"
    publish("objective", source, entry_points="[qcore.plugins.v1]\nobjective = qcore_objective_module:plugin\n")
    status = load("objective").require("objective")
    assert status.specs == ("quantizer:objective/plain",)
    assert status.file.endswith("qcore_objective_module.py")


def test_a_plugin_that_imports_torch_is_slow_but_loads(publish, load):
    publish("heavy", HEAD + "import torch\n@hookimpl\ndef qcore_quantizers(): return [spec(bits=(2,))]")
    assert load("heavy").require("heavy").status == "loaded"


def test_a_pydantic_model_may_be_given_as_the_config_itself(publish, load):
    publish(
        "modelled",
        HEAD
        + "from pydantic import BaseModel\nclass C(BaseModel, extra='forbid'):\n    bits: int = 2\n"
        + "@hookimpl\ndef qcore_quantizers(): return [spec(config=C)]",
    )
    spec = load("modelled").registry.get("quantizer", "modelled/plain")
    assert spec.make_config({"bits": 3}).bits == 3


def test_specs_carry_the_plugin_they_came_from(publish, load):
    publish("signed", version="4.2")
    spec = load("signed").registry.get("quantizer", "signed/plain")
    assert (spec.plugin, spec.distribution, spec.version) == ("signed", "qcore-signed", "4.2")


def test_two_frameworks_do_not_share_anything(publish, load):
    publish("shared")
    first, second = load("shared"), load()
    assert first.registry is not second.registry and first.pm is not second.pm
    assert "shared/plain" in first.registry.specs["quantizer"]
    assert "shared/plain" not in second.registry.specs["quantizer"]
    assert "qcore_shared_module" in sys.modules
