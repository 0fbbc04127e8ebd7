from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcore.errors import QcoreError, UsageError
from qcore.measure import latency
from qcore.measure.latency import interleaved_latency

BATCH = torch.zeros(4, 3)


def test_models_take_turns_and_warm_up_first() -> None:
    order: list[str] = []
    found = interleaved_latency(
        {"a": lambda x: order.append("a"), "b": lambda x: order.append("b")}, BATCH, calls=5, warmup=2
    )
    assert order == ["a", "b"] * 7
    assert {name: (one.calls, one.batch, one.reason) for name, one in found.items()} == {
        "a": (5, 4, None),
        "b": (5, 4, None),
    }


def test_percentiles_are_those_of_the_timed_calls_in_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [9_000_000, *(1000 * k for k in range(1, 102))]
    clock = iter([tick for k in taken for tick in (0, k)])
    monkeypatch.setattr(latency, "perf_counter_ns", lambda: next(clock))
    one = interleaved_latency({"a": lambda x: x}, BATCH, calls=101, warmup=1)["a"]
    assert (one.p50, one.p90, one.p99, one.mean) == (51.0, 91.0, 100.0, 51.0)
    assert one.std == pytest.approx(29.3, abs=0.01)


def test_calls_get_the_batch_and_no_gradient() -> None:
    weight = torch.ones(3, requires_grad=True)
    seen: list[bool] = []

    def model(x: Tensor) -> Tensor:
        assert x is BATCH
        y = x * weight
        seen.append(y.requires_grad)
        return y

    interleaved_latency({"a": model}, BATCH, calls=2, warmup=0)
    assert seen == [False, False]


def test_several_batches_are_taken_in_turns_and_are_the_same_for_all_models() -> None:
    batches = [torch.zeros(1, 3), torch.ones(1, 3)]
    seen: dict[str, list[float]] = {"a": [], "b": []}
    models = {name: (lambda x, name=name: seen[name].append(float(x[0, 0]))) for name in seen}
    found = interleaved_latency(models, batches, calls=3, warmup=1)
    assert seen == {"a": [0.0, 1.0, 0.0, 1.0], "b": [0.0, 1.0, 0.0, 1.0]}
    assert found["a"].batch == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes"), QcoreError("static range")])
def test_a_model_that_fails_has_a_reason_and_hurts_no_other(error: Exception) -> None:
    def broken(x: Tensor) -> Tensor:
        raise error

    found = interleaved_latency({"broken": broken, "good": lambda x: x}, BATCH, calls=3, warmup=1)
    assert found["broken"].p50 is None and str(error) in str(found["broken"].reason)
    assert found["good"].calls == 3
    assert found["broken"].as_dict()["calls"] == 0


def test_impossible_numbers_of_calls_are_refused() -> None:
    for calls, warmup in ((1, 0), (5, -1)):
        with pytest.raises(UsageError):
            interleaved_latency({}, BATCH, calls=calls, warmup=warmup)
