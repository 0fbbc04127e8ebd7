"""Whether a kernel may take a tensor by its address: nobody records what is done, and the memory holds its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["WATCHERS", "is_plain", "is_recorded"]


def _one() -> int:
    return 1


# torch tells of these only inside; what a release lacks is asked in another way, or unknown.
_is_compiling = torch.compiler.is_compiling
_is_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)  # type: ignore[attr-defined]
_count_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _one)
_count_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", _one)
_has_key: Callable[[Any], bool] = getattr(torch._C, "_dispatch_tls_is_dispatch_key_included", lambda key: False)
WATCHERS = (_is_tracing, _count_dispatch_modes, _count_function_modes)
"""What :func:`is_recorded` asks first, besides whether torch compiles. Where all say no, so does it: a call that counts
each tenth of a microsecond asks them itself."""

_PRE_DISPATCH = getattr(getattr(torch._C, "DispatchKey", None), "PreDispatch", None)


def is_recorded(*, unknown: bool = True) -> bool:
    """Return whether torch compiles, exports or traces, or a dispatch mode looks at each operation.

    What reads memory by its address is no operation, and would be missing from what they see. A layer asks at each
    call, so that this costs as little as can be.

    Args:
        unknown: the answer where torch does not tell whether there is a dispatch mode.
    """
    if _is_compiling() or _is_tracing():
        return True
    if _count_dispatch_modes():
        return unknown or _count_dispatch_modes is not _one
    # Before dispatch there is no such mode yet, but one of functions.
    return _count_function_modes() > 0 and _PRE_DISPATCH is not None and _has_key(_PRE_DISPATCH)


def is_plain(x: Tensor) -> bool:
    """Return whether a kernel may read ``x`` by its address.

    Not so for subclasses, for what stands for another tensor's numbers (under functorch, or with a negative or a
    conjugate bit), without memory of its own or without elements, and while :func:`is_recorded`.
    """
    if is_recorded() or type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta or x.is_neg() or x.is_conj():
        return False
    try:
        return x.data_ptr() != 0
    except RuntimeError:  # a wrapper of functorch
        return False
