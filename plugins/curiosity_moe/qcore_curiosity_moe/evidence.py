"""Evidence per sample: who took it, at what precision, and how uncertain the route was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcore.routers import Routing
from qcore_curiosity_moe.bayesian import BayesianRouter
from qcore_curiosity_moe.models import CascadeNetwork, Mixture

__all__ = ["observe_cascade", "observe_mixture"]

ROWS_AT_ONCE = 512


@torch.no_grad()
def observe_mixture(model: Mixture, inputs: Tensor, bits: Sequence[float]) -> dict[str, Tensor]:
    """Return what the router decided for each of ``inputs`` (rows, features).

    Keys: ``expert`` int64, ``expert_bits`` (of several experts: weighted mean), ``probabilities`` (rows, experts), and
    where the router knows them ``uncertainty`` (nats), ``uncertainty_normalised`` (0..1) and
    ``expert_without_curiosity``, that of ``alpha = 0``.
    """
    router = model.moe.router
    parts = [_of_routing(router(model.scaler(rows)), bits) for rows in torch.split(inputs, ROWS_AT_ONCE)]
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    if isinstance(router, BayesianRouter):
        plain = router.without_curiosity(found.pop("base").double()).float()
        found["expert_without_curiosity"] = router.choose(plain)[:, 0]
    return found


def _of_routing(routing: Routing, bits: Sequence[float]) -> dict[str, Tensor]:
    widths = torch.tensor(list(bits), dtype=torch.float32, device=routing.weights.device)
    found = {
        "expert": routing.experts,
        "expert_bits": routing.weights @ widths,
        "probabilities": routing.probabilities,
    }
    if routing.uncertainty is not None:
        found["uncertainty"] = routing.uncertainty
    if "normalised" in routing.extras:
        found["uncertainty_normalised"] = routing.extras["normalised"]
        found["base"] = routing.extras["base"]
    return found


@torch.no_grad()
def observe_cascade(model: CascadeNetwork, inputs: Tensor, bits: Sequence[float]) -> dict[str, Tensor]:
    """Return the stage that answered each row (``expert``), its ``expert_bits``, and the first stage's ``margin``."""
    parts = [model.cascade.escalate(model.scaler(rows)) for rows in torch.split(inputs, ROWS_AT_ONCE)]
    stages = torch.cat([stage for _, stage, _ in parts])
    widths = torch.tensor(list(bits), dtype=torch.float32, device=stages.device)
    return {"expert": stages, "expert_bits": widths[stages], "margin": torch.cat([first for _, _, first in parts])}
