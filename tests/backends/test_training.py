"""How quantizers reach a backend's kernels for training: chosen once, by the environment and the device."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from qcore.backends import KernelRequest, Probe, TrainingKernels, choose_training_kernels
from qcore.backends.reference import ReferenceBackend
from qcore.backends.training import ChosenKernels
from qcore.errors import BackendError, UnknownNameError
from qcore.plugins import Framework, set_default
from qcore.plugins.framework import reset_default
from qcore.quantizers import straight_through_inside
from qcore.registry import BackendSpec
from qcore.testing.training_problems import TorchTrainingKernels

CPU = torch.device("cpu")


class Plain(ReferenceBackend):
    """Offers the formulas as kernels."""

    name = "plain"
    priority = 50
    asked: list[torch.device] = []

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        self.asked.append(device)
        return TorchTrainingKernels() if device.type == "cpu" else None


class Absent(Plain):
    name = "absent"
    priority = 60

    def probe(self) -> Probe:
        return Probe(False, "cpu", "not here")


class Elsewhere(Absent):
    name = "elsewhere"

    def probe(self) -> Probe:
        return Probe(False, "cuda:0", "no such card")


class WithoutAny(ReferenceBackend):
    """Is older than the method."""

    name = "without_any"
    priority = 70

    def probe(self) -> Probe:
        return Probe(False, "cpu", "not here either")

    def reject(self, request: KernelRequest) -> str | None:
        return None


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Iterator[Framework]:
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    framework = Framework(load=False)
    specs = [
        BackendSpec(name=kind.name, target=f"{__name__}:{kind.__name__}", summary="for a test")
        for kind in (Plain, Absent, Elsewhere, WithoutAny)
    ]
    framework.registry.commit(specs, plugin="tests")
    Plain.asked.clear()
    set_default(framework)
    yield framework
    reset_default()


def test_the_best_available_backend_that_has_kernels_is_chosen(framework: Framework) -> None:
    assert isinstance(choose_training_kernels(CPU, framework.registry), TorchTrainingKernels)


def test_no_backend_has_any_for_another_device(framework: Framework) -> None:
    assert choose_training_kernels(torch.device("meta"), framework.registry) is None


@pytest.mark.parametrize(("name", "found"), [("reference", False), ("tests/plain", True)])
def test_the_environment_names_the_only_one(
    framework: Framework, monkeypatch: pytest.MonkeyPatch, name: str, found: bool
) -> None:
    monkeypatch.setenv("QCORE_BACKEND", name)
    assert (choose_training_kernels(CPU, framework.registry) is not None) == found


def test_a_named_backend_that_is_not_available_is_an_error(
    framework: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "absent")
    for _ in range(2):
        with pytest.raises(BackendError, match=r"tests/absent does not quantize in training: not here"):
            ChosenKernels().serve(torch.ones(2))


def test_one_that_is_installed_for_the_device_and_not_available_is_told_of_once(framework: Framework) -> None:
    framework.registry.commit(
        [BackendSpec(name="broken", target="no_such_module:Kind", summary="for a test")], plugin="tests"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):  # as many quantizers
            assert ChosenKernels().serve(torch.ones(2)) is not None
    first, second = (str(warning.message) for warning in told)
    assert first.startswith("tests/broken does not quantize in training: ") and "no_such_module" in first
    assert second == "tests/absent does not quantize in training: not here"


def test_a_name_that_nobody_offers_is_an_error(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "no_such_backend")
    with pytest.raises(UnknownNameError, match="no_such_backend"):
        choose_training_kernels(CPU, framework.registry)


def test_a_quantizer_chooses_once_and_a_copy_anew(framework: Framework) -> None:
    chosen, x = ChosenKernels(), torch.ones(2, 3)
    kernels = chosen.serve(x)
    assert kernels is not None and chosen.serve(torch.nn.Parameter(x)) is kernels
    assert len(Plain.asked) == 1
    for again in (copy.deepcopy(chosen), pickle.loads(pickle.dumps(chosen))):
        assert again.serve(x) is not None
    assert len(Plain.asked) == 3


class Wrapped(Tensor):
    """A tensor of another kind."""


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.float64),
        torch.ones(0, 3),
        torch.ones(2, device="meta"),
        torch.ones(2).as_subclass(Wrapped),
        torch.ones(2, dtype=torch.complex64).conj().imag,
        torch.ones(2, dtype=torch.complex64).conj(),
    ],
    ids=["bfloat16", "float64", "no elements", "meta", "a subclass", "a negative bit", "a conjugate bit"],
)
def test_other_tensors_are_left_to_torch(framework: Framework, x: Tensor) -> None:
    assert ChosenKernels().serve(x) is None
    assert not Plain.asked


def test_a_graph_gets_torchs_own_operations(framework: Framework) -> None:
    chosen, seen = ChosenKernels(), list[object]()

    def look(x: Tensor) -> Tensor:
        seen.append(chosen.serve(x))
        return x + 1

    x = torch.ones(2)
    make_fx(look)(x)
    torch.jit.trace(look, (x,), check_trace=False)
    torch.func.vmap(look)(x)
    with FlopCounterMode(display=False):
        look(x)
    torch.compile(lambda x: x + (1 if chosen.serve(x) is None else 2), backend="eager", fullgraph=True)(x)
    assert seen == [None] * 4
    look(x)
    assert seen[-1] is not None


def test_batched_gradients_are_left_to_torch(framework: Framework) -> None:
    x = torch.linspace(-1, 1, 6, requires_grad=True)
    y = straight_through_inside(x, x.detach().round(), torch.tensor(-0.5), torch.tensor(0.5), ChosenKernels())
    (gradients,) = torch.autograd.grad(y, x, torch.eye(6), is_grads_batched=True)
    assert torch.equal(gradients, torch.diag((x.abs() <= 0.5).float()))
