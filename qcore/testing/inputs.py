"""The tensors that checks are made on: seeded random ones, and a fixed list of hard ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from qcore.testing.cases import expect

__all__ = ["DTYPES", "activations", "generator", "normal", "random_state_kept", "same_bits", "weights"]

DTYPES = (torch.float32, torch.bfloat16)

_MATRICES = ((1, 1), (1, 7), (7, 1), (3, 5), (4, 8), (5, 13), (17, 33), (8, 64))
_KERNELS = ((2, 3, 3, 3), (4, 1, 5, 5), (3, 2, 1, 1))
_INPUT_SHAPES = ((1, 1), (1, 7), (7, 1), (3, 5), (5, 64), (2, 3, 9), (0, 5))


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def weights(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor): shapes down to one element and up to convolutions, and hard values."""
    for seed, shape in enumerate((*_MATRICES, *_KERNELS)):
        yield f"normal {shape}", normal(shape, dtype, seed)
    yield from _hard(dtype)


def activations(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor): batches of rows, of sequences, an empty batch, and hard values."""
    for seed, shape in enumerate(_INPUT_SHAPES):
        yield f"normal {shape}", normal(shape, dtype, seed)
    yield from _hard(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether shapes, dtypes and all bits agree; 0.0 and -0.0 count as the same number."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Fail a check whose body reads or sets a global random state: torch's, numpy's or Python's."""
    before = _random_states()
    yield
    for (name, state), after in zip(before.items(), _random_states().values(), strict=True):
        expect(state == after, f"the global random state of {name} was used or set")


def _random_states() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - read, to see that nobody uses it
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(numpy_state),
        "Python": random.getstate(),
    }


def _hard(dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    x = normal((6, 12), torch.float32, seed=99)
    some_zero = x.clone()
    some_zero[1] = 0.0
    some_zero[4, 1:] = 0.0
    magnitudes = torch.logspace(-30, 30, 61).reshape(1, -1)
    signs = torch.where(torch.arange(61) % 2 == 0, 1.0, -1.0)
    values = {
        "all zero": torch.zeros(4, 6),
        "rows of zeros among others": some_zero,
        "constant": torch.full((3, 5), 0.7),
        "negative constant": torch.full((3, 5), -0.7),
        "all negative": -x.abs() - 0.1,
        "all positive": x.abs() + 0.1,
        "far from zero": x * 1e-3 + 100.0,
        "huge": x * 1e30,
        "tiny": x * 1e-30,
        "denormal": x * 1e-40,
        "1e-30 to 1e30 in one row": torch.cat([magnitudes * signs, x.new_ones(2, 61)]),
        "1e-30 to 1e30 row by row": x * torch.logspace(-30, 30, 6).reshape(-1, 1),
        "one outlier": torch.cat([x[:, :-1] * 1e-3, x[:, -1:] * 1e4], dim=1),
        "halves, which tie in rounding": torch.arange(-24, 24).reshape(4, 12) * 0.5,
        "two values": torch.where(x > 0, 1.0, -1.0),
        "transposed": x.t(),
        "every second column": x[:, ::2],
        "expanded": x[:1].expand(5, -1),
    }
    for name, value in values.items():
        yield name, value.to(dtype)
