"""Configs of routers. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RouterConfig", "TopKConfig", "UniformConfig"]


class RouterConfig(BaseModel):
    """Base of every router's config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int = Field(ge=1, description="features of a sample")
    experts: int = Field(ge=1, description="experts to choose from")


class TopKConfig(RouterConfig):
    """Options of ``core/topk``."""

    hidden: tuple[int, ...] = Field((), description="widths of hidden layers, none by default")
    k: int = Field(1, ge=1, description="experts a sample")


class UniformConfig(RouterConfig):
    """Options of ``core/uniform``."""
