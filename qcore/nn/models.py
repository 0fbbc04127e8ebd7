"""Registered networks: built by name and config, so that a file can rebuild them without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qcore.plugins import default
from qcore.registry import Registry

__all__ = ["Architecture", "architecture_of", "build_model"]


@dataclass(frozen=True)
class Architecture:
    """How to build a network again: a registered model's id, and its config as JSON data."""

    model: str
    config: dict[str, Any]


def build_model(
    name: str,
    config: Mapping[str, Any],
    generator: torch.Generator | None = None,
    registry: Registry | None = None,
) -> nn.Module:
    """Build the registered network ``name`` and note on it how it was built.

    Args:
        name: id or bare name of a model.
        config: its options.
        generator: where the initial weights are drawn from; None: one of seed 0.
        registry: where the name is looked up; None for the default framework's.
    """
    spec = (registry or default().registry).get("model", name)
    checked = spec.make_config(config)
    generator = generator or torch.Generator().manual_seed(0)
    model: nn.Module = spec.load()(checked, generator)
    model.architecture = Architecture(spec.id, {} if checked is None else checked.model_dump(mode="json"))  # type: ignore[assignment]
    return model


def architecture_of(model: nn.Module) -> Architecture | None:
    """Return how ``model`` was built, or None if it did not come from the registry."""
    architecture = getattr(model, "architecture", None)
    return architecture if isinstance(architecture, Architecture) else None
