"""Linear layers whose input has a clip and a width for each column, for backends to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qcore.tensor import ActivationScheme, Columns
from qcore.tensor.columns import GRIDS
from qcore.testing.backend_problems import Problem, Scales, coded_weight, problem
from qcore.testing.inputs import generator, normal

__all__ = ["column_scheme", "columned"]

WIDTHS = ((4,), (8,), (4, 8), (16,), (4, 8, 16))
SHAPES: tuple[tuple[int, int], ...] = ((1, 1), (7, 13), (33, 127), (80, 200))


def column_scheme(widths: Tensor, clip: Tensor, *, symmetric: bool) -> ActivationScheme:
    """Return the scheme of columns of ``widths`` (cols,), 4, 8 or 16 bits, clipped at ``clip``, float32 (cols,).

    The grid has 8 bits if no column has 16. A unit of code is worth ``1 / largest code of the grid``.
    """
    bits = 16 if bool((widths > 8).any()) else 8
    top = GRIDS[bits, symmetric]
    own = {4: 7 if symmetric else 15, 8: GRIDS[8, symmetric], 16: GRIDS[16, symmetric]}
    largest = torch.tensor([[own[width] for width in widths.tolist()]], dtype=torch.float32)
    scale = torch.full((1, 1), 1 / top)
    return ActivationScheme(
        bits, symmetric, per_token=False, columns=Columns(largest / clip[None], largest, top / largest, scale)
    )


def columned() -> Iterator[Problem]:
    """Yield integer linear layers with such inputs, among them those whose codes are all at their ends."""
    for i, widths in enumerate(WIDTHS):
        for symmetric in (False, True):
            for shape in SHAPES:
                scheme = _scheme(widths, shape[1], symmetric=symmetric)
                x = 1.5 * normal(((1, 3, 17)[i % 3], shape[1]), torch.float32, seed=i)
                yield _problem(("int", "odd", "uint", "ternary")[i % 4], shape, x, scheme, widths)
            wide = torch.full((2, 4099), 3.0)
            wide[1] *= -1
            scheme = _scheme(widths, 4099, symmetric=symmetric)
            for encoding, end in (("uint", 1.0), ("int", 0.0), ("odd", 1.0)):
                yield _problem(encoding, (3, 4099), wide, scheme, widths, fill=end)
    mixed = coded_weight("odd", torch.tensor([1, 2, 4, 8] * 9)[:33], (33, 127), "row")
    for widths in ((4, 8), (4, 8, 16)):
        scheme = _scheme(widths, 127, symmetric=False)
        yield problem(
            mixed, normal((5, 127), torch.float32), scheme, name=f"odd of mixed bits, columns of {widths} bits"
        )


def _scheme(widths: tuple[int, ...], cols: int, *, symmetric: bool) -> ActivationScheme:
    drawn = generator(cols)
    chosen = torch.tensor(widths)[torch.randint(0, len(widths), (cols,), generator=drawn)]
    return column_scheme(chosen, 0.1 + 2 * torch.rand(cols, generator=drawn), symmetric=symmetric)


def _problem(
    encoding: str,
    shape: tuple[int, int],
    x: Tensor,
    scheme: ActivationScheme,
    widths: tuple[int, ...],
    *,
    fill: float | None = None,
) -> Problem:
    bits = 2 if encoding == "ternary" else 8 if fill is not None else 4
    scales: Scales = "tensor" if fill is not None else "row"
    weight = coded_weight(encoding, bits, shape, scales, fill=fill)
    if fill is not None and weight.zero_point is not None:
        weight = replace(weight, zero_point=torch.zeros_like(weight.zero_point))
    kind = "signed" if scheme.symmetric else "unsigned"
    return problem(weight, x, scheme, name=f"{encoding} of {bits} bits, {kind} columns of {widths} bits")
