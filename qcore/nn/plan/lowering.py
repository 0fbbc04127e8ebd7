"""How modules become steps: torch's own by a table, any other by its method ``plan``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from qcore.backends.plan import Value
from qcore.errors import UsageError
from qcore.nn.layers import QuantLayer, conv_shape
from qcore.nn.packed import PackedConv2d, PackedLayer, PackedLinear
from qcore.nn.plan.builder import Pair, PlanBuilder, check_padding

__all__ = ["Lowering", "lowering_of", "precise_lowering_of"]

Lowering = Callable[[PlanBuilder, Value], Value]


def lowering_of(module: nn.Module, name: str) -> Lowering:
    """Return what lowers ``module``.

    Raises:
        UsageError: nothing does; it says what to do about that.
    """
    where = _where(module, name)
    _check_state(module, where)
    method = _own_method(module)
    if method is not None:
        return method
    lower = _TABLE.get(type(module))
    if lower is not None:
        return lambda builder, x: lower(builder, x, module)
    raise UsageError(f"a plan has no steps for {where}", _hint())


def precise_lowering_of(module: nn.Module, name: str) -> Lowering:
    """Return what lowers ``module`` in float64, as the parts of routers are.

    Raises:
        UsageError: nothing does; it says what to do about that.
    """
    where = _where(module, name)
    _check_state(module, where)
    lower = _PRECISE.get(type(module))
    if lower is not None:
        return lambda builder, x: lower(builder, x, module)
    known = ", ".join(sorted(cls.__name__ for cls in _PRECISE))
    hint = f"use {known} there, leave a router's layers float, or use the packed model without a plan"
    raise UsageError(f"a plan has no float64 steps for {where}", hint)


def _where(module: nn.Module, name: str) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def _check_state(module: nn.Module, where: str) -> None:
    """Refuse what ``module`` does that its class does not say."""
    if isinstance(module, QuantLayer):
        raise UsageError(f"{where} is not packed", "call qcore.pack(model) first")
    if module.training:
        raise UsageError(f"{where} is in training mode, and a plan computes as eval mode does", "call model.eval()")
    if module._forward_hooks or module._forward_pre_hooks:
        raise UsageError(f"{where} has hooks, which a plan does not call", "remove them first")
    if "forward" in vars(module):
        raise UsageError(f"{where} was given a forward of its own, which a plan does not call", "make it a subclass")


def _own_method(module: nn.Module) -> Lowering | None:
    """Return the method ``plan``, unless a subclass gave the module another ``forward`` and no ``plan`` of its own."""
    for cls in type(module).__mro__:
        if "plan" in vars(cls):
            return cast(Lowering, module.plan)
        if "forward" in vars(cls):
            return None
    return None


def _hint() -> str:
    known = ", ".join(sorted(cls.__name__ for cls in _TABLE))
    return (
        "give its class a method plan(self, builder, x) that says what forward does (see docs/plans.md), "
        f"or use the packed model without a plan; there are steps for {known}, and for the networks of qcore.nn"
    )


def _sequence(builder: PlanBuilder, x: Value, module: nn.Sequential) -> Value:
    for child in module:
        x = builder.lower(child, x)
    return x


def _nothing(builder: PlanBuilder, x: Value, module: nn.Module) -> Value:
    return x


def _relu(builder: PlanBuilder, x: Value, module: nn.ReLU) -> Value:
    return builder.relu(x)


def _relu6(builder: PlanBuilder, x: Value, module: nn.ReLU6) -> Value:
    return builder.limit(builder.relu(x), 6.0)


def _packed(builder: PlanBuilder, x: Value, module: PackedLayer) -> Value:
    return builder.packed(x, module)


def _conv2d(builder: PlanBuilder, x: Value, module: nn.Conv2d) -> Value:
    check_padding(builder, module.padding_mode)
    return builder.convolution(x, module.weight, module.bias, conv_shape(module))


def _linear(builder: PlanBuilder, x: Value, module: nn.Linear) -> Value:
    return builder.linear(x, module.weight, module.bias)


def _precise_sequence(builder: PlanBuilder, x: Value, module: nn.Sequential) -> Value:
    for child in module:
        x = builder.lower(child, x, precise=True)
    return x


def _precise_linear(builder: PlanBuilder, x: Value, module: nn.Linear) -> Value:
    return builder.linear(x, module.weight, module.bias, precise=True)


def _layer_norm(builder: PlanBuilder, x: Value, module: nn.LayerNorm) -> Value:
    if len(module.normalized_shape) != 1:
        raise builder.refuse("a layer norm over several axes", "normalize the last axis alone")
    return builder.layer_norm(x, module.weight, module.bias, module.normalized_shape[0], module.eps)


def _batch_norm(builder: PlanBuilder, x: Value, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Value:
    if module.running_mean is None or module.running_var is None:
        raise builder.refuse("a batch norm without running statistics", "train it with track_running_stats=True")
    return builder.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, module.eps)


def _flatten(builder: PlanBuilder, x: Value, module: nn.Flatten) -> Value:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise builder.refuse("a flatten that leaves an axis", "flatten each sample whole: nn.Flatten()")
    return builder.flatten(x)


def _max_pool(builder: PlanBuilder, x: Value, module: nn.MaxPool2d) -> Value:
    if module.return_indices:
        raise builder.refuse("a max pool that returns indices", "leave return_indices out")
    sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
    kernel, stride, padding, dilation = (_pair(size) for size in sizes)
    return builder.max_pool(x, kernel, stride, padding, dilation, ceil=module.ceil_mode)


def _average_pool(builder: PlanBuilder, x: Value, module: nn.AdaptiveAvgPool2d) -> Value:
    if module.output_size not in (1, (1, 1)):
        raise builder.refuse(f"an average pool to {module.output_size}", "pool to 1 x 1")
    return builder.spatial_mean(x, keep=True)


def _pair(size: Any) -> Pair:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


_TABLE: dict[type[nn.Module], Callable[[PlanBuilder, Value, Any], Value]] = {
    PackedLinear: _packed,
    PackedConv2d: _packed,
    nn.Sequential: _sequence,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.Dropout1d: _nothing,
    nn.Dropout2d: _nothing,
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.LayerNorm: _layer_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Flatten: _flatten,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _average_pool,
}

_PRECISE: dict[type[nn.Module], Callable[[PlanBuilder, Value, Any], Value]] = {
    nn.Sequential: _precise_sequence,
    nn.Identity: _nothing,
    nn.Dropout: _nothing,
    nn.ReLU: _relu,
    nn.Linear: _precise_linear,
}
