"""The choice of a backend: the best that can, with a reason for every one that cannot."""

from __future__ import annotations

import pytest
import torch

from qcore.backends import Backend, Kernel, KernelRequest, Probe, choose, find_backends
from qcore.backends.choice import BackendChoice, Candidate, report_fallback
from qcore.errors import BackendError, UnknownNameError
from qcore.plugins import Framework
from qcore.quantizers import make_quantizer
from qcore.registry import BackendSpec, Registry
from qcore.tensor import ActivationScheme, QTensor

WEIGHT = make_quantizer("core/int(bits=4)").quantize(torch.ones(3, 5))


def request(**changes: object) -> KernelRequest:
    options = {
        "op": "linear",
        "encoding": "int",
        "bits": (4,),
        "scales": "row",
        "group_size": None,
        "zero_point": False,
        "activation": ActivationScheme(8),
        "coded_input": False,
        "weight_shape": torch.Size([3, 5]),
        "conv": None,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    return KernelRequest(**(options | changes))  # type: ignore[arg-type]


class Fake(Backend):
    """A backend that says what the test wants it to."""

    name = "fake"
    priority = 10

    def __init__(
        self, *, absent: str | None = None, rejects: str | None = None, hint: str | None = None, name: str = "fake"
    ) -> None:
        self.absent, self.rejects, self.hint = absent, rejects, hint
        self.label = name
        self.prepared = 0

    def probe(self) -> Probe:
        return Probe(self.absent is None, "cpu", self.absent, {} if self.hint is None else {"hint": self.hint})

    def reject(self, request: KernelRequest) -> str | None:
        assert self.absent is None, "a backend that is not available is not asked"
        return self.rejects

    def prepare(self, request: KernelRequest, weight: QTensor, bias: torch.Tensor | None) -> Kernel:
        self.prepared += 1
        return Kernel(self.label, lambda x: x, 0)  # type: ignore[arg-type, return-value]


def chosen(*backends: Fake, forced: bool = False) -> BackendChoice:
    candidates = [Candidate(f"test/{i}", backend) for i, backend in enumerate(backends)]
    return choose(request(), WEIGHT, None, candidates, forced=forced)


def test_the_first_that_is_available_and_does_not_reject_is_prepared_once() -> None:
    backends = Fake(absent="no GPU", hint="pip install gpu"), Fake(rejects="too odd"), Fake(name="it"), Fake()
    choice = chosen(*backends)
    assert (choice.backend, choice.kernel.name) == ("test/2", "it")
    assert [(r.backend, r.reason, r.hint) for r in choice.refused] == [
        ("test/0", "no GPU", "pip install gpu"),
        ("test/1", "too odd", None),
    ]
    assert [backend.prepared for backend in backends] == [0, 0, 1, 0]


def test_when_none_can_every_reason_is_given() -> None:
    with pytest.raises(
        BackendError, match=r"no backend can run this linear of \(3, 5\): test/0: no GPU; test/1: odd"
    ) as c:
        chosen(Fake(absent="no GPU", hint="pip install gpu"), Fake(rejects="odd"))
    assert c.value.hint == "pip install gpu"
    assert c.value.exit_code == 4


def test_a_forced_backend_that_cannot_is_an_error() -> None:
    with pytest.raises(BackendError, match="the named backend cannot run.*odd"):
        chosen(Fake(rejects="odd"), forced=True)


def test_an_absent_backend_without_a_reason_still_gets_one() -> None:
    class Silent(Fake):
        def probe(self) -> Probe:
            return Probe(False, "cpu")

    with pytest.raises(BackendError, match="not available"):
        chosen(Silent())


def test_a_request_is_integer_when_its_input_is() -> None:
    assert request().integer
    assert request(activation=None, coded_input=True).integer
    assert not request(activation=None).integer


@pytest.fixture
def registry() -> Registry:
    """Return a registry with the core's backend and three more: low, high, and one that cannot be imported."""
    registry = Framework(no_plugins=True).registry
    targets = {"low": f"{__name__}:Low", "high": f"{__name__}:High", "broken": "no_such_module_of_ours:Backend"}
    specs = [BackendSpec(name=name, target=target, summary="for tests") for name, target in targets.items()]
    registry.commit(specs, plugin="fake")
    return registry


class Low(Fake):
    """A backend below the reference."""

    priority = -5

    def __init__(self) -> None:
        super().__init__()


class High(Low):
    """A backend above the reference."""

    priority = 5


def test_backends_are_tried_in_the_order_of_their_priority(registry: Registry) -> None:
    candidates, forced = find_backends(registry=registry)
    assert [candidate.id for candidate in candidates] == ["fake/broken", "fake/high", "core/reference", "fake/low"]
    assert not forced


def test_a_backend_that_cannot_be_loaded_is_reported_and_hurts_no_other(registry: Registry) -> None:
    candidates, forced = find_backends(registry=registry)
    choice = choose(request(), WEIGHT, None, candidates, forced=forced)
    assert choice.backend == "fake/high"
    assert [refusal.backend for refusal in choice.refused] == ["fake/broken"]
    assert "no_such_module_of_ours" in choice.refused[0].reason


def test_a_named_backend_is_the_only_one_tried(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "high")
    assert [c.id for c in find_backends("reference", registry)[0]] == ["core/reference"]
    candidates, forced = find_backends(registry=registry)
    assert [c.id for c in candidates] == ["fake/high"]
    assert forced
    monkeypatch.setenv("QCORE_BACKEND", "")
    assert not find_backends(registry=registry)[1]
    monkeypatch.setenv("QCORE_BACKEND", "hihg")
    with pytest.raises(UnknownNameError, match="did you mean .high."):
        find_backends(registry=registry)


def test_a_fallback_is_reported_once_a_reason() -> None:
    fallen = chosen(Fake(rejects="too odd"), Fake())
    with pytest.warns(UserWarning, match="test/0 does not run some layers: too odd") as caught:
        report_fallback([fallen, fallen])
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_no_fallback_is_no_warning() -> None:
    report_fallback([chosen(Fake())])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["rejects", "absent"])
def test_a_backend_for_another_kind_of_device_is_told_of_and_not_warned_of(kind: str) -> None:
    elsewhere = Fake(**{kind: "the weight is on cuda, and it runs on the CPU"})
    wanted = request(device=torch.device("cuda"))
    choice = choose(wanted, WEIGHT, None, [Candidate("a", elsewhere), Candidate("b", Fake())], forced=False)
    assert choice.backend == "b" and choice.refused[0].elsewhere
    report_fallback([choice])
    assert not chosen(Fake(rejects="too odd"), Fake()).refused[0].elsewhere
