from __future__ import annotations

import importlib.util
import logging
import sys
import warnings

import pytest
import torch
from torch import nn

from qcore.errors import UnknownNameError, UsageError
from qcore.measure.bench import peers as room
from qcore.measure.bench.contenders import Contender, deviation
from qcore.measure.bench.peers import PEERS, Peer, choose_peers, enter, peer_versions
from qcore.nn.init import linear

MINE = Peer("mine", "my library", ("torch",), f"{__name__}:build")


@pytest.fixture
def layer() -> nn.Linear:
    return linear(256, 24, torch.Generator().manual_seed(0)).eval().requires_grad_(False)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("peer", choose_peers(), ids=lambda peer: peer.name)
def test_a_peer_computes_the_layer_or_says_what_is_missing(peer: Peer, batch: int, layer: nn.Linear) -> None:
    x = torch.randn(batch, 256, generator=torch.Generator().manual_seed(1))
    engine = torch.backends.quantized.engine
    with torch.inference_mode():
        made = enter(peer, layer, x, threads=1)
        if isinstance(made, str):
            assert not all(importlib.util.find_spec(name) for name in peer.packages), made
            assert made.startswith("not installed (pip install ")
            pytest.skip(made)
        assert made.name == peer.label and made.kind == "peer"
        expected = layer(x) if made.expected is None else made.expected
        assert deviation(made.read(made.call()), expected) < 0.05
        made.again()()
    assert 24 * 256 // 4 <= made.weight_nbytes < 4 * 24 * 256
    assert torch.backends.quantized.engine == engine


@pytest.mark.parametrize("peer", [peer for peer in choose_peers() if peer.models], ids=lambda peer: peer.name)
def test_a_peer_for_models_takes_a_whole_network(peer: Peer, layer: nn.Linear) -> None:
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(24, 8)).eval().requires_grad_(False)
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        made = enter(peer, network, x, threads=1)
        if isinstance(made, str):
            pytest.skip(made)
        assert deviation(made.read(made.call()), network(x)) < 0.1
    assert all(isinstance(network[place], nn.Linear) for place in (0, 2))


def test_an_absent_library_is_named_with_the_command_that_brings_it(
    layer: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (peer,) = choose_peers("ort-4bit")
    assert str(enter(peer, layer, torch.ones(1, 256), 1)).startswith("not installed (pip install onnxruntime")


def test_a_library_that_fails_is_left_out_with_the_reason(layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(module: nn.Module, x: torch.Tensor, threads: int) -> Contender:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(sys.modules[__name__], "build", build, raising=False)
    monkeypatch.setattr(room.importlib, "import_module", lambda name: sys.modules[__name__])
    assert "failed: ImportError: undefined symbol" in str(enter(MINE, layer, torch.ones(1, 256), 1))


def test_what_libraries_complain_about_is_held_back_and_nothing_of_it_stays(
    layer: nn.Linear, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def build(module: nn.Module, x: torch.Tensor, threads: int) -> Contender:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=2)
        logging.getLogger("theirs").warning("an extra is missing")
        return Contender(kind="peer", call=lambda: x, again=lambda: lambda: x, weight_nbytes=1)

    monkeypatch.setattr(sys.modules[__name__], "build", build, raising=False)
    monkeypatch.setattr(room.importlib, "import_module", lambda name: sys.modules[__name__])
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(enter(MINE, layer, torch.ones(1, 256), 1), Contender)
    assert not caplog.records
    assert logging.root.manager.disable == before


def test_peers_are_chosen_by_name_or_by_package() -> None:
    assert choose_peers() == tuple(peer for peer in PEERS if "cpu" in peer.devices)
    assert {"int_mm", "bnb-nf4"} <= {peer.name for peer in choose_peers(device="cuda")} < {peer.name for peer in PEERS}
    assert {peer.name for peer in choose_peers("torchao")} == {"torchao-int8"}
    assert len(choose_peers("torchao", "cuda")) == 3
    with pytest.raises(UsageError, match="gemlite does not run on cpu"):
        choose_peers("gemlite")
    assert choose_peers("") == ()
    assert {peer.name for peer in choose_peers("fbgemm,onnxruntime")} == {"fbgemm", "ort-int8", "ort-4bit", "ort-2bit"}
    with pytest.raises(UnknownNameError, match="fbgem"):
        choose_peers("fbgem")


def test_names_are_unique_and_versions_are_those_installed() -> None:
    assert len({peer.name for peer in PEERS}) == len({peer.label for peer in PEERS}) == len(PEERS)
    assert "torch" in peer_versions(PEERS)
