from __future__ import annotations

from pathlib import Path

import pytest

from qcore.measure.bench import machine
from qcore.measure.bench.machine import last_level_nbytes, machine_facts


def test_facts_name_what_is_installed_and_nothing_else() -> None:
    facts = machine_facts(["pluggy", "no-such-distribution"])
    assert facts["cpu"] and facts["cores"] and facts["python"]
    assert {"torch", "numpy", "pluggy"} == set(facts["versions"])


def test_the_largest_cache_is_the_last_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, size in enumerate(("32K", "1M", "33M", "?")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    assert last_level_nbytes() == 33 << 20
    monkeypatch.setattr(machine, "_CPU", tmp_path / "absent")
    assert last_level_nbytes() == machine.ASSUMED_CACHE
