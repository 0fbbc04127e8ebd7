"""Triton decides at its import whether kernels are interpreted, and tests of any suite may import it first."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

if find_spec("triton") is not None and not torch.cuda.is_available():
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language  # noqa: F401

    if before is None:
        del os.environ["TRITON_INTERPRET"]
