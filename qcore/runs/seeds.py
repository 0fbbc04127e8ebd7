"""Seeds of a job: the same for all arms of one fold and seed, so that arms are compared in pairs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derived_seed", "job_generator"]


def derived_seed(seed: int, fold: int, purpose: str) -> int:
    """Return 63 bits of ``sha256("seed/fold/purpose")``: stable over versions and machines."""
    digest = hashlib.sha256(f"{seed}/{fold}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def job_generator(seed: int, fold: int, purpose: str) -> torch.Generator:
    """Return a CPU generator with that seed; ``purpose`` is ``init`` or ``train``."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, fold, purpose))
