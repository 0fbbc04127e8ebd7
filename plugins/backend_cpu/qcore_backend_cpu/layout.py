"""What Python knows of the prepared weight's layout: constants of the C++ ``layout.hpp``."""

from __future__ import annotations

__all__ = ["LONGEST_SEGMENT", "Input"]

LONGEST_SEGMENT = 65536
"""Columns of which one integer sum fits 32 bits, whatever the codes."""


class Input:
    """How a block's input comes; the values of the C++ ``Input``."""

    DYNAMIC, FIXED, CODED, REAL, COLUMNS = range(5)
