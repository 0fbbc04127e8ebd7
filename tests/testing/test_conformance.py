"""The core keeps its own promises."""

from __future__ import annotations

from qcore.plugins import Framework
from qcore.testing import conformance

test_conformance = conformance("core", framework=Framework(load=False))
