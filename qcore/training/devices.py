"""Fabric: devices and ranks. The import of lightning-fabric is heavy and happens here alone."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Literal

from qcore.errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Precision", "make_fabric", "world_size"]

Precision = Literal["32-true", "bf16-mixed"]


def world_size() -> int:
    """Return how many processes torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_fabric(accelerator: str = "cpu", precision: Precision = "32-true") -> Fabric:
    """Return a launched Fabric: one device, or under torchrun DDP over all ranks; ``precision`` as in RunConfig.

    Raises:
        UsageError: there is no such accelerator here.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its import sets another
    ranks = world_size()
    try:
        if ranks == 1:
            fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        else:
            local = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
            # An expert that a batch never visits has no gradient in that step.
            strategy = DDPStrategy(find_unused_parameters=True)
            fabric = Fabric(
                accelerator=accelerator,
                devices=local,
                num_nodes=ranks // local,
                strategy=strategy,
                precision=precision,
            )
    except (ImportError, RuntimeError, ValueError) as error:
        raise UsageError(f"accelerator {accelerator!r} cannot be used: {error}", "try --device cpu") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric.launch()
    return fabric
