"""Whether a kernel may take a tensor by its address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from qcore.backends import is_plain, is_recorded, memory


def count_flops(look: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with FlopCounterMode(display=False):
        look(x)


RECORDERS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "make_fx": lambda look, x: make_fx(look)(x),
    "make_fx before dispatch": lambda look, x: make_fx(look, pre_dispatch=True)(x),
    "make_fx on fakes": lambda look, x: make_fx(look, tracing_mode="fake")(x),
    "jit.trace": lambda look, x: torch.jit.trace(look, (x,), check_trace=False),
    "a dispatch mode": count_flops,
}


def watched(recorder: Callable[[Callable[[Tensor], Tensor], Tensor], object]) -> list[tuple[bool, bool]]:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append((is_recorded(), is_plain(x)))
        return x + 1

    recorder(look, torch.ones(2))
    return seen


@pytest.mark.parametrize("name", RECORDERS)
def test_what_records_operations_is_noticed(name: str) -> None:
    assert watched(RECORDERS[name]) == [(True, False)]
    assert not is_recorded() and is_plain(torch.ones(2))


def test_compilers_are_noticed() -> None:
    def look(x: Tensor) -> Tensor:
        return x + (1 if is_recorded() and not is_plain(x) else 2)

    x = torch.zeros(2)
    compiled = torch.compile(look, backend="eager", fullgraph=True)
    assert compiled(x).tolist() == [1.0, 1.0] and look(x).tolist() == [2.0, 2.0]


def test_transformed_functions_see_no_memory() -> None:
    assert watched(lambda look, x: torch.func.vmap(look)(x)) == [(False, False)]
    assert watched(lambda look, x: torch.func.grad(lambda x: look(x).sum())(x)) == [(False, False)]


def test_a_default_device_records_nothing() -> None:
    with torch.device("cpu"):
        assert not is_recorded()


def test_without_torchs_word_on_modes_nothing_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_count_dispatch_modes", memory._one)
    assert not is_plain(torch.ones(2))
    assert is_recorded() and not is_recorded(unknown=False)
