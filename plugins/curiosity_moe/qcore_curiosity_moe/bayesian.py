"""The router ``curiosity_moe/bayesian``: dropout masks tell how sure a route is, and unsure rows lean to more bits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcore.nn.init import skip_init
from qcore.routers import Router, RouterConfig, Routing
from qcore_curiosity_moe import prior
from qcore_curiosity_moe.config import BayesianRouterConfig

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn import PlanBuilder

__all__ = ["BayesianRouter", "UncalibratedRouterWarning"]

LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.95
MOMENTUM = 0.05
ROWS_AT_ONCE = 4096


class UncalibratedRouterWarning(UserWarning):
    """A router was used before it saw training data, so its uncertainty is on a scale it rarely fills."""


class BayesianRouter(Router):
    r"""Route by the mean of M masked passes, tilted towards precision where the passes disagree.

    With masks d1, d2 (Bernoulli, kept units scaled by ``1 / (1 - dropout)``), the same for every row::

        h = relu(A1 x + a1)                                            once
        p^m = softmax(A3 (d2^m * relu(A2 (d1^m * h) + a2)) + a3)       M passes in one batch
        pbar = mean_m p^m
        U = H(pbar) - mean_m H(p^m)                                    nats; or sum_e Var_m p^m_e
        u = clip((U - low) / (high - low), 0, 1)                       low, high: quantiles 0.05, 0.95 of a calibration
        p'_i = pbar_i exp((alpha u + bias) beta_i) / sum_j ...         beta_i = (b_i - b_min) / (b_max - b_min)

    and the k largest of p' are called. No gradient passes through u. Source: arXiv:2511.11743 (v4's precision prior).

    In eval mode the masks are those drawn when the weights were, and are stored with the model; in training each step
    draws new ones, shared by its rows as well. Before any training row was seen, ``low`` and ``high`` are the
    theoretical bounds, which warns once. While training they follow the batches as a moving average; :meth:`calibrate`
    then sets them.

    A row's route in eval mode depends on that row alone. A matrix product rounds differently at each batch size, so
    eval computes in float64 and rounds probabilities and uncertainty to float32: that removes the difference but for
    about one number in ``2**28``, and a decision could change only where the two best probabilities also agree to
    24 bits. Equal probabilities go to the lowest index. Only ``normalisation="batch_minmax"`` breaks this, by design.

    Attributes:
        keep1, keep2: the eval masks, uint8 (passes, hidden[0]) and (passes, hidden[1]).
        low, high: the map of the uncertainty, float32 ().
        fitted: whether they come from data, uint8 ().
        alpha, bias: strength of the prior, and a shift of it that a precision budget sets, float32 ().
        beta: float32 (experts,).
        ramp: factor of alpha in training, float32 (), not stored: a warm-up moves it.
        generator: draws the masks in training.
    """

    Config = BayesianRouterConfig
    keep1: Tensor
    keep2: Tensor
    low: Tensor
    high: Tensor
    fitted: Tensor
    alpha: Tensor
    bias: Tensor
    beta: Tensor
    ramp: Tensor

    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        self.config: BayesianRouterConfig = cast(BayesianRouterConfig, config)
        config = self.config
        first, second = config.hidden
        self.layer1 = skip_init(nn.Linear, config.in_features, first)
        self.layer2 = skip_init(nn.Linear, first, second)
        self.layer3 = skip_init(nn.Linear, second, config.experts)
        self.register_buffer("keep1", torch.ones(config.passes, first, dtype=torch.uint8))
        self.register_buffer("keep2", torch.ones(config.passes, second, dtype=torch.uint8))
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(prior.uncertainty_bound(config.uncertainty, config.experts)))
        self.register_buffer("fitted", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("alpha", torch.tensor(config.alpha))
        self.register_buffer("bias", torch.tensor(0.0))
        bits = config.bits or tuple(range(1, config.experts + 1))
        self.register_buffer("beta", torch.tensor(prior.betas(bits, config.beta if config.bits else "linear")))
        self.register_buffer("ramp", torch.tensor(1.0), persistent=False)
        self.generator = torch.Generator().manual_seed(0)
        self._warned = False
        self.reset_parameters(torch.Generator().manual_seed(0))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw weights (Xavier-uniform, biases zero) and the eval masks anew."""
        for layer in (self.layer1, self.layer2, self.layer3):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.keep1.copy_(self._draw(self.keep1, generator))
        self.keep2.copy_(self._draw(self.keep2, generator))

    def forward(self, x: Tensor) -> Routing:
        """Route ``x``, float (rows, in_features).

        ``extras`` hold ``normalised`` (rows,), the uncertainty u in 0..1, and ``base`` (rows, experts), the
        probabilities before the prior.
        """
        passes, base = self.probabilities(x)
        raw = self.raw_uncertainty(passes.detach())
        if self.training and len(raw):
            self._follow(raw)
        normalised = self.normalise(raw)
        probabilities = self.apply_prior(base, passes, normalised).float()
        extras = {"normalised": normalised.float(), "base": base.float()}
        return Routing(self._weights(probabilities), probabilities, raw.float(), extras)

    def probabilities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the M passes' probabilities (passes, rows, experts) and those before the prior (rows, experts).

        float64 in eval mode, else the dtype of the weights.
        """
        dtype = self.layer1.weight.dtype if self.training else torch.float64
        mask1, mask2 = self._masks(dtype)
        if self.config.base == "mean":
            passes = self._passes(x, mask1, mask2)
            return passes, passes.mean(dim=0)
        passes = self._passes(x, _with_ones(mask1), _with_ones(mask2))
        return passes[1:], passes[0]

    def raw_uncertainty(self, passes: Tensor) -> Tensor:
        """Return U of (passes, rows, experts), (rows,): nats, or total variance."""
        known = self.config.uncertainty == "mutual_information"
        return prior.mutual_information(passes) if known else prior.total_variance(passes)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return u in 0..1 of U (rows,), on float32's grid."""
        if self.config.normalisation == "batch_minmax":
            return prior.batch_minmax(raw)
        if not (self.training or self._warned or torch.compiler.is_compiling() or bool(self.fitted)):
            self._warn()
        return prior.calibrated(raw.float(), self.low, self.high).to(raw.dtype)

    def without_curiosity(self, base: Tensor) -> Tensor:
        """Return what ``alpha = 0`` would give: ``base`` (rows, experts) with the bias alone; without one, itself."""
        return prior.tilt(base, self.bias.to(base.dtype) * self.beta)

    def apply_prior(self, base: Tensor, passes: Tensor, normalised: Tensor) -> Tensor:
        """Return p' (rows, experts) by the rule of the config; alpha and bias 0 give ``base`` itself."""
        alpha = self._strength().to(base.dtype)
        bias = self.bias.to(base.dtype) * self.beta
        if self.config.rule == "sharpen":
            return prior.tilt(prior.sharpen(base, alpha), bias)
        if self.config.rule == "info_gain":
            return prior.tilt(base, alpha * prior.information_gain(passes).detach() + bias)
        return prior.tilt(base, alpha * normalised.detach().unsqueeze(1) * self.beta + bias)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the map of the uncertainty from calibration rows (rows, in_features), as eval mode sees them."""
        training = self.training
        self.eval()
        raw = torch.cat([self.raw_uncertainty(self.probabilities(rows)[0]) for rows in torch.split(x, ROWS_AT_ONCE)])
        self.train(training)
        self._set_range(*prior.quantiles(raw, LOW_QUANTILE, HIGH_QUANTILE), momentum=1.0)

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say the weights in the steps of a plan: float64 as in eval mode, with the sums in another order.

        The options that only the paper's comparisons use have no steps: another ``rule``, the ``deterministic`` base,
        and ``batch_minmax``.
        """
        config = self.config
        plain = (config.rule, config.base, config.normalisation)
        if plain != ("precision_prior", "mean", "calibrated"):
            raise builder.refuse(f"a router with {', '.join(plain)}", "use the packed model without a plan")
        if not (self._warned or bool(self.fitted)):
            self._warn()
        mask1, mask2 = self._masks(torch.float64)
        hidden = builder.masked(builder.relu(builder.lower(self.layer1, x, precise=True)), mask1)
        hidden = builder.masked(builder.relu(builder.lower(self.layer2, hidden, precise=True)), mask2)
        passes = builder.softmax(builder.lower(self.layer3, hidden, precise=True))
        raw = builder.disagreement(passes, config.uncertainty)
        normalised = builder.normalise(raw, float(self.low), float(self.high))
        slope = self.alpha.double() * self.beta.double()
        tilted = builder.tilt(builder.pass_mean(passes), normalised, slope, self.bias.double() * self.beta)
        return builder.choose(tilted, config.k)

    def _passes(self, x: Tensor, mask1: Tensor, mask2: Tensor) -> Tensor:
        dtype = mask1.dtype
        hidden = functional.relu(_linear(x, self.layer1, dtype))
        hidden = functional.relu(_linear(hidden * mask1.unsqueeze(1), self.layer2, dtype))
        return torch.softmax(_linear(hidden * mask2.unsqueeze(1), self.layer3, dtype), dim=-1)

    def _masks(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the masks of both hidden layers, (passes, width), scaled so that their mean is 1."""
        keep1, keep2 = self.keep1, self.keep2
        if self.training:
            keep1, keep2 = self._draw(keep1, self.generator), self._draw(keep2, self.generator)
        scale = 1.0 / (1.0 - self.config.dropout)
        return keep1.to(dtype) * scale, keep2.to(dtype) * scale

    def _draw(self, like: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(like.shape, generator=generator, device=generator.device) >= self.config.dropout
        return drawn.to(device=like.device, dtype=torch.uint8)

    def _strength(self) -> Tensor:
        if not self.training:
            return self.alpha
        return self.alpha * (0.0 if self.config.prior_when == "inference" else self.ramp)

    def choose(self, probabilities: Tensor) -> Tensor:
        """Return the ``k`` most probable experts of each row, int64 (rows, k), the lowest index first in a tie."""
        # A stable sort, as topk() leaves it open which of equal values comes first.
        return probabilities.detach().sort(dim=1, descending=True, stable=True).indices[:, : self.config.k]

    def _weights(self, probabilities: Tensor) -> Tensor:
        chosen = self.choose(probabilities)
        values = probabilities.gather(1, chosen)
        shares = (values / values.sum(dim=1, keepdim=True)).detach()
        if not self.training:
            values = shares
        elif self.config.gate == "straight_through":
            values = values - values.detach() + shares
        return torch.zeros_like(probabilities).scatter(1, chosen, values)

    @torch.no_grad()
    def _follow(self, raw: Tensor) -> None:
        low, high = prior.quantiles(raw, LOW_QUANTILE, HIGH_QUANTILE)
        self._set_range(low, high, momentum=MOMENTUM if bool(self.fitted) else 1.0)

    def _set_range(self, low: Tensor, high: Tensor, *, momentum: float) -> None:
        self.low.lerp_(low.to(self.low.dtype), momentum)
        self.high.lerp_(high.to(self.high.dtype), momentum)
        self.fitted.fill_(1)

    def _warn(self) -> None:
        self._warned = True
        warnings.warn(
            "a curiosity_moe/bayesian router was never trained or calibrated: its uncertainty is divided by the "
            "largest possible one and stays far below 1, so that the prior does next to nothing; call calibrate(x)",
            UncalibratedRouterWarning,
            stacklevel=3,
        )


def _linear(x: Tensor, layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    return functional.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))


def _with_ones(masks: Tensor) -> Tensor:
    """Put a pass without dropout before the masked ones."""
    return torch.cat([torch.ones_like(masks[:1]), masks])
