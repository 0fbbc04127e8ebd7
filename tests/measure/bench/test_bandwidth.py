from __future__ import annotations

import time

from qcore.measure.bench.bandwidth import read_bandwidth


def test_the_fastest_way_is_reported_with_all_that_were_tried() -> None:
    found = read_bandwidth(time.perf_counter, nbytes=1 << 20, rounds=2)
    assert found.gb_s == max(found.each.values()) > 0
    assert found.how.startswith(max(found.each, key=found.each.__getitem__))
    assert "1 MiB" in found.how
    assert set(found.as_dict()) == {"gb_s", "how", "each"}
