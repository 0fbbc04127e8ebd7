"""Build the network that a file names, without trusting the sizes that the file states."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qcore.errors import ModelFileError
from qcore.export.format import ModelFile
from qcore.foreign import ForeignError, guarded
from qcore.nn.models import build_model
from qcore.registry import Registry

__all__ = ["build_network"]

_ELEMENTS = 1 << 26, 64
"""Elements that building may ask torch for: so many, and so many more a byte of the file. One bit is the least that a
weight takes, and filling it in takes a few calls."""
_CALLS = 1 << 12, 64
"""Calls to torch that building may make: so many, and so many more a tensor of the file."""


def build_network(file: ModelFile, registry: Registry) -> nn.Module:
    """Build the float twin of the network in ``file``.

    Raises:
        ModelFileError: the network is not a registered one, cannot be built, or is larger than the file could fill.
    """
    architecture = file.architecture
    if architecture is None:
        raise ModelFileError(
            f"{file.path} holds a network that is not a registered one",
            "load it into its float twin: qcore.load(path, model=twin)",
        )
    name = architecture["id"]
    limit = _Limit(_ELEMENTS[0] + _ELEMENTS[1] * file.nbytes, _CALLS[0] + _CALLS[1] * len(file.tensors))
    try:
        with limit:
            return guarded("build", lambda: build_model(name, architecture["config"], registry=registry))
    except ForeignError as error:
        raise ModelFileError(f"{file.path}: its network {name} cannot be built: {error.reason}") from error


class _Limit(TorchDispatchMode):
    """Counts the calls to torch and the elements that it is asked for, before it allocates them."""

    def __init__(self, elements: int, calls: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements, self.calls = elements, calls

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        self.elements -= max([0, *(_elements(argument) for argument in (*args, *options.values()))])
        self.calls -= 1
        if min(self.elements, self.calls) < 0:
            raise ModelFileError("it is larger than the file could fill")
        return func(*args, **options)


def _elements(argument: object) -> int:
    """Return the elements of a tensor of that size, if ``argument`` is one."""
    if isinstance(argument, list | tuple) and all(isinstance(length, int) for length in argument):
        return math.prod(argument)
    return 0
