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

_ELEMENTS_A_BYTE = 64
"""Elements that building may ask for per byte of the file: one bit is the least that a weight takes, and filling it in
takes a few calls."""
_SMALLEST = 1 << 26
_A_CALL = 1024
"""Elements that each call counts for at least, so that endless many small tensors end too."""


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
    limit = _Limit(max(_SMALLEST, _ELEMENTS_A_BYTE * file.nbytes))
    try:
        with limit:
            return guarded("build", lambda: build_model(name, architecture["config"], registry=registry))
    except ForeignError as error:
        raise ModelFileError(f"{file.path}: its network {name} cannot be built: {error.reason}") from error


class _Limit(TorchDispatchMode):
    """Counts the elements that torch is asked for, before it allocates them."""

    def __init__(self, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = elements

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        self.left -= max([_A_CALL, *(_elements(argument) for argument in (*args, *options.values()))])
        if self.left < 0:
            raise ModelFileError("it is larger than the file could fill")
        return func(*args, **options)


def _elements(argument: object) -> int:
    """Return the elements of a tensor of that size, if ``argument`` is one."""
    if isinstance(argument, list | tuple) and all(isinstance(length, int) for length in argument):
        return math.prod(argument)
    return 0
