"""Codes between the layers of a plan: the bits of the plan of floats, on every instruction set, of every shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcore
from qcore.backends.plan import Value
from qcore.nn import PlanBuilder
from qcore_backend_cpu.native import chosen_isa, load

CPU = "backend_cpu/cpu"
SLACK = dict(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1 if tensor.dim() == 1 else -1.0, 1, generator=generator)
    return model.eval()


def packed(model: nn.Module, x: Tensor, input: str, bits: int = 4, **options: Any) -> nn.Module:
    rule = {"weight": f"core/int(bits={bits})", "input": f"core/int(granularity='tensor', dynamic=False, {input})"}
    return qcore.pack(qcore.calibrate(qcore.quantize(model, {"*": rule}), [x]), CPU, **options)


def check(model: nn.Module, x: Tensor, codes: int) -> None:
    """Compare the plan of codes, of which so many steps hand some over, with that of floats and with the model."""
    plan, floats = qcore.compile_plan(model, CPU), qcore.compile_plan(model, CPU, codes=False)
    assert len(plan.program.handed_over()) == codes
    assert not floats.program.handed_over()
    assert torch.equal(plan(x), floats(x))
    if not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
        assert torch.equal(plan(x), model(x))
    for row in range(min(len(x), 3)):
        assert torch.equal(plan(x[row : row + 1])[0], plan(x)[row])
    if len(x) > 1:
        x = x.clone()
        x[1].view(-1)[0] = torch.nan
        assert torch.equal(plan(x).isnan(), floats(x).isnan())
        assert bool(plan(x)[1].isnan().all()) and not bool(plan(x)[0].isnan().any())


@settings(**SLACK)
@given(data=st.data())
def test_convolutions_pools_and_flatten(isa: str, data: st.DataObject) -> None:
    """Odd channels, groups, strides, dilation, padding by a zero point that is not zero; windows in padding alone."""
    channels = data.draw(st.sampled_from([1, 3, 6, 17, 66]))
    groups = data.draw(st.sampled_from([1, channels]))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    first = nn.Conv2d(3, channels, data.draw(pair), padding=1, bias=data.draw(st.booleans()))
    walk = {"stride": data.draw(pair), "padding": data.draw(pair), "dilation": data.draw(pair), "groups": groups}
    pool = data.draw(st.sampled_from([nn.MaxPool2d(2), nn.MaxPool2d(3, (1, 2), 1, ceil_mode=True, dilation=(1, 2))]))
    norms = data.draw(st.booleans())
    parts = [first, *[nn.BatchNorm2d(channels)] * norms, *[nn.ReLU()] * data.draw(st.booleans()), pool, nn.ReLU()]
    parts += [nn.Conv2d(channels, 2 * channels, data.draw(pair), **walk), nn.Flatten()]
    x = normal(data.draw(st.integers(1, 4)), 3, data.draw(st.integers(4, 9)), data.draw(st.integers(4, 9)))
    features = nn.Sequential(*parts)(x).shape[1]
    model = drawn(
        nn.Sequential(*parts, nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, 3)), data.draw(st.integers(0, 99))
    )
    symmetric, bits = data.draw(st.booleans()), data.draw(st.integers(2, 8))
    check(packed(model, x, f"bits={bits}, symmetric={symmetric}", data.draw(st.integers(2, 8))), x, 6)


@pytest.mark.parametrize("rows", [1, 2, 40, 300])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("widths", [(1, 1, 1), (13, 65, 7), (300, 129, 64)])
def test_linear_layers_of_odd_widths(isa: str, rows: int, symmetric: bool, widths: tuple[int, ...]) -> None:
    features, hidden, out = widths
    parts = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    model = drawn(nn.Sequential(*parts, nn.Linear(hidden, out)), rows)
    check(packed(model, normal(rows, features), f"symmetric={symmetric}"), normal(rows, features, seed=1), 2)


def test_rows_of_tokens_each_with_its_own_nan(isa: str) -> None:
    model = drawn(nn.Sequential(nn.Linear(9, 17), nn.ReLU(), nn.Linear(17, 4)), 0)
    x = normal(3, 5, 9)
    model = packed(model, x, "symmetric=False")
    plan, floats = qcore.compile_plan(model, CPU), qcore.compile_plan(model, CPU, codes=False)
    assert torch.equal(plan(x), floats(x))
    x[1, 2, 3] = torch.nan
    assert torch.equal(plan(x).isnan(), floats(x).isnan())
    assert int(plan(x).isnan().sum()) == 4


def test_nan_that_arises_within_is_handed_over(isa: str) -> None:
    model = drawn(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Flatten()), 1)
    x = normal(3, 2, 4, 4)
    model = packed(model, x, "symmetric=False")
    with torch.no_grad():
        model[1].weight[0] = 0.0
        model[1].running_mean[0] = torch.inf  # 0 times infinity is what the channel gets
    plan, floats = qcore.compile_plan(model, CPU), qcore.compile_plan(model, CPU, codes=False)
    assert bool(floats(x).isnan().any())
    assert torch.equal(plan(x).isnan(), floats(x).isnan())


def image_net() -> nn.Module:
    parts = [nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(20, 33, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return drawn(nn.Sequential(*parts, nn.Linear(33 * 36, 10), nn.ReLU(), nn.Linear(10, 4)), 2)


def test_many_chunks_on_many_threads_give_the_same(isa: str, threads: int) -> None:
    x = normal(70, 3, 24, 24)
    check(packed(image_net(), x[:9], "symmetric=False"), x, 6)


def test_folded_batch_norms_hand_over_codes_bit_for_bit(isa: str) -> None:
    x = normal(9, 3, 24, 24)
    check(packed(image_net(), x, "symmetric=True", fold=True), x, 6)


def test_a_relu_after_the_flatten_is_one_of_codes(isa: str) -> None:
    model = drawn(nn.Sequential(nn.Conv2d(3, 5, 2), nn.Flatten(), nn.ReLU(), nn.Linear(5 * 16, 3)), 5)
    x = normal(6, 3, 5, 5)
    check(packed(model, x, "symmetric=False"), x, 3)


def test_layers_of_mixed_widths_and_of_wide_sums(isa: str) -> None:
    mixed = {"weight": "bitnet/ternary", "input": "core/int(granularity='tensor', dynamic=False, symmetric=False)"}
    wide = mixed | {"weight": "core/int(bits=8, symmetric=False)"}
    model = drawn(nn.Sequential(nn.Linear(9, 40_000), nn.ReLU(), nn.Linear(40_000, 3), nn.Linear(3, 2)), 3)
    x = normal(5, 9)
    quantized = qcore.calibrate(qcore.quantize(model, {"0": mixed, "*": wide}), [x])
    check(qcore.pack(quantized, CPU), x, 2)


@settings(**SLACK)
@given(data=st.data())
def test_a_relu6_is_a_limit_of_the_codes(isa: str, data: st.DataObject) -> None:
    """With ranges that end below 6, at 6 and above it; depthwise convolutions, batch norms and linear layers."""
    channels, stride = data.draw(st.sampled_from([2, 17, 40])), data.draw(st.integers(1, 2))
    norms, fold = data.draw(st.booleans()), data.draw(st.booleans())
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 1), *[nn.BatchNorm2d(channels)] * norms, nn.ReLU6()]
    parts += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.ReLU6(), nn.MaxPool2d(2), nn.ReLU6()]
    parts += [nn.Conv2d(channels, 6, 1), nn.ReLU6(), nn.Flatten(), nn.ReLU6()]
    x = normal(data.draw(st.integers(1, 3)), 3, 9, 11) * data.draw(st.sampled_from([0.3, 3.0, 30.0]))
    features = nn.Sequential(*parts)(x).shape[1]
    model = drawn(nn.Sequential(*parts, nn.Linear(features, 5), nn.ReLU6(), nn.Linear(5, 3)), channels)
    symmetric, bits = data.draw(st.booleans()), data.draw(st.integers(2, 8))
    model = packed(model, x, f"bits={bits}, symmetric={symmetric}", fold=fold)
    floats = model if not norms or fold else qcore.compile_plan(model, CPU, codes=False)
    assert torch.equal(qcore.compile_plan(model, CPU)(x), floats(x))
    check(model, x, 10)


class Residual(nn.Module):
    """Two convolutions around which the input goes; then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 35, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out: Tensor = self.head(torch.relu(self.body(x) + x))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        x = builder.relu(builder.lower(self.stem, x))
        return builder.lower(self.head, builder.relu(builder.add(builder.lower(self.body, x), x)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_residual_block_adds_floats_and_hands_over_codes_within(isa: str, symmetric: bool) -> None:
    x = normal(20, 3, 7, 5)
    model = packed(drawn(Residual(), 4), x, f"symmetric={symmetric}")
    check(model, x, 1)
    found = [(row["op"], row["output"]) for row in qcore.explain(qcore.compile_plan(model, CPU)).rows]
    assert found[1][1] == ("int8 codes" if symmetric else "uint8 codes")
    assert found[3] == ("add + relu", "floats")


def test_explain_says_what_is_handed_over(isa: str) -> None:
    rows = qcore.explain(qcore.compile_plan(packed(image_net(), normal(4, 3, 24, 24), "symmetric=True"), CPU)).rows
    assert [row["output"] for row in rows] == ["int8 codes"] * 6 + ["floats"]
    assert rows[-1]["why_floats"] == "it is the plan's output"


def test_the_compiled_program_refuses_codes_where_floats_belong() -> None:
    module, _ = load()
    scheme = (8, False, 0.1, 10.0, 3.0)
    program = module.Program(chosen_isa())
    for add in (
        lambda: program.max_pool_codes(0, 1, [2] * 8, scheme),
        lambda: program.flatten_codes(0, 1),
        lambda: program.relu_codes(7, 1, scheme),
        lambda: program.relu_codes(0, 1, (1, False, 0.1, 10.0, 3.0)),
    ):
        with pytest.raises(ValueError):
            add()
