"""Which modules become steps, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.backends.plan import Value
from qcore.errors import UsageError
from qcore.nn import MLP, MixtureOfExperts, PlanBuilder, build_model
from qcore.nn.config import MLPConfig

BITS4 = {"weight": "core/int(bits=4)", "input": "core/int(bits=8, granularity='token')"}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module) -> nn.Module:
    return qcore.compile_plan(model, "core/reference")


class Residual(nn.Module):
    """A module that says itself in steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(self.inner(x)))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        return builder.lower(self.head, builder.lower(self.inner, builder.lower(self.inner, x)))


class OnlyForward(Residual):
    """A subclass whose forward is another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Both(OnlyForward):
    """A subclass that says itself again."""

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        return builder.rescale(super().plan(builder, x), torch.tensor(1.0), torch.tensor(1.0))


def test_a_module_says_itself_by_its_method() -> None:
    for model in (Residual().eval(), Both().eval()):
        x = normal(4, 6)
        assert torch.equal(compiled(model)(x), model(x))
    layers = [step.layer for step in compiled(nn.Sequential(nn.Identity(), Residual()).eval()).program.steps]
    assert layers == ["1.inner.0", "1.inner.0", "1.head"]


def test_a_method_does_not_speak_for_a_subclass_with_another_forward() -> None:
    with pytest.raises(UsageError, match=r"no steps for the model \(OnlyForward\)\n.*plan\(self, builder, x\)"):
        compiled(OnlyForward().eval())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.GELU(), r"no steps for 0 \(GELU\)"),
        (nn.Conv2d(1, 1, 1, padding_mode="circular"), "0: padding_mode='circular'"),
        (nn.LayerNorm((3, 4)), "0: a layer norm over several axes"),
        (nn.BatchNorm1d(3, track_running_stats=False), "0: a batch norm without running statistics"),
        (nn.Flatten(0), "0: a flatten that leaves an axis"),
        (nn.Flatten(2), "0: a flatten that leaves an axis"),
        (nn.MaxPool2d(2, return_indices=True), "0: a max pool that returns indices"),
        (nn.AdaptiveAvgPool2d(2), "0: an average pool to 2"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), r"no steps for 0 \(ParametrizedLinear\)"),
    ],
)
def test_what_has_no_steps_is_named_with_what_to_do(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        compiled(nn.Sequential(module).eval())
    assert caught.value.hint


def test_layers_that_are_not_packed_or_prepared_are_named() -> None:
    quantized = qcore.quantize(nn.Sequential(nn.Linear(3, 2)), {"0": BITS4}).eval()
    with pytest.raises(UsageError, match=r"0 \(QuantLinear\) is not packed\ncall qcore.pack"):
        compiled(quantized)
    packed = qcore.pack(quantized, "core/reference")
    packed[0].choice = None
    with pytest.raises(UsageError, match="0: its kernel is not chosen"):
        compiled(packed)


def test_padding_by_other_than_zeros_and_coded_inputs_are_named() -> None:
    mirrored = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"))
    model = qcore.pack(qcore.quantize(mirrored, {"0": BITS4}), "core/reference")
    with pytest.raises(UsageError, match="0: padding_mode='reflect'"):
        compiled(model)
    with pytest.raises(UsageError, match="the model: padding_mode='reflect'"):
        PlanBuilder(model).packed(Value(0), model[0])


def test_training_mode_and_hooks_are_refused() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    with pytest.raises(UsageError, match="in training mode"):
        compiled(model)
    model.eval()[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=r"0 \(Dropout\) has hooks"):
        compiled(model)


@pytest.mark.parametrize(
    ("name", "path", "config"),
    [
        ("core/mlp", "blocks.0.dropout", {"in_features": 4, "out_features": 2}),
        ("core/cnn", "dropout", {"in_channels": 1, "out_features": 2, "image_size": 8}),
    ],
)
def test_dropout_within_a_network_that_draws_or_has_hooks_is_refused(name: str, path: str, config: Any) -> None:
    model = build_model(name, config).eval()
    model.get_submodule(path).train()
    with pytest.raises(UsageError, match=rf"^{path} \(Dropout\) is in training mode"):
        compiled(model)
    model.eval().get_submodule(path).register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=rf"^{path} \(Dropout\) has hooks"):
        compiled(model)


def test_a_forward_given_to_a_module_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    model[0].forward = lambda x: -x
    with pytest.raises(UsageError, match=r"^0 \(Linear\) was given a forward of its own"):
        compiled(model)


@pytest.mark.parametrize(
    "module", [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), nn.LayerNorm(2), nn.BatchNorm1d(2), Residual()], ids=str
)
def test_layers_that_compute_in_another_dtype_are_named(module: nn.Module) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(UsageError, match=f"0.*: its numbers are {dtype}, and a plan computes in float32\ncall"):
            compiled(nn.Sequential(module).eval().to(dtype))


def router(**options: object) -> Any:
    return qcore.get("router", "core/topk", in_features=6, experts=3, hidden=(5,), **options).eval()


def test_a_router_in_float64_keeps_its_numbers_or_is_named() -> None:
    single = router()
    assert torch.equal(compiled(router().double())(normal(9, 6)), compiled(single)(normal(9, 6)))
    finer = router().double()
    with torch.no_grad():
        finer.net[0].weight[0, 0] = 1 + 2**-40
    with pytest.raises(UsageError, match="net.0: its numbers are float64, and float32 does not hold them"):
        compiled(finer)


def test_what_a_router_cannot_compute_in_float64_is_named() -> None:
    packed = router()
    packed.net[2] = qcore.pack(qcore.quantize(nn.Sequential(packed.net[2]), {"*": BITS4}).eval(), "core/reference")[0]
    with pytest.raises(
        UsageError, match=r"no float64 steps for net.2 \(PackedLinear\)\n.*leave a router's layers float"
    ):
        compiled(packed)
    other = router()
    other.net[1] = nn.GELU().eval()
    with pytest.raises(UsageError, match=r"no float64 steps for net.1 \(GELU\)"):
        compiled(other)
    hooked = router()
    hooked.net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=r"net.1 \(ReLU\) has hooks"):
        compiled(hooked)
    trained = router()
    trained.net[0].train()
    with pytest.raises(UsageError, match=r"net.0 \(Linear\) is in training mode"):
        compiled(trained)


@pytest.mark.parametrize("router", ["core/topk", "core/uniform"])
@pytest.mark.parametrize("trunk", [False, True])
def test_mixtures_equal_eager(router: str, trunk: bool) -> None:
    options = {"k": 2, "hidden": (5,)} if router == "core/topk" else {}
    experts = [
        MLP(MLPConfig(in_features=6, out_features=3, hidden=(4,)), torch.Generator().manual_seed(i)) for i in (0, 1, 2)
    ]
    first = nn.Sequential(nn.Linear(6, 6), nn.ReLU()) if trunk else None
    model = MixtureOfExperts(experts, qcore.get("router", router, in_features=6, experts=3, **options), first)
    model = qcore.quantize(model, {"experts.1.*": BITS4, "experts.2.head": "core/int(bits=8)"})
    model = qcore.pack(model.eval(), "core/reference")
    plan = compiled(model)
    for rows in (0, 1, 20):
        x = normal(rows, 6)
        torch.testing.assert_close(plan(x), model(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(compiled(model.router)(x), model.router(x).weights)
    model(normal(9, 6))
    plan(normal(3, 6))
    assert sum(count > 0 for count in model.visits()) and model.last_routing is not None
    assert len(model.last_routing.weights) == 9  # a plan leaves the model's record alone
    assert {step.layer for step in plan.program.walk()} > {"experts.0.head", "experts.2.blocks.0.linear"}


def test_experts_of_different_outputs_are_a_usage_error() -> None:
    experts = [nn.Linear(6, 3), nn.Linear(6, 4)]
    model = MixtureOfExperts(experts, qcore.get("router", "core/uniform", in_features=6, experts=2)).eval()
    with pytest.raises(UsageError, match="experts of one output shape"):
        compiled(model)(normal(2, 6))


def test_every_registered_network_of_the_core_has_steps() -> None:
    for name, config in (
        ("core/mlp", {"in_features": 4, "out_features": 2}),
        ("core/cnn", {"in_channels": 1, "out_features": 2, "image_size": 8}),
    ):
        compiled(build_model(name, config).eval())
