"""Other libraries' low-bit layers, each a small adapter that is imported when it is used and never required."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from qcore.errors import UnknownNameError, UsageError, did_you_mean
from qcore.foreign import ForeignError, guarded
from qcore.measure.bench.machine import package_version

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.measure.bench.contenders import Contender

__all__ = ["PEERS", "Peer", "choose_peers", "enter", "peer_versions"]

T = TypeVar("T")

_HERE = "qcore.measure.bench.peers"


@dataclass(frozen=True)
class Peer:
    """A library's way to run a linear layer, or a whole model, in few bits.

    Attributes:
        name: for ``--peers``.
        label: for the table.
        packages: import names that it needs; the first is a name for ``--peers`` too.
        target: ``"module:function"`` of ``(module, x, threads) -> Contender``.
        models: whether it takes whole models; else a linear layer alone.
        devices: where it runs.
    """

    name: str
    label: str
    packages: tuple[str, ...]
    target: str
    models: bool = False
    devices: tuple[str, ...] = ("cpu",)


_ANY = ("cpu", "cuda")
_GPU = ("cuda",)

PEERS = (
    Peer("fbgemm", "torch dynamic int8, fbgemm", ("torch",), f"{_HERE}.torch_int8:fbgemm", models=True),
    Peer("onednn", "torch dynamic int8, onednn", ("torch",), f"{_HERE}.torch_int8:onednn", models=True),
    Peer("int_mm", "torch _int_mm (codes only)", ("torch",), f"{_HERE}.torch_int8:int_mm", devices=_ANY),
    Peer(
        "torchao-int8", "torchao dynamic int8", ("torchao",), f"{_HERE}.torchao:dynamic_int8", models=True, devices=_ANY
    ),
    Peer("ort-int8", "onnxruntime dynamic int8", ("onnxruntime", "onnx"), f"{_HERE}.onnxruntime:dynamic_int8"),
    Peer("ort-4bit", "onnxruntime 4 bit, g128", ("onnxruntime", "onnx"), f"{_HERE}.onnxruntime:four_bit"),
    Peer("ort-2bit", "onnxruntime 2 bit, g128", ("onnxruntime", "onnx"), f"{_HERE}.onnxruntime:two_bit"),
    Peer("openvino-int8", "OpenVINO int8, dynamic", ("openvino",), f"{_HERE}.openvino:eight_bit"),
    Peer("openvino-4bit", "OpenVINO 4 bit, g128, dynamic", ("openvino",), f"{_HERE}.openvino:four_bit"),
    Peer("torchao-w8", "torchao 8 bit, float input", ("torchao",), f"{_HERE}.torchao:eight_bit", devices=_GPU),
    Peer("torchao-w4", "torchao 4 bit, g128, float input", ("torchao",), f"{_HERE}.torchao:four_bit", devices=_GPU),
    Peer("bnb-w8", "bitsandbytes LLM.int8", ("bitsandbytes",), f"{_HERE}.bitsandbytes:eight_bit", devices=_GPU),
    Peer("bnb-nf4", "bitsandbytes NF4", ("bitsandbytes",), f"{_HERE}.bitsandbytes:four_bit", devices=_GPU),
    Peer("gemlite-w4", "gemlite 4 bit, g128", ("gemlite",), f"{_HERE}.gemlite:four_bit", devices=_GPU),
    Peer("gemlite-w2", "gemlite 2 bit, g128", ("gemlite",), f"{_HERE}.gemlite:two_bit", devices=_GPU),
    Peer("gemlite-int8", "gemlite dynamic int8", ("gemlite",), f"{_HERE}.gemlite:dynamic_int8", devices=_GPU),
)


def choose_peers(names: str | None = None, device: str = "cpu") -> tuple[Peer, ...]:
    """Return the peers of a list of names or packages such as ``"fbgemm,onnxruntime"``; all of them for None.

    Args:
        names: the list; of a package those that run on the device.
        device: the kind of device.

    Raises:
        UnknownNameError: no peer has that name or package.
        UsageError: none of it runs on the device.
    """
    here = tuple(peer for peer in PEERS if device in peer.devices)
    if names is None:
        return here
    wanted = [word.strip() for word in names.split(",") if word.strip()]
    known = sorted({peer.name for peer in PEERS} | {peer.packages[0] for peer in PEERS})
    for word in wanted:
        if word not in known:
            raise UnknownNameError(f"--peers: there is no peer {word!r}", did_you_mean(word, known))
        if not any(word in (peer.name, peer.packages[0]) for peer in here):
            raise UsageError(f"--peers: {word} does not run on {device}")
    return tuple(peer for peer in here if peer.name in wanted or peer.packages[0] in wanted)


def enter(peer: Peer, module: nn.Module, x: Tensor, threads: int) -> Contender | str:
    """Return what ``peer`` makes of ``module`` for the input ``x``, or why it is left out."""
    try:
        absent = guarded("import", lambda: [name for name in peer.packages if importlib.util.find_spec(name) is None])
        if absent:
            return f"not installed (pip install {' '.join(absent)})"
        made = guarded("build", lambda: _silently(lambda: _load(peer)(module, x, threads)))
        return replace(made, name=peer.label, again=lambda: _silently(made.again))
    except ForeignError as error:
        return f"failed: {error.reason}"


def peer_versions(peers: tuple[Peer, ...]) -> dict[str, str]:
    """Return the installed packages of ``peers`` with their versions."""
    names = dict.fromkeys(name for peer in peers for name in peer.packages)
    found = {name: package_version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def _load(peer: Peer) -> Callable[[nn.Module, Tensor, int], Contender]:
    module, _, function = peer.target.partition(":")
    build: Callable[[nn.Module, Tensor, int], Contender] = getattr(importlib.import_module(module), function)
    return build


def _silently(work: Callable[[], T]) -> T:
    """Return ``work()``; warnings of deprecations and missing extras, which no user of ours can mend, are held back."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    finally:
        logging.disable(before)
