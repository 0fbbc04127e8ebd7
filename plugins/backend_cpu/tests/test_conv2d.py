from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight, same

SCHEMES = (
    TOKENS,
    ActivationScheme(8, symmetric=False),
    ActivationScheme(8, False, False, low=torch.full((1, 1), -1.5), high=torch.full((1, 1), 2.0)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_walk_equals_the_reference(isa: str, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    channels, out = groups * data.draw(st.integers(1, 9)), groups * data.draw(st.integers(1, 20))
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    conv = Conv2dShape(data.draw(pair), padding, data.draw(pair), groups)
    width = data.draw(st.sampled_from([("ternary", 2), ("int", 4), ("uint", 8), ("odd", 1), ("int", 5)]))
    weight = make_weight(
        *width, (out, channels // groups, *kernel), scales=data.draw(st.sampled_from(["row", "tensor"]))
    )
    ours, reference = kernels(weight, data.draw(st.sampled_from(SCHEMES)), bias=torch.randn(out), conv=conv)
    size = (data.draw(st.integers(5, 14)), data.draw(st.integers(5, 14)))
    x = torch.randn(data.draw(st.integers(0, 3)), channels, *size)
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("width", [("ternary", 2), ("int", 4), ("int", 3), ("odd", 1), ("uint", 8)], ids=str)
@pytest.mark.parametrize("size", [(1, 97), (3, 200), (4, 4), (2, 1)])
def test_windows_read_in_the_image_equal_the_reference(isa: str, width: tuple[str, int], size: tuple[int, int]) -> None:
    for channels, stride in ((8, 1), (16, 2), (5, 1)):
        ours, reference = kernels(
            make_weight(*width, (70, channels, 3, 3)), TOKENS, conv=Conv2dShape((1, stride), (1, 1))
        )
        x = torch.randn(2, channels, *size)
        wanted = reference.call(x)
        for format in (torch.contiguous_format, torch.channels_last):
            y = ours.call(x.to(memory_format=format))
            assert torch.equal(y, wanted)
            assert y.is_contiguous(memory_format=format)


@pytest.mark.parametrize("channels", [1, 16, 37])
def test_depthwise_equals_the_reference(isa: str, channels: int) -> None:
    conv = Conv2dShape((1, 1), (1, 1), (1, 1), channels)
    ours, reference = kernels(make_weight("int", 8, (channels, 1, 3, 3)), TOKENS, conv=conv)
    x = torch.randn(2, channels, 11, 13)
    assert torch.equal(ours.call(x), reference.call(x))


def test_mixed_widths_and_channels_last_equal_the_reference(isa: str) -> None:
    weight = make_weight("int", [2, 4, 8, 3] * 10, (40, 8, 3, 3))
    ours, reference = kernels(weight, TOKENS, conv=Conv2dShape((1, 1), (1, 1)))
    x = torch.randn(2, 8, 20, 20).to(memory_format=torch.channels_last)
    assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("encoding,bits", [("int", 8), ("uint", 8), ("odd", 8), ("odd", 3)])
def test_coded_images_equal_the_reference(isa: str, encoding: str, bits: int) -> None:
    from qcore.tensor.layers import reshaped

    weight = make_weight("int", 4, (10, 3, 3, 3))
    ours, reference = kernels(weight, None, coded=True, conv=Conv2dShape((1, 1), (1, 1)))
    x = reshaped(make_weight(encoding, bits, (2, 3 * 64)), torch.Size((2, 3, 8, 8)))
    assert torch.equal(ours.call(x), reference.call(x))


def test_an_image_with_nan_is_nan_and_spoils_no_other(isa: str) -> None:
    ours, reference = kernels(make_weight("int", 4, (10, 3, 3, 3)), TOKENS, conv=Conv2dShape())
    x = torch.randn(3, 3, 8, 8)
    x[1, 0, 4, 4] = float("nan")
    y = ours.call(x)
    assert bool(y[1].isnan().all())
    assert same(y[::2], reference.call(x)[::2])


def test_an_image_smaller_than_the_kernel_is_a_usage_error(isa: str) -> None:
    ours, _ = kernels(make_weight("int", 4, (10, 3, 3, 3)), TOKENS, conv=Conv2dShape())
    for shape in ((1, 3, 2, 8), (1, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(UsageError):
            ours.call(torch.randn(shape))
