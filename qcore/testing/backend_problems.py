"""Packed layers for backends to run: every encoding, width, scale and activation, random and extreme."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qcore.backends import KernelRequest
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.encoded import offset_and_step, stored_range
from qcore.tensor.layers import encode_images
from qcore.testing.inputs import generator, normal

__all__ = [
    "Problem",
    "coded_weight",
    "convolutions",
    "expert_layers",
    "extremes",
    "float_layers",
    "linears",
    "mixed_widths",
    "problem",
]

Scales = Literal["tensor", "row", "group"]
Width = int | Tensor
ENCODINGS = (
    ("ternary", 2),
    ("odd", 1),
    ("odd", 2),
    *(("int", bits) for bits in range(2, 9)),
    *(("uint", bits) for bits in range(1, 9)),
    *(("symmetric", bits) for bits in (1, 2, 3, 5, 8)),
)
MIXED = torch.tensor([8, 1, 3, 2, 4, 1, 2, 3])
"""Widths of rows, over and over, of the encoding ``symmetric``: binary and ternary ones beside wider ones."""
SHAPES: tuple[tuple[int, int], ...] = ((1, 1), (3, 5), (7, 13), (16, 64), (33, 127), (2, 1030))
BATCHES = (1, 3, 17)
TOKENS = ActivationScheme(8)
GROUP_SIZE = 4
WALKS: tuple[tuple[tuple[int, int, int, int], Conv2dShape], ...] = (
    ((4, 3, 3, 3), Conv2dShape()),
    ((4, 3, 3, 3), Conv2dShape((2, 2), (1, 1))),
    ((5, 3, 1, 1), Conv2dShape()),
    ((6, 1, 3, 3), Conv2dShape((1, 1), (1, 1), (1, 1), 3)),
    ((2, 3, 2, 5), Conv2dShape((1, 2), (0, 2), (2, 1))),
    ((7, 1, 3, 3), Conv2dShape((2, 2), (1, 1), (1, 1), 7)),
    ((5, 1, 2, 3), Conv2dShape((1, 2), (2, 0), (2, 1), 5)),
)


@dataclass(frozen=True)
class Problem:
    """A packed layer and an input.

    Attributes:
        name: for messages.
        request: what the backend is asked.
        weight: the weight's codes; ``QTensor.pack`` of it is what the backend gets.
        bias: float32 (out,), or None.
        x: the layer's input, float or coded as the request says.
    """

    name: str
    request: KernelRequest
    weight: Encoded
    bias: Tensor | None
    x: Tensor | Encoded

    def coded_input(self) -> Encoded:
        """Return the input's integer codes."""
        if isinstance(self.x, Encoded):
            return self.x
        scheme = self.request.activation
        assert scheme is not None
        return scheme.encode(self.x) if self.request.conv is None else encode_images(self.x, scheme)

    def to(self, device: str) -> Problem:
        """Return the same problem on ``device``."""
        scheme = self.request.activation
        if scheme is not None and scheme.low is not None and scheme.high is not None:
            scheme = replace(scheme, low=scheme.low.to(device), high=scheme.high.to(device))
        if scheme is not None and scheme.columns is not None:
            scheme = replace(scheme, columns=scheme.columns.to(device))
        return Problem(
            self.name,
            replace(self.request, activation=scheme, device=torch.device(device)),
            _moved(self.weight, device),
            None if self.bias is None else self.bias.to(device),
            _moved(self.x, device) if isinstance(self.x, Encoded) else self.x.to(device),
        )


def linears() -> Iterator[Problem]:
    """Yield integer linear layers: every encoding, width and odd size, then every way to code the input."""
    for encoding, bits in ENCODINGS:
        for shape in SHAPES:
            for scales in ("tensor", "row"):
                weight = coded_weight(encoding, bits, shape, scales)
                yield problem(weight, normal((BATCHES[shape[0] % 3], shape[1]), torch.float32, seed=bits), TOKENS)
    yield from _inputs()


def mixed_widths() -> Iterator[Problem]:
    """Yield linear layers whose rows have different widths."""
    for encoding, widths in (
        ("int", (2, 4, 8)),
        ("int", (3, 5)),
        ("odd", (1, 2, 4)),
        ("uint", (1, 4, 8)),
        ("symmetric", (1, 2, 3, 4, 8)),
        ("symmetric", (1, 2)),
        ("symmetric", (1, 8)),
    ):
        for shape in ((7, 13), (33, 127)):
            chosen = torch.randint(0, len(widths), (shape[0],), generator=generator(shape[1]))
            bits = torch.tensor(widths)[chosen]
            weight = coded_weight(encoding, bits, shape, "row")
            yield problem(weight, normal((3, shape[1]), torch.float32), TOKENS, name=f"{encoding} of {widths} bits")


def extremes() -> Iterator[Problem]:
    """Yield layers whose codes and inputs are all at their ends, long enough to overflow 16 bits."""
    every: tuple[tuple[str, Width], ...] = (*ENCODINGS, ("symmetric", MIXED[:5]))
    for encoding, bits in every:
        for cols in (64, 1024, 4099):
            for end in (0.0, 1.0):
                rows = 3 if isinstance(bits, int) else len(bits)
                weight = coded_weight(encoding, bits, (rows, cols), "tensor", fill=end)
                for value in (-2.0, 2.0):
                    name = f"{encoding} of {_widths(bits)} bits, all {'high' if end else 'low'}, inputs all {value}"
                    yield problem(weight, torch.full((2, cols), value), TOKENS, name=name)


def convolutions() -> Iterator[Problem]:
    """Yield integer convolutions: strides, padding, dilation, groups."""
    every: tuple[tuple[str, Width], ...] = (
        ("ternary", 2),
        ("odd", 1),
        ("int", 4),
        ("int", 8),
        ("uint", 4),
        ("symmetric", 3),
        ("symmetric", MIXED),
    )
    for encoding, bits in every:
        for shape, walk in WALKS:
            weight = coded_weight(encoding, bits, shape, "row")
            x = normal((2, shape[1] * walk.groups, 7, 9), torch.float32, seed=walk.groups)
            for scheme in (TOKENS, ActivationScheme(8, symmetric=False)):
                yield problem(weight, x, scheme, conv=walk)


def float_layers() -> Iterator[Problem]:
    """Yield layers whose sums are float by nature: float inputs, or scales for groups of columns."""
    every: tuple[tuple[str, Width], ...] = (
        ("ternary", 2),
        ("odd", 1),
        ("int", 4),
        ("uint", 4),
        ("int", 8),
        ("symmetric", 1),
        ("symmetric", MIXED),
    )
    for encoding, bits in every:
        for shape in ((1, 1), (7, 13), (33, 127)):
            x = normal((3, shape[1]), torch.float32, seed=shape[0])
            yield problem(coded_weight(encoding, bits, shape, "row"), x, None)
            yield problem(coded_weight(encoding, bits, shape, "group"), x, TOKENS)
            yield problem(coded_weight(encoding, bits, shape, "group"), x, None)
        for kernel, walk in WALKS[:2]:
            x = normal((2, kernel[1] * walk.groups, 7, 9), torch.float32)
            yield problem(coded_weight(encoding, bits, kernel, "row"), x, None, conv=walk)


def expert_layers() -> Iterator[Problem]:
    """Yield integer linear layers of one shape and one input, which may be the experts of a mixture."""
    x = normal((17, 30), torch.float32, seed=7)
    for encoding, bits in (("ternary", 2), ("int", 4), ("int", 8)):
        yield problem(coded_weight(encoding, bits, (20, 30), "row"), x, TOKENS)


def coded_weight(
    encoding: str, bits: Width, shape: tuple[int, ...], scales: Scales, *, fill: float | None = None
) -> Encoded:
    """Return random codes over their whole range, or all at one end (``fill`` 0 or 1), with random scales.

    Widths of rows are repeated, or left out, so that there is one for each row.
    """
    rows, cols = shape[0], int(torch.Size(shape[1:]).numel())
    if isinstance(bits, Tensor):
        bits = bits.repeat(-(-rows // len(bits)))[:rows]
    widths = bits.tolist() if isinstance(bits, Tensor) else [bits] * rows
    drawn = generator(rows * 1000 + cols)
    codes = torch.empty(rows, cols)
    for row, width in enumerate(widths):
        low, top = stored_range(encoding, width)
        random = torch.randint(low, top + 1, (cols,), generator=drawn).float()
        stored = random if fill is None else torch.full((cols,), low + fill * (top - low))
        step, offset = offset_and_step(encoding, width)
        codes[row] = stored * step + offset
    groups = -(-cols // GROUP_SIZE) if scales == "group" else 1
    scale = 0.01 + torch.rand((1 if scales == "tensor" else rows, groups), generator=drawn)
    zero = None
    if encoding == "uint":
        zero = torch.randint(0, 1 << min(widths), scale.shape, generator=drawn).float()
    size = GROUP_SIZE if scales == "group" else None
    return Encoded(codes, scale, torch.Size(shape), torch.float32, encoding, bits, zero, size)


def problem(
    weight: Encoded,
    x: Tensor | Encoded,
    scheme: ActivationScheme | None,
    *,
    conv: Conv2dShape | None = None,
    bias: bool = True,
    name: str | None = None,
) -> Problem:
    """Return the problem of running ``weight`` on ``x``."""
    packed = QTensor.pack(weight)
    rows, groups = weight.scale.shape
    request = KernelRequest(
        op="linear" if conv is None else "conv2d",
        encoding=weight.encoding,
        bits=tuple(sorted({block.bits for block in packed.blocks})),
        scales="group" if groups > 1 else "row" if rows > 1 else "tensor",
        group_size=weight.group_size,
        zero_point=weight.zero_point is not None,
        activation=scheme,
        coded_input=isinstance(x, Encoded),
        weight_shape=weight.shape,
        conv=conv,
        device=weight.scale.device,
        dtype=weight.dtype,
    )
    label = name or f"{request.encoding} of {'/'.join(map(str, request.bits))} bits"
    label = f"{request.op} {tuple(weight.shape)}, {label}, scale a {request.scales}, input {_told(x, scheme)}"
    offsets = normal((weight.shape[0],), torch.float32, seed=23) if bias else None
    return Problem(label, request, weight, offsets, x)


def _inputs() -> Iterator[Problem]:
    """Yield one layer with every way to code its input, and every rank and dtype that an input may have."""
    weight = coded_weight("int", 4, (16, 64), "row")
    x = normal((5, 64), torch.float32, seed=3)
    low, high = torch.full((1, 1), -1.5), torch.full((1, 1), 2.0)
    schemes = (
        ActivationScheme(8, symmetric=False),
        ActivationScheme(4),
        ActivationScheme(2),
        ActivationScheme(8, floor=1e-5),
        ActivationScheme(8, True, False, low=-high, high=high),
        ActivationScheme(8, False, False, low=low, high=high),
    )
    hard = {
        "zeros": torch.zeros(4, 64),
        "huge": x * 1e30,
        "tiny": x * 1e-30,
        "no rows": x[:0],
        "transposed": normal((64, 5), torch.float32).t(),
    }
    for scheme in (TOKENS, *schemes):
        yield problem(weight, x, scheme)
        yield problem(weight, TOKENS.encode(x), None)
        for name, value in hard.items():
            yield problem(weight, value, scheme, name=name)
    yield problem(weight, x, TOKENS, bias=False, name="no bias")
    yield problem(weight, x.bfloat16(), TOKENS, name="bfloat16")
    yield problem(weight, normal((2, 3, 64), torch.float32), TOKENS, name="sequences")
    yield problem(weight, normal((64,), torch.float32), TOKENS, name="one vector")


def _widths(bits: Width) -> str:
    return str(bits) if isinstance(bits, int) else "/".join(map(str, sorted(set(bits.tolist()))))


def _told(x: Tensor | Encoded, scheme: ActivationScheme | None) -> str:
    if scheme is None:
        return f"{tuple(x.shape)} coded" if isinstance(x, Encoded) else f"{tuple(x.shape)} float"
    kind = "symmetric" if scheme.symmetric else "affine"
    return f"{tuple(x.shape)} {kind} {scheme.bits} bits {'per token' if scheme.per_token else 'static'}"


def _moved(encoded: Encoded, device: str) -> Encoded:
    zero = None if encoded.zero_point is None else encoded.zero_point.to(device)
    bits = encoded.bits.to(device) if isinstance(encoded.bits, Tensor) else encoded.bits
    return replace(encoded, codes=encoded.codes.to(device), scale=encoded.scale.to(device), zero_point=zero, bits=bits)
