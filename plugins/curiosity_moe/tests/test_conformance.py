from __future__ import annotations

from qcore.testing import conformance

test_conformance = conformance("curiosity_moe")
