"""Checks on quantizers, over float32 and bfloat16, many shapes and hard values."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from qcore.errors import QuantizationError
from qcore.quantizers import Quantizer, make_quantizer
from qcore.tensor import ENCODINGS, QTensor
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.inputs import DTYPES, activations, normal, random_state_kept, same_bits, weights
from qcore.testing.subjects import Offer, expect_json_config

TENSOR_NAME = "blocks.0.linear.weight"


def inputs(offer: Offer) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for what the quantizer is meant for, in every dtype."""
    meant_for = getattr(offer.spec, "tensors", ("weight",))
    probe: Quantizer = offer.make()
    takes_empty = probe.scheme() is not None and not probe.needs_calibration  # a batch of no samples is an input's
    for dtype in DTYPES:
        for name, x in chain(
            weights(dtype) if "weight" in meant_for else (), activations(dtype) if "input" in meant_for else ()
        ):
            if x.numel() or takes_empty:
                yield f"{name}, {str(dtype).removeprefix('torch.')}", x


def ready(offer: Offer, x: Tensor) -> Quantizer:
    """Return a new quantizer that has seen ``x`` and is in eval mode."""
    quantizer: Quantizer = offer.make()
    quantizer.tensor_name = TENSOR_NAME
    quantizer.initialize(x)
    return quantizer.eval()


def check_packed_equals_eval(offer: Offer) -> None:
    """What is stored is what was evaluated: ``quantize(x).dequantize()`` equals ``q(x)`` bit for bit."""
    for name, x in inputs(offer):
        quantizer = ready(offer, x)
        packed, evaluated = quantizer.quantize(x).dequantize(), quantizer(x)
        expect(same_bits(packed, evaluated), f"{name}: {_difference(packed, evaluated)}")


def check_training_equals_eval(offer: Offer) -> None:
    """What is trained is what is evaluated: the forward values of both modes are the same."""
    if not offer.make().trains_on_codes:
        raise SkipCheck("the quantizer says that it trains on something else than codes")
    for name, x in inputs(offer):
        quantizer = ready(offer, x)
        evaluated = quantizer(x)
        trained = quantizer.train()(x.clone().requires_grad_())
        expect(same_bits(trained.detach(), evaluated.detach()), f"{name}: {_difference(trained, evaluated)}")


def check_output_is_like_input(offer: Offer) -> None:
    """A layer can put it in without a thought: same shape and dtype, finite values."""
    for name, x in inputs(offer):
        y = ready(offer, x)(x)
        expect(y.shape == x.shape, f"{name}: shape {tuple(y.shape)} for {tuple(x.shape)}")
        expect(y.dtype == x.dtype, f"{name}: dtype {y.dtype} for {x.dtype}")
        expect(bool(torch.isfinite(y).all()), f"{name}: NaN or infinity comes out")


def check_input_is_untouched(offer: Offer) -> None:
    """Latent weights belong to the optimizer: no method may write into the tensor it is given."""
    for name, x in inputs(offer):
        before = x.clone()
        quantizer = ready(offer, x)
        y = quantizer(x)
        quantizer.quantize(x)
        expect(torch.equal(before, x), f"{name}: the input was changed")
        expect(y.numel() == 0 or y.data_ptr() != x.data_ptr(), f"{name}: the output is the input itself")


def check_encoding_is_well_formed(offer: Offer) -> None:
    """Kernels rely on it: whole codes in float32, and finite scales shaped (rows or 1, groups or 1)."""
    for name, x in inputs(offer):
        encoded = ready(offer, x).encode(x)
        rows, cols = encoded.codes.shape
        groups = 1 if encoded.group_size is None else -(-cols // encoded.group_size)
        expect(encoded.encoding in ENCODINGS, f"{name}: unknown encoding {encoded.encoding!r}")
        expect(rows * cols == x.numel(), f"{name}: {rows} rows of {cols} codes for {x.numel()} numbers")
        expect(encoded.codes.dtype == torch.float32, f"{name}: codes are {encoded.codes.dtype}")
        expect(torch.equal(encoded.codes, encoded.codes.round()), f"{name}: codes are not whole numbers")
        shapes = {(1, 1), (rows, 1), (rows, groups)}
        expect(tuple(encoded.scale.shape) in shapes, f"{name}: scale has shape {tuple(encoded.scale.shape)}")
        expect(encoded.scale.dtype == torch.float32, f"{name}: the scale is {encoded.scale.dtype}")
        expect(bool(torch.isfinite(encoded.scale).all()), f"{name}: a scale is NaN or infinite")
        expect(bool((encoded.scale >= 0).all()), f"{name}: a scale is negative")


def check_layout_does_not_matter(offer: Offer) -> None:
    """A view quantizes like its copy: strides may not change the codes."""
    for name, x in inputs(offer):
        if not x.is_contiguous():
            copied = x.contiguous()
            expect(same_bits(ready(offer, x)(x), ready(offer, copied)(copied)), f"{name}: differs from its copy")


def check_nan_and_infinity_are_refused(offer: Offer) -> None:
    """A diverged weight must stop the work, and the message must say which one it is."""
    for dtype in DTYPES:
        for bad in (torch.nan, torch.inf, -torch.inf):
            x = normal((4, 6), dtype)
            quantizer = ready(offer, x)
            x[2, 3] = bad
            for what, call in (("forward", quantizer), ("quantize", quantizer.quantize)):
                try:
                    call(x)
                except QuantizationError as error:
                    expect(TENSOR_NAME in str(error), f"{what}: the message does not name the tensor: {error}")
                else:
                    expect(False, f"{what} accepts {bad} in {dtype}")


def check_gradient_is_finite(offer: Offer) -> None:
    """Training survives hard values: gradients of the input and of learned parameters exist and are finite."""
    for name, x in inputs(offer):
        quantizer = ready(offer, x).train()
        leaf, upstream = x.clone().requires_grad_(), normal(tuple(x.shape), x.dtype, seed=7)
        quantizer(leaf).backward(upstream)
        expect(leaf.grad is not None, f"{name}: no gradient reaches the input")
        found = {"input": leaf.grad, **{key: p.grad for key, p in quantizer.named_parameters() if p.requires_grad}}
        for key, gradient in found.items():
            if gradient is not None:
                expect(bool(torch.isfinite(gradient).all()), f"{name}: the gradient of {key} is NaN or infinite")


def check_gradient_is_as_documented(offer: Offer) -> None:
    """The gradient is the paper's: it equals ``expected_gradient(x, upstream)``, which a quantizer may offer."""
    if not hasattr(offer.make(), "expected_gradient"):
        raise SkipCheck("the quantizer has no method expected_gradient(x, upstream) to compare with")
    for name, x in inputs(offer):
        quantizer = ready(offer, x).train()
        leaf, upstream = x.clone().requires_grad_(), normal(tuple(x.shape), x.dtype, seed=7)
        quantizer(leaf).backward(upstream)
        wanted = cast(Callable[[Tensor, Tensor], Tensor], quantizer.expected_gradient)(x, upstream)
        expect(leaf.grad is not None and torch.allclose(leaf.grad, wanted), f"{name}: {_difference(leaf.grad, wanted)}")


def check_same_input_same_output(offer: Offer) -> None:
    """A run can be repeated: two quantizers of one config, and one called twice, give the same numbers."""
    for name, x in inputs(offer):
        first, second = ready(offer, x), ready(offer, x)
        y = first(x)
        expect(same_bits(y, first(x)), f"{name}: a second call differs")
        expect(same_bits(y, second(x)), f"{name}: a second quantizer differs")


def check_random_state_is_left_alone(offer: Offer) -> None:
    """Seeds belong to the run: nothing may read or set a global random state."""
    x = normal((6, 8), torch.float32)
    with random_state_kept():
        quantizer = ready(offer, x)
        quantizer(x)
        quantizer.quantize(x)
        quantizer.train()(x.clone().requires_grad_()).sum().backward()


def check_state_round_trip(offer: Offer) -> None:
    """A checkpoint is complete: a new quantizer that loads the state, strictly, gives the same numbers."""
    for name, x in inputs(offer):
        quantizer, other = ready(offer, x), offer.make().eval()
        state = {key: value.clone() for key, value in quantizer.state_dict().items()}
        other.load_state_dict(state)
        expect(not other.needs_calibration, f"{name}: the copy still needs calibration")
        expect(same_bits(quantizer(x), other(x)), f"{name}: the copy gives other numbers")


def check_copy_is_independent(offer: Offer) -> None:
    """``copy.deepcopy`` keeps the numbers and shares no state."""
    x = normal((6, 8), torch.float32)
    quantizer = ready(offer, x)
    before, clone = quantizer(x), copy.deepcopy(quantizer)
    expect(same_bits(before, clone(x)), "the copy gives other numbers")
    with torch.no_grad():
        for tensor in (*clone.parameters(), *clone.buffers()):
            tensor.zero_()
    expect(same_bits(before, quantizer(x)), "changing the copy changes the original")


def check_bits_are_sane(offer: Offer) -> None:
    """Sizes are counted from it: ``bits()`` is finite, above 0, at most 32, one number or one a row."""
    for shape in ((5, 8), (4, 2, 3, 3)):
        x = normal(shape, torch.float32)
        bits = ready(offer, x).bits()
        expect(bits.is_floating_point(), f"bits are {bits.dtype}")
        expect(bool(torch.isfinite(bits).all()), "a width is NaN or infinite")
        expect(bool((bits > 0).all() and (bits <= 32).all()), f"a width is outside (0, 32]: {bits.tolist()}")
        expect(bits.dim() <= 2, f"bits have shape {tuple(bits.shape)}")


def check_packed_parts_round_trip(offer: Offer) -> None:
    """A file holds it all: a QTensor rebuilt from tensors and JSON metadata is the same, and nbytes is their sum."""
    for name, x in inputs(offer):
        packed = ready(offer, x).quantize(x)
        metadata = json.loads(json.dumps(packed.metadata()))
        rebuilt = QTensor.from_parts(packed.tensors(), metadata)
        expect(same_bits(rebuilt.dequantize(), packed.dequantize()), f"{name}: the rebuilt tensor differs")
        stored = sum(tensor.numel() * tensor.element_size() for tensor in packed.tensors().values())
        expect(packed.nbytes == stored, f"{name}: nbytes is {packed.nbytes}, its tensors take {stored}")


def check_scheme_is_what_it_encodes(offer: Offer) -> None:
    """Kernels code the inputs themselves: ``scheme()``, where there is one, gives the codes of ``encode``."""
    for name, x in inputs(offer):
        quantizer = ready(offer, x)
        scheme = quantizer.scheme()
        if scheme is None:
            return
        ours, theirs = quantizer.encode(x), scheme.encode(x)
        expect(torch.equal(ours.codes.reshape(-1), theirs.codes.reshape(-1)), f"{name}: the codes differ")
        expect(torch.equal(ours.scale, theirs.scale), f"{name}: the scales differ")


def check_made_again_from_its_description(offer: Offer) -> None:
    """Files name their quantizers: ``describe()`` is JSON from which the same quantizer can be made."""
    quantizer: Quantizer = offer.make()
    description = json.loads(json.dumps(quantizer.describe()))
    again = make_quantizer(description, offer.registry)
    expect(type(again) is type(quantizer), f"it became a {type(again).__name__}")
    expect(again.config == quantizer.config, f"its config became {again.config!r}")


def check_config_is_json(offer: Offer) -> None:
    """Runs are repeated from their files: the config survives JSON, and refuses keys it does not know."""
    expect_json_config(offer)


def _difference(a: Tensor | None, b: Tensor) -> str:
    if a is None:
        return "there is none"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{tuple(a.shape)} {a.dtype} against {tuple(b.shape)} {b.dtype}"
    wrong = (a != b).flatten().nonzero().flatten()
    if not len(wrong):
        return "the signs of zeros differ"
    ours, theirs = (float(tensor.detach().flatten()[int(wrong[0])]) for tensor in (a, b))
    return f"{len(wrong)} of {a.numel()} differ, first {ours!r} against {theirs!r}"
