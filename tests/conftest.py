"""What all tests share: a hypothesis profile without a clock, and the research data if they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "qcore", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("qcore")


@pytest.fixture(scope="session")
def qcore_data() -> Path:
    """Return the folder of the research data: ``QCORE_DATA``, or ``../shared/data`` beside the repository."""
    named = os.environ.get("QCORE_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no research data: set QCORE_DATA (looked at {folder})")
    return folder
