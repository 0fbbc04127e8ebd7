from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qcore.measure.energy import EnergyMeter, meter


class FakeMonitor:
    """Uses one second and 30 joules for every 100 calls."""

    def __init__(self, gpus: int = 1, cpus: int = 1, watts: float = 1.0) -> None:
        self.gpu_indices, self.cpu_indices = list(range(gpus)), list(range(cpus))
        self.watts, self.calls, self.windows = watts, 0, []  # type: ignore[var-annotated]

    def call(self) -> None:
        self.calls += 1

    def begin_window(self, name: str) -> None:
        assert name not in self.windows
        self.windows.append(name)
        self.calls = 0

    def end_window(self, name: str) -> SimpleNamespace:
        joules = 0.1 * self.calls * self.watts
        return SimpleNamespace(
            time=self.calls / 100, gpu_energy={0: joules}, cpu_energy={0: joules}, dram_energy={0: joules}
        )


def install(monkeypatch: pytest.MonkeyPatch, monitor: Any) -> None:
    package, module = ModuleType("zeus"), ModuleType("zeus.monitor")
    module.ZeusMonitor = monitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus", package)
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)


def test_without_zeus_the_value_is_unknown_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus", None)
    found = meter()
    assert not found.available
    energy = found.measure(lambda: pytest.fail("nothing is to be called"))
    assert energy.value is None and 'pip install "qcore-ml[energy]"' in str(energy.reason)


def test_without_a_readable_counter_the_value_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda: FakeMonitor(gpus=0, cpus=0))
    assert "no readable energy counter" in str(meter().measure(lambda: None).reason)

    def refuse() -> FakeMonitor:
        raise PermissionError("rapl")

    install(monkeypatch, refuse)
    assert "PermissionError: rapl" in str(meter().reason)


def test_all_counters_are_added_up_over_a_long_enough_window(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeMonitor)
    found = meter()
    energy = found.measure(found.monitor.call, seconds=2.0)
    assert energy.value == pytest.approx(0.3) and energy.reason is None
    assert energy.calls >= 200 and energy.seconds is not None and energy.seconds >= 2.0
    assert energy.source == "zeus: GPU 0, CPU 0, DRAM 0"
    assert energy.as_dict()["value"] == energy.value


def test_counters_that_do_not_move_mean_unknown_not_zero() -> None:
    monitor = FakeMonitor(watts=0.0)
    energy = EnergyMeter(monitor).measure(monitor.call)
    assert energy.value is None and "did not move" in str(energy.reason)


def test_a_failing_counter_means_unknown() -> None:
    class Broken(FakeMonitor):
        def end_window(self, name: str) -> SimpleNamespace:
            raise OSError("gone")

    energy = EnergyMeter(Broken()).measure(lambda: None)
    assert energy.value is None and "OSError: gone" in str(energy.reason)


def test_a_failing_model_is_not_blamed_on_the_counter() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        EnergyMeter(FakeMonitor()).measure(fail)
