"""The compiled kernels: whether they load here, and what this processor runs."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from qcore.errors import UsageError, did_you_mean

__all__ = ["ISA_VARIABLE", "UNTRIED", "chosen_isa", "instruction_sets", "load"]

ISA_VARIABLE = "QCORE_CPU_ISA"
"""Environment variable that forces an instruction set, such as ``avx2``."""

UNTRIED = ("avxvnni",)
"""Instruction sets whose kernels are tested in another encoding alone: never chosen unasked."""


@cache
def load() -> tuple[Any, str | None]:
    """Return the compiled module and None, or None and why it does not load."""
    try:
        return importlib.import_module("qcore_backend_cpu._kernels"), None
    except ImportError as error:  # built for another Python or C library, or not built
        return None, f"the compiled kernels do not load: {error}"


def instruction_sets() -> dict[str, bool]:
    """Return the instruction sets that run here, best first; the value says whether it may be chosen unasked."""
    module, _ = load()
    return {name: automatic for name, supported, automatic in module.instruction_sets() if supported}


def chosen_isa() -> str:
    """Return the instruction set to prepare weights for: unasked, the best that was run on such a processor.

    Raises:
        UsageError: ``QCORE_CPU_ISA`` names one that this processor does not have.
    """
    available = instruction_sets()
    forced = os.environ.get(ISA_VARIABLE)
    if not forced:
        return next(name for name, automatic in available.items() if automatic)
    if forced not in available:
        raise UsageError(f"{ISA_VARIABLE}={forced}: this processor does not run it", did_you_mean(forced, available))
    return forced
