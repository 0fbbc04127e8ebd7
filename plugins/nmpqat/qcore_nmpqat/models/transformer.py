"""``nmpqat/tabular_transformer``: a small transformer over the features of a table's row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.nn import Dropout, ScaledNetwork, init
from qcore_nmpqat.models.binning import BinnedTokens

if TYPE_CHECKING:
    from qcore_nmpqat.models.config import TabularTransformerConfig

__all__ = ["EncoderLayer", "TabularTransformer", "build_transformer"]


class EncoderLayer(nn.Module):
    """Attention between the tokens and a hidden layer for each, both behind a LayerNorm and added to their input.

    Each projection is a linear layer of its own, so that rules can quantize it and each neuron has a row.

    Attributes:
        q, k, v, o: of the attention, (dim, dim).
        ff1, ff2: (feedforward, dim) and (dim, feedforward), with a ReLU between them.
    """

    def __init__(self, config: TabularTransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(dim)
        self.q = init.linear(dim, dim, generator)
        self.k = init.linear(dim, dim, generator)
        self.v = init.linear(dim, dim, generator)
        self.o = init.linear(dim, dim, generator)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff1 = init.linear(dim, config.feedforward, generator)
        self.ff2 = init.linear(config.feedforward, dim, generator)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, tokens, dim)."""
        x = x + self.dropout(self.o(self.attend(self.attention_norm(x))))
        hidden = F.relu(self.ff1(self.ff_norm(x)))
        out: Tensor = x + self.dropout(self.ff2(hidden))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Return ``softmax(q k^T / sqrt(dim / heads)) v`` of each head, side by side: (rows, tokens, dim)."""
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def split(self, x: Tensor) -> Tensor:
        """Return (rows, heads, tokens, dim / heads)."""
        rows, tokens, dim = x.shape
        return x.reshape(rows, tokens, self.heads, dim // self.heads).transpose(1, 2)


class TabularTransformer(ScaledNetwork):
    """Tokens of binned features, encoder layers, a LayerNorm, the mean over tokens (or a token of its own), a head.

    A small and documented stand-in for TabFormer, as which arXiv:2605.25054 names its second network without its sizes,
    tokens or head: I. Padhi et al., "Tabular Transformers for Modeling Multivariate Time Series", ICASSP 2021, of which
    it has the quantile bins and the attention between fields. Differences: norms come before the sublayers, the hidden
    layer has a ReLU (low-bit activations then need no sign), all features are binned alike, and there is one encoder
    rather than one for fields and one for rows in time.

    Takes raw features, (rows, in_features). The bins are those of the training part, set by ``fit_scalers``; before
    that every value is in the first one.

    Attributes:
        tokens: BinnedTokens; stays float, as do norms, softmax and head.
        start: the token of its own, (dim,), or None.
        layers: EncoderLayer.
        head: linear.
    """

    def __init__(self, config: TabularTransformerConfig, generator: torch.Generator) -> None:
        outputs = config.out_features
        super().__init__(config.in_features, standardize=False, rescale=config.rescale, outputs=outputs)
        self.tokens = BinnedTokens(config.in_features, config.bins, config.dim, generator)
        self.start = None
        if config.pool == "cls":
            bound = config.dim**-0.5
            self.start = nn.Parameter(torch.empty(config.dim).uniform_(-bound, bound, generator=generator))
        self.layers = nn.ModuleList(EncoderLayer(config, generator) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = init.linear(config.dim, outputs, generator)

    def fit_scalers(self, inputs: Tensor, targets: Tensor) -> None:
        """Set bins and output scaling from the training part: inputs (rows, features), targets (rows, ...)."""
        super().fit_scalers(inputs, targets)
        self.tokens.fit(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, out_features)."""
        tokens: Tensor = self.tokens(x)
        if self.start is not None:
            tokens = torch.cat([self.start.expand(len(tokens), 1, -1), tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        pooled = tokens.mean(dim=1) if self.start is None else tokens[:, 0]
        out: Tensor = self.rescale(self.head(self.norm(pooled)))
        return out


def build_transformer(config: TabularTransformerConfig, generator: torch.Generator) -> TabularTransformer:
    """Build ``nmpqat/tabular_transformer``, initialised from ``generator``."""
    return TabularTransformer(config, generator)
