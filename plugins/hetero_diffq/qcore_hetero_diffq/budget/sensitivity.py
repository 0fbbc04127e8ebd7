"""How much a squared error of each row of weights counts: by its gradients, by its size, or in between."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcore.tensor.integer import TINY

__all__ = ["error_weights"]


def error_weights(
    fisher: Mapping[str, Tensor], energies: Mapping[str, Tensor], numbers: Mapping[str, int], trust: float
) -> dict[str, Tensor]:
    """Return what a unit of squared error in each row of each layer costs.

    ``fisher**trust * even**(1 - trust)``: ``even`` lets the same relative squared error of a row cost the same for each
    of its numbers, wherever it is. The second-order estimate holds for small errors; with few bits they are not, and
    rows that hardly mattered one by one are missed together. ``even`` knows nothing of the loss and spreads bits as a
    single width does. Its scale is the one at which both agree over all numbers in the geometric mean.

    Args:
        fisher: mean squared gradients of a sample's loss, float64 (rows or 1,), by path.
        energies: sums of squares, float64 (rows or 1,).
        numbers: how many there are in a row.
        trust: 1, the gradients alone, to 0, sizes alone.
    """
    if trust == 1:
        return dict(fisher)
    even = {path: numbers[path] / energy.clamp_min(TINY) for path, energy in energies.items()}
    gap, count = 0.0, 0
    for path, found in fisher.items():
        known = (found > 0) & (energies[path] > 0)
        gap += numbers[path] * float((found[known] / even[path][known]).log().sum())
        count += numbers[path] * int(known.sum())
    scale = torch.tensor(gap / max(count, 1), dtype=torch.float64).exp()
    return {path: found.pow(trust) * (even[path] * scale).pow(1 - trust) for path, found in fisher.items()}
