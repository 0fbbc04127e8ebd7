"""qcore: a plugin framework for quantized deep learning.

Attributes load on first use, so importing qcore imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcore.api import get
    from qcore.errors import QcoreError
    from qcore.export import inspect, load, save
    from qcore.hookspecs import hookimpl
    from qcore.nn import calibrate, compile_plan, explain, pack, quantize
    from qcore.plugins import Framework
    from qcore.quantizers import Quantizer
    from qcore.registry import (
        BackendSpec,
        ExporterSpec,
        MethodSpec,
        ModelSpec,
        QuantizerSpec,
        RouterSpec,
        TaskSpec,
    )
    from qcore.routers import Router
    from qcore.runs import compare, run

_HOME = {
    "BackendSpec": "qcore.registry",
    "ExporterSpec": "qcore.registry",
    "Framework": "qcore.plugins",
    "MethodSpec": "qcore.registry",
    "ModelSpec": "qcore.registry",
    "QcoreError": "qcore.errors",
    "Quantizer": "qcore.quantizers",
    "QuantizerSpec": "qcore.registry",
    "Router": "qcore.routers",
    "RouterSpec": "qcore.registry",
    "TaskSpec": "qcore.registry",
    "calibrate": "qcore.nn",
    "compare": "qcore.runs",
    "compile_plan": "qcore.nn",
    "explain": "qcore.nn",
    "get": "qcore.api",
    "hookimpl": "qcore.hookspecs",
    "inspect": "qcore.export",
    "load": "qcore.export",
    "pack": "qcore.nn",
    "quantize": "qcore.nn",
    "run": "qcore.runs",
    "save": "qcore.export",
}

__all__ = [
    "BackendSpec",
    "ExporterSpec",
    "Framework",
    "MethodSpec",
    "ModelSpec",
    "QcoreError",
    "Quantizer",
    "QuantizerSpec",
    "Router",
    "RouterSpec",
    "TaskSpec",
    "__version__",
    "calibrate",
    "compare",
    "compile_plan",
    "explain",
    "get",
    "hookimpl",
    "inspect",
    "load",
    "pack",
    "quantize",
    "run",
    "save",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'qcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
