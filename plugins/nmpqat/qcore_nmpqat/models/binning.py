"""From numbers to tokens: a learned vector for each feature and bin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcore.nn.init import skip_init

__all__ = ["BinnedTokens", "bin_edges"]


class BinnedTokens(nn.Module):
    """A token a feature: the vector of the bin that its value falls into.

    Value ``x`` of feature ``j`` falls into bin ``i`` where ``edges[j, i - 1] < x <= edges[j, i]``; values beyond the
    training part's are in the first or last bin, and NaN is in the last one. Tokens know their feature by their vector.

    Attributes:
        edges: float32 (features, bins - 1), ascending, of the training part; infinity past a feature's last edge.
        embedding: nn.Embedding of (features * bins, dim), row ``j * bins + i``.
    """

    edges: Tensor

    def __init__(self, features: int, bins: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("edges", torch.full((features, bins - 1), torch.inf))
        self.embedding: nn.Embedding = skip_init(nn.Embedding, features * bins, dim)
        nn.init.uniform_(self.embedding.weight, -(dim**-0.5), dim**-0.5, generator=generator)

    def fit(self, x: Tensor) -> None:
        """Set the edges from the training part, (rows, features)."""
        bins = self.edges.shape[1] + 1
        for feature in range(len(self.edges)):
            found = bin_edges(x[:, feature], bins)
            self.edges[feature].fill_(torch.inf)
            self.edges[feature, : len(found)] = found

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, features, dim) for raw features (rows, features)."""
        features, bins = self.edges.shape[0], self.edges.shape[1] + 1
        found = torch.searchsorted(self.edges, x.t().contiguous()).t()
        tokens: Tensor = self.embedding(found + torch.arange(features, device=x.device) * bins)
        return tokens


def bin_edges(values: Tensor, bins: int) -> Tensor:
    """Return the edges, at most ``bins - 1`` and ascending, of bins that hold about as many of ``values`` (rows,) each.

    Of no more different values than bins each gets its own, with edges half-way between neighbours. Otherwise the edges
    are the half-way points beside the ``k / bins`` quantiles, and equal ones are merged: a value that fills several
    bins by itself ends one of them.
    """
    ordered = values.double().sort().values
    distinct = torch.unique_consecutive(ordered)
    if len(distinct) <= bins:
        return _half_way(distinct[:-1], distinct[1:])
    places = torch.arange(1, bins, device=values.device) * len(ordered) // bins
    edges: Tensor = torch.unique_consecutive(_half_way(ordered[places - 1], ordered[places]))
    return edges


def _half_way(low: Tensor, high: Tensor) -> Tensor:
    """Return float32 numbers from ``low`` to below ``high``, both ascending float64 of float32 values."""
    middle = (low + (high - low) / 2).float()
    return torch.where(middle.double() < high, middle, low.float())
