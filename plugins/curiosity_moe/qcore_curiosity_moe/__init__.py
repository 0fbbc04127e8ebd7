"""Curiosity-driven mixture of experts for qcore: uncertainty routes samples to experts of different precision.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, ModelSpec, RouterSpec

__all__ = ["qcore_methods", "qcore_models", "qcore_routers"]

__version__ = "0.1.0"

_PAPER = "Uncertainty Makes It Stable: Curiosity-Driven Quantized Mixture-of-Experts, arXiv:2511.11743"


@hookimpl
def qcore_routers() -> list[RouterSpec]:
    """Return the router."""
    return [
        RouterSpec(
            name="bayesian",
            target="qcore_curiosity_moe.bayesian:BayesianRouter",
            summary="dropout masks tell how sure the route is; unsure rows lean to experts of higher precision",
            reference=_PAPER,
            config="qcore_curiosity_moe.config:BayesianRouterConfig",
            uncertainty=True,
        )
    ]


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the networks that a model file can name."""
    return [
        _model("mixture", "experts of one shape behind a router"),
        _model("cascade", "networks in turn, until one is sure by its softmax margin"),
        _model("ensemble", "the mean of the probabilities of several networks"),
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the method."""
    return [
        MethodSpec(
            name="curiosity_moe",
            target="qcore_curiosity_moe.method:CuriosityMoE",
            summary="a mixture of quantized experts routed by uncertainty, against its experts and simpler rules",
            reference=_PAPER,
            config="qcore_curiosity_moe.config:CuriosityMoEConfig",
        )
    ]


def _model(name: str, summary: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        target=f"qcore_curiosity_moe.models:{name}",
        summary=summary,
        reference=_PAPER,
        config=f"qcore_curiosity_moe.config:{name.capitalize()}Config",
    )
