from __future__ import annotations

import pytest

from qcore.training.phases import CosinePart


def test_parts_of_a_cosine_join() -> None:
    whole = CosinePart(0, 1)
    assert (whole(0.0), whole(1.0)) == (1, pytest.approx(0))
    for share in (0.0, 0.3, 1.0):
        assert CosinePart(0.2, 0.6)(share) == pytest.approx(whole(0.2 + 0.4 * share))
