"""Which modules run one after the other: as an ``nn.Sequential`` says, or a class of its own."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import nn

__all__ = ["chains", "follower", "is_watched", "parts_of"]


def parts_of(module: nn.Module) -> list[str] | None:
    """Return the names of the children that ``module`` runs one after the other and does nothing else; or None.

    So does an ``nn.Sequential``, and a class that says so by ``in_order: ClassVar[tuple[str, ...]]``, unless a subclass
    or the module itself has another ``forward``.
    """
    if "forward" in vars(module):
        return None
    for cls in type(module).__mro__:
        if cls is nn.Sequential:
            return list(module._modules)
        if "in_order" in vars(cls):
            return list(cast(tuple[str, ...], vars(cls)["in_order"]))
        if "forward" in vars(cls):
            return None
    return None


def follower(model: nn.Module, path: str) -> str | None:
    """Return the path of what directly follows ``path`` in an ``nn.Sequential`` of ``model``, or None."""
    parent, _, name = path.rpartition(".")
    sequence = model.get_submodule(parent)
    names = parts_of(sequence) if path and isinstance(sequence, nn.Sequential) else None
    following = dict(pairwise(names or ()))
    return None if name not in following else f"{parent}.{following[name]}".removeprefix(".")


def chains(model: nn.Module) -> list[list[str]]:
    """Return the paths of modules of which each gets what the one before gives, and nobody else does.

    Containers whose parts run in order are taken apart, unless they are watched; chains are as long as can be.
    """
    found: list[list[str]] = []
    found.append(_chain(model, "", found))
    return [chain for chain in found if len(chain) > 1]


def _chain(module: nn.Module, path: str, found: list[list[str]]) -> list[str]:
    """Return what stands in the place of ``module`` in its parent's chain; add the chains within it to ``found``."""
    prefix = f"{path}." if path else ""
    names = parts_of(module)
    if names is None:
        for name, child in module.named_children():
            found.append(_chain(child, f"{prefix}{name}", found))
        return [path]
    joined = [leaf for name in names for leaf in _chain(module.get_submodule(name), f"{prefix}{name}", found)]
    if not is_watched(module):
        return joined
    found.append(joined)
    return [path]


def is_watched(module: nn.Module) -> bool:
    """Return whether ``module`` has hooks, or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
