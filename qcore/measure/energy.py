"""Energy: measured through a hardware counter where there is one, else unknown; and apart from it, a model of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.measure.modelled import ModelledEnergy

__all__ = ["Energy", "EnergyMeter", "meter", "modelled_energy"]

_NO_ZEUS = 'zeus is not installed (pip install "qcore-ml[energy]")'


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Measured energy of one call, or the reason why it is unknown; never 0 for unknown.

    Attributes:
        value: joules a call, of all counters together, the idle share of the devices included; or None.
        reason: why ``value`` is None.
        calls: how many calls the counters ran over.
        seconds: how long.
        source: which counters.
    """

    value: float | None = None
    reason: str | None = None
    calls: int = 0
    seconds: float | None = None
    source: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


class EnergyMeter:
    """Reads energy counters around calls.

    Attributes:
        monitor: a ``zeus.monitor.ZeusMonitor`` that sees at least one counter, or None.
        reason: why there is no monitor.
    """

    def __init__(self, monitor: Any = None, reason: str | None = None) -> None:
        self.monitor = monitor
        self.reason = reason if monitor is None else None
        self._windows = count()

    @property
    def available(self) -> bool:
        """Whether anything can be measured."""
        return self.monitor is not None

    def measure(self, call: Callable[[], Any], *, seconds: float = 1.0, max_calls: int = 100_000) -> Energy:
        """Return the energy of one ``call``, averaged over as many as take at least ``seconds``.

        Counters tick some ten to a thousand times a second, so that one short call would read as nothing.
        """
        if self.monitor is None:
            return Energy(reason=self.reason or "there is no energy counter")
        calls = 1
        while True:
            try:
                window = self._begin()
            except Exception as error:  # zeus and the drivers below it are foreign code
                return _failed(error)
            for _ in range(calls):
                call()
            try:
                found = self.monitor.end_window(window)
            except Exception as error:  # as above
                return _failed(error)
            if found.time >= seconds or calls >= max_calls:
                return _energy(found, calls)
            calls = min(max_calls, max(2 * calls, int(1.2 * calls * seconds / max(found.time, 1e-6))))

    def _begin(self) -> str:
        window = f"qcore-{next(self._windows)}"
        self.monitor.begin_window(window)
        return window


def meter() -> EnergyMeter:
    """Return a meter that measures if zeus is installed and finds a readable counter, and else says why it cannot."""
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return EnergyMeter(reason=_NO_ZEUS)
    try:
        monitor = ZeusMonitor()
    except Exception as error:  # zeus and the drivers below it are foreign code
        return EnergyMeter(reason=f"zeus cannot read a counter: {type(error).__name__}: {error}")
    if not monitor.gpu_indices and not monitor.cpu_indices:
        return EnergyMeter(reason="zeus finds no readable energy counter (RAPL counters need permission to be read)")
    return EnergyMeter(monitor)


def modelled_energy(model: nn.Module, inputs: Tensor) -> ModelledEnergy:
    """Run ``model`` on ``inputs`` and price its arithmetic; see :func:`qcore.measure.modelled.modelled_energy`."""
    from qcore.measure import modelled

    return modelled.modelled_energy(model, inputs)


def _failed(error: Exception) -> Energy:
    return Energy(reason=f"zeus failed while measuring: {type(error).__name__}: {error}")


def _energy(found: Any, calls: int) -> Energy:
    joules, source = _total(found)
    if joules <= 0.0:
        return Energy(reason="the energy counters did not move", calls=calls, seconds=found.time, source=source)
    return Energy(value=joules / calls, calls=calls, seconds=found.time, source=source)


def _total(found: Any) -> tuple[float, str]:
    """Return the joules of all devices in a zeus measurement, and their names."""
    parts = {"GPU": found.gpu_energy, "CPU": found.cpu_energy, "DRAM": found.dram_energy}
    present = {name: energies for name, energies in parts.items() if energies}
    joules = float(sum(sum(energies.values()) for energies in present.values()))
    return joules, "zeus: " + ", ".join(f"{name} {', '.join(map(str, e))}" for name, e in present.items())
