"""How many samples each expert of a model sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

__all__ = ["count_visits", "unvisited"]


@contextmanager
def count_visits(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Count the rows that each expert sees while the context lasts: mixture's path to one count an expert.

    The dictionary is empty where the model has no mixture of experts.
    """
    from qcore.nn import MixtureOfExperts

    mixtures = {path: module for path, module in model.named_modules() if isinstance(module, MixtureOfExperts)}
    counts = {path: [0] * len(mixture.experts) for path, mixture in mixtures.items()}
    handles = [mixture.register_forward_hook(_adder(counts[path])) for path, mixture in mixtures.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def unvisited(visits: Mapping[str, list[int]]) -> list[str]:
    """Return a line for each expert that no training sample reaches."""
    return [
        f"expert {index} of {path or 'the model'} is reached by no training sample"
        for path, counts in visits.items()
        for index, count in enumerate(counts)
        if count == 0
    ]


class _adder:  # noqa: N801 - a hook, used like a function
    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        visits = getattr(module, "visits")()  # noqa: B009 - the hook's signature says nn.Module
        for index, count in enumerate(visits):
            self.counts[index] += count
