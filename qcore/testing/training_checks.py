"""Checks on what backends offer for training: it equals the formulas bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qcore.backends import Grid, TrainingKernels
from qcore.testing.backend_checks import available
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.inputs import generator, normal, same_bits
from qcore.testing.subjects import Offer
from qcore.testing.training_problems import TorchTrainingKernels, grids, slices, with_bad_values

_FORMULAS = TorchTrainingKernels()


def training_kernels(offer: Offer) -> tuple[TrainingKernels, str]:
    """Return the kernels and the device they run on, or skip the check where the backend offers none."""
    backend = available(offer)
    device = "cuda" if backend.probe().device.startswith("cuda") else "cpu"
    kernels = backend.training_kernels(torch.device(device))
    if kernels is None:
        raise SkipCheck("it offers no kernels for training")
    return kernels, device


def check_training_rounds_over_ranges_exactly(offer: Offer) -> None:
    """A network trains to the same numbers on every backend: rounding over own ranges equals the formulas."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        for bits in range(2, 9):
            for symmetric, floor in ((True, 0.0), (True, 1e-5), (False, 0.0)):
                got = kernels.round_over_range(x.to(device), bits, symmetric=symmetric, floor=floor)
                wanted = _FORMULAS.round_over_range(x, bits, symmetric=symmetric, floor=floor)
                _compare(got, wanted, f"{name}, {bits} bits, symmetric={symmetric}, floor={floor}")


def check_training_rounds_to_grids_exactly(offer: Offer) -> None:
    """Static ranges, ternary and learned scales: rounding to a given grid equals the formulas."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        for which, grid in grids(x):
            got = kernels.round_to_grid(x.to(device), _moved(grid, device))
            _compare(got, _FORMULAS.round_to_grid(x, grid), f"{name}, {which}")


def check_training_rounds_to_signs_exactly(offer: Offer) -> None:
    """One bit: the sign falls on the right side at the threshold, and that of -0.0 is plus."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        for magnitude in (x.abs().amax().reshape(1, 1), x.abs().amax(dim=1, keepdim=True)):
            for threshold in (None, x[0, 0].reshape(1, 1), x[:, -1:]):
                given = None if threshold is None else threshold.to(device)
                got = kernels.round_to_sign(x.to(device), magnitude.to(device), given)
                _compare(got, _FORMULAS.round_to_sign(x, magnitude, threshold), name)


def check_training_rounds_to_odd_codes_exactly(offer: Offer) -> None:
    """Rows of different widths in one pass: odd codes times a half step equal the formulas."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        for half, top in _odd_grids(x):
            got = kernels.round_to_odd(x.to(device), half.to(device), top.to(device))
            if got is None and type(kernels).round_to_odd is TrainingKernels.round_to_odd:
                raise SkipCheck("it rounds to no odd codes")
            _compare(got, _FORMULAS.round_to_odd(x, half, top), name)


def check_training_multiplies_every_width(offer: Offer) -> None:
    """What a wider row would gain: products of a gradient with all its roundings, within a float sum's rounding."""
    kernels, device = training_kernels(offer)
    tops = torch.tensor([1.0, 2.0, 8.0, 128.0])
    for name, x in slices():
        upstream = normal(tuple(x.shape), torch.float32, seed=8)
        halves = x.abs().mean(dim=1, keepdim=True).clamp_max(1e30) * torch.tensor([[1.0, 0.5, 0.2, 0.0]])
        got = kernels.odd_products(*(given.to(device) for given in (upstream, x, halves, tops)))
        if got is None and type(kernels).odd_products is TrainingKernels.odd_products:
            raise SkipCheck("it multiplies no odd codes")
        wanted = _FORMULAS.odd_products(upstream, x, halves, tops)
        bound = 2.0**-20 * upstream.abs().sum(dim=1, keepdim=True) * 2 * tops * halves + 2.0**-149
        expect(got is not None and got.shape == wanted.shape, f"{name}: not served")
        if got is not None:
            off = (got.cpu().double() - wanted.double()).abs()
            expect(bool((off <= bound).all()), f"{name}: off by {float((off / bound).max()):.3g} of the bound")


def check_training_sums_keep_their_order(offer: Offer) -> None:
    """A mean magnitude is a scale: its sum has a fixed order, so that all backends get the same one."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        for magnitude in (False, True):
            got = kernels.slice_sums(x.to(device), magnitude=magnitude)
            _compare(got, _FORMULAS.slice_sums(x, magnitude=magnitude), f"{name}, magnitude={magnitude}")


def check_training_masks_gradients_exactly(offer: Offer) -> None:
    """What is clipped has no gradient: the mask includes both ends, and nothing else changes."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        upstream = normal(tuple(x.shape), torch.float32, seed=5)
        for low, high in ((x[:, :1], x[:, -1:]), (x.amin().reshape(1, 1) / 2, x.amax().reshape(1, 1))):
            given = [tensor.to(device) for tensor in (upstream, x, low, high)]
            _compare(kernels.mask_gradient(*given), _FORMULAS.mask_gradient(upstream, x, low, high), name)


def check_training_learned_scales_have_their_gradients(offer: Offer) -> None:
    """A learned scale learns the same: ``dx`` is exact, the scale's gradient within the rounding of its sum."""
    kernels, device = training_kernels(offer)
    for name, x in slices():
        upstream = normal(tuple(x.shape), torch.float32, seed=6)
        for count in {1, x.shape[0]}:
            scale = torch.rand(count, 1, generator=generator(4)) * x.abs().mean().clamp_min(1e-30) + 2.0**-100
            for low, high in ((-7.0, 7.0), (0.0, 15.0)):
                found = kernels.learned_scale_gradients(upstream.to(device), x.to(device), scale.to(device), low, high)
                expect(found is not None, f"{name}: not served")
                if found is not None:
                    _compare(found[0], _FORMULAS.learned_scale_gradients(upstream, x, scale, low, high)[0], name)
                    _compare_sum(found[1], upstream, x, scale, low, high, name)


def check_training_refuses_nan_and_infinity(offer: Offer) -> None:
    """A diverged weight must stop the work: a kernel that finds one returns None, and the quantizer raises."""
    kernels, device = training_kernels(offer)
    one = torch.ones(1, 1, device=device)
    for name, bad in with_bad_values():
        x = bad.to(device)
        for symmetric in (True, False):
            expect(kernels.round_over_range(x, 4, symmetric=symmetric) is None, f"rounds over a range with {name}")
        for grid in (Grid(one, -7, 7), Grid(one, -7, 7, one), Grid(one, 0, 15, one, one)):
            expect(kernels.round_to_grid(x, grid) is None, f"rounds to a grid with {name}")
        for threshold in (None, one):
            expect(kernels.round_to_sign(x, one, threshold) is None, f"rounds to signs with {name}")
        expect(kernels.round_to_odd(x, one, one) is None, f"rounds to odd codes with {name}")


def check_training_leaves_its_inputs_alone(offer: Offer) -> None:
    """Latent weights belong to the optimizer, and saved tensors to autograd: no kernel writes into either."""
    kernels, device = training_kernels(offer)
    x = normal((4, 300), torch.float32).to(device)
    scale, before = x.abs().amax(dim=1, keepdim=True), x.clone()
    results = [
        kernels.round_over_range(x, 4, symmetric=True),
        kernels.round_to_grid(x, Grid(scale, -7, 7, scale, scale.round())),
        kernels.round_to_sign(x, scale, scale),
        kernels.round_to_odd(x, scale, scale),
        kernels.odd_products(x, x, scale, scale[:1, 0]),
        kernels.mask_gradient(x, x, -scale, scale),
        (kernels.learned_scale_gradients(x, x, scale, -7, 7) or (None,))[0],
        kernels.slice_sums(x),
    ]
    expect(torch.equal(x, before), "the tensor was changed")
    expect(torch.equal(scale, x.abs().amax(dim=1, keepdim=True)), "a scale was changed")
    for result in results:
        expect(result is None or result.data_ptr() != x.data_ptr(), "the result is the input itself")


def _odd_grids(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield half steps and ``2**(bits-1)``: for all slices alike, and for each its own."""
    widest = x.abs().amax().clamp_max(1e37)
    for bits in (1, 2, 4, 8):
        yield widest.reshape(1, 1) / ((1 << bits) - 1), torch.full((1, 1), 2.0 ** (bits - 1))
    rows = x.shape[0]
    tops = torch.tensor([1.0, 2.0, 8.0, 128.0]).repeat(-(-rows // 4))[:rows].reshape(-1, 1)
    yield x.abs().mean(dim=1, keepdim=True).clamp_max(1e36), tops


def _moved(grid: Grid, device: str) -> Grid:
    inverse = None if grid.inverse is None else grid.inverse.to(device)
    zero_point = None if grid.zero_point is None else grid.zero_point.to(device)
    return Grid(grid.scale.to(device), grid.low, grid.high, inverse, zero_point)


def _compare(got: Tensor | None, wanted: Tensor | None, name: str) -> None:
    expect(got is not None and wanted is not None, f"{name}: not served")
    if got is not None and wanted is not None:
        got = got.cpu()
        same = same_bits(got, wanted)
        expect(same, f"{name}: {int((got != wanted).sum()) if got.shape == wanted.shape else 'the shape'} differs")


def _compare_sum(got: Tensor, upstream: Tensor, x: Tensor, scale: Tensor, low: float, high: float, name: str) -> None:
    """Expect the scale's gradient within one step of float32, and the rounding of a float64 sum."""
    v = x / scale
    terms = (torch.where((v > low) & (v < high), v.round() - v, v.clamp(low, high)) * upstream).double()
    terms = terms if scale.shape[0] > 1 else terms.reshape(1, -1)
    wanted = terms.sum(dim=1)
    bound = wanted.abs() * 2.0**-23 + terms.shape[1] * 2.0**-52 * terms.abs().sum(dim=1)
    expect(got.shape == scale.shape, f"{name}: dscale has shape {tuple(got.shape)}")
    off = (got.cpu().double().reshape(-1) - wanted).abs()
    expect(bool((off <= bound + 2.0**-149).all()), f"{name}: dscale is off by {float(off.max()):.3g}")
