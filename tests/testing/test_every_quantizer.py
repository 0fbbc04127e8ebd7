"""Random tensors and configs for every quantizer of the core: what the fixed lists of the kit may miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcore.quantizers import Quantizer
from qcore.quantizers.config import IntConfig
from qcore.quantizers.integer import IntQuantizer
from qcore.tensor import QTensor

numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -1e30, 1e-45]),
)
tensors = arrays(
    np.float32,
    st.one_of(
        st.tuples(st.integers(1, 5), st.integers(1, 19)),
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    ),
    elements=numbers,
)


plain = st.builds(
    IntConfig, bits=st.integers(2, 8), granularity=st.sampled_from(["tensor", "row", "token"]), symmetric=st.booleans()
)
"""Configs that clip nothing and find their range anew each time."""


@st.composite
def configs(draw: st.DrawFn) -> IntConfig:
    """Any valid config of ``core/int``."""
    bits = draw(st.integers(1, 8))
    granularity = draw(st.sampled_from(["tensor", "row", "group", "token"]))
    options: dict[str, Any] = {"bits": bits, "granularity": granularity}
    if granularity == "group":
        options["group_size"] = draw(st.integers(1, 8))
    if bits > 1:
        options["symmetric"] = draw(st.booleans())
        options["scale"] = draw(st.sampled_from(["absmax", "percentile", "mse"]))
        options["percentile"] = draw(st.sampled_from([50.0, 99.0, 100.0]))
    if granularity != "token":
        options["dynamic"] = draw(st.booleans())
    return IntConfig(**options)


def ready(config: IntConfig, x: torch.Tensor) -> Quantizer:
    quantizer = IntQuantizer(config)
    quantizer.initialize(x)
    return quantizer.eval()


@settings(max_examples=300, deadline=None)
@given(tensors, configs(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_packed_equals_eval_and_training_for_any_tensor_and_config(values: Any, config: IntConfig, dtype: Any) -> None:
    x = torch.from_numpy(values).to(dtype)
    quantizer = ready(config, x)
    evaluated = quantizer(x)
    packed = quantizer.quantize(x)
    assert evaluated.dtype == dtype and evaluated.shape == x.shape and bool(evaluated.isfinite().all())
    assert torch.equal(packed.dequantize(), evaluated)
    assert torch.equal(QTensor.from_parts(packed.tensors(), packed.metadata()).dequantize(), evaluated)
    assert torch.equal(quantizer.train()(x.clone().requires_grad_()).detach(), evaluated)


@settings(max_examples=100, deadline=None)
@given(tensors, plain)
def test_a_second_pass_changes_next_to_nothing(values: Any, config: IntConfig) -> None:
    x = torch.from_numpy(values)
    once = ready(config, x)(x)
    largest = float(once.abs().max())
    assert torch.allclose(ready(config, once)(once), once, rtol=0, atol=largest * 1e-5 + 1e-30)


@settings(max_examples=100, deadline=None)
@given(tensors, plain)
def test_no_value_is_off_by_more_than_half_a_step(values: Any, config: IntConfig) -> None:
    x = torch.from_numpy(values)
    quantizer = ready(config, x)
    encoded = quantizer.encode(x)
    rows = x.reshape(encoded.codes.shape).double()
    off = (quantizer(x).reshape(encoded.codes.shape).double() - rows).abs()
    # An affine range is off by up to half a step more: its zero point is rounded too.
    limit = (0.5 if config.symmetric else 1.0) * (1 + 1e-4)
    assert bool((off <= limit * encoded.scale.double() + 1e-30).all())
