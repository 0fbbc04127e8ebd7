"""``nmpqat/noise``: noise in training, the codes of ``nmpqat/neuron`` in eval mode."""

import copy

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError, QuantizationError
from qcore.nn import set_generator
from qcore.quantizers import make_quantizer
from qcore_nmpqat.quantizers.neuron import NeuronQuantizer
from qcore_nmpqat.quantizers.noise import FARTHEST, NoiseQuantizer

WIDTHS = (1, 2, 4, 8)
DISTRIBUTIONS = ("uniform", "normal")


def drawn(seed: int = 9) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(rows: int = 8, cols: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=drawn(seed)) * 0.1


def made(x: torch.Tensor, reference: str = "nmpqat/noise") -> NoiseQuantizer:
    quantizer = make_quantizer(reference)
    quantizer.initialize(x)
    quantizer.generator = drawn()
    return quantizer


def spread(quantizer: NoiseQuantizer) -> NoiseQuantizer:
    """Return the quantizer with logits from -3 to 3."""
    with torch.no_grad():
        quantizer.logit.copy_(torch.linspace(-3, 3, len(quantizer.logit)))
    return quantizer


def noise(shape: tuple[int, ...], distribution: str) -> torch.Tensor:
    """Return the noise that a quantizer of :func:`made` draws first: within -1/2..1/2, or of deviation 1/2; float64."""
    if distribution == "normal":
        return torch.randn(shape, generator=drawn()).double() / 2
    return torch.rand(shape, generator=drawn()).double() - 0.5


def formula(x: torch.Tensor, logit: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Return ``w + range / (2**b - 1) * noise`` in float64, as the paper writes it."""
    bits = 1 + 7 * torch.sigmoid(logit.double())
    wide = x.double()
    extent = wide.amax(dim=1) - wide.amin(dim=1)
    return wide + (extent / (2**bits - 1)).unsqueeze(1) * held


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_training_adds_noise_as_large_as_a_step(distribution):
    x = weight()
    quantizer = spread(made(x, f"nmpqat/noise(distribution={distribution!r})")).train()
    expected = formula(x, quantizer.logit.detach(), noise(x.shape, distribution))
    assert torch.allclose(quantizer(x).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_gradient_of_the_logit_is_that_of_the_formula_with_the_noise_held(distribution):
    x, upstream = weight(12, 40), torch.randn(12, 40, generator=drawn(1))
    quantizer = spread(made(x, f"nmpqat/noise(distribution={distribution!r})")).train()
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(upstream)
    logit, held, eps = quantizer.logit.detach().double(), noise(x.shape, distribution), 1e-6
    raised, lowered = ((formula(x, logit + sign * eps, held) * upstream.double()).sum(dim=1) for sign in (1, -1))
    assert torch.allclose(quantizer.logit.grad.double(), (raised - lowered) / (2 * eps), rtol=1e-4, atol=1e-6)
    assert torch.equal(leaf.grad, upstream)


def test_demand_is_the_descent_of_the_strength():
    x = weight(2)
    quantizer = made(x).train()
    quantizer(x).backward(torch.tensor([[1.0], [-1.0]]) * (quantizer(x).detach() - x))
    s = quantizer.strength.detach()
    assert torch.allclose(quantizer.demand, -0.01 * quantizer.logit.grad / (s * (1 - s)), rtol=1e-4)
    assert bool((quantizer.demand != 0).all())


def test_where_noise_hurts_the_width_grows():
    x = weight(4, 500)
    quantizer = made(x).train()
    (quantizer(x) - x).square().sum().backward()
    assert bool((quantizer.logit.grad < 0).all())
    assert bool((quantizer.demand > 0).all())


def test_a_wider_row_has_less_noise():
    x = weight(8, 2000)
    off = (spread(made(x)).train()(x) - x).detach().square().mean(dim=1)
    assert off.tolist() == sorted(off.tolist(), reverse=True)


def test_a_neuron_begins_in_the_middle_of_the_widths():
    quantizer = made(weight())
    assert quantizer.real_bits().tolist() == pytest.approx([4.0] * 8)
    assert quantizer.widths().tolist() == [4] * 8
    started = made(weight(), "nmpqat/noise(start=2.9)")
    assert started.real_bits().tolist() == pytest.approx([2.9] * 8)
    assert started.widths().tolist() == [2] * 8
    assert float(make_quantizer("nmpqat/noise(start=2.9)").bits()) == 2.0


def test_the_hard_width_is_the_nearest():
    quantizer = made(weight(7))
    real = torch.tensor([1.2, 1.6, 2.9, 3.1, 5.9, 6.1, 7.5])
    quantizer.put((real - 1) / 7)
    assert torch.allclose(quantizer.real_bits(), real, atol=1e-4)
    assert quantizer.widths().tolist() == [1, 2, 2, 4, 4, 8, 8]
    assert quantizer.bits().tolist() == [1, 2, 2, 4, 4, 8, 8]


def test_bits_have_the_gradient_of_the_real_width():
    quantizer = spread(made(weight()))
    quantizer.bits().sum().backward()
    s = torch.sigmoid(quantizer.logit.detach())
    assert torch.allclose(quantizer.logit.grad, 7 * s * (1 - s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", ["mse", "absmax"])
def test_eval_mode_has_the_codes_of_the_neuron(scale, dtype):
    x = weight().to(dtype)
    quantizer = made(x, f"nmpqat/noise(scale={scale!r})").eval()
    neuron: NeuronQuantizer = make_quantizer(f"nmpqat/neuron(scale={scale!r})").eval()
    neuron.initialize(x)
    for each in (quantizer, neuron):
        each.set_widths(torch.tensor(WIDTHS * 2))
    before = quantizer.generator.get_state()
    evaluated = quantizer(x)
    assert evaluated.dtype == dtype
    assert torch.equal(evaluated, neuron(x))
    assert torch.equal(quantizer.quantize(x).dequantize(), evaluated)
    assert torch.equal(quantizer.generator.get_state(), before)


def test_eval_mode_passes_the_gradient_straight_through():
    x, upstream = weight().requires_grad_(), torch.randn(8, 64, generator=drawn(3))
    quantizer = made(x.detach()).eval()
    quantizer(x).backward(upstream)
    assert torch.equal(x.grad, upstream)
    assert quantizer.logit.grad is None


def test_widths_that_stand_still_are_hard_in_training_too():
    x = weight(4)
    quantizer = made(x).train()
    quantizer.put((torch.tensor([1.4, 2.2, 4.4, 7.1]) - 1) / 7)
    quantizer.logit.requires_grad_(False)
    bits = torch.tensor(WIDTHS).double()
    expected = x + ((x.amax(dim=1) - x.amin(dim=1)) / (2**bits - 1)).unsqueeze(1) * noise(x.shape, "uniform")
    assert torch.allclose(quantizer(x.clone().requires_grad_()).double(), expected, rtol=1e-5, atol=1e-7)


def test_weights_can_settle_on_the_codes():
    x = weight()
    quantizer = made(x, "nmpqat/noise(settle='codes')").train()
    moving = quantizer(x)
    quantizer.logit.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    settled = quantizer(leaf)
    assert torch.equal(settled, quantizer.eval()(x))
    assert not torch.equal(settled, moving)
    settled.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))


def test_noise_comes_from_the_generator_that_is_given():
    x = weight()
    model = qcore.quantize(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), {"type:Linear": "nmpqat/noise"}).train()
    inputs, results = torch.randn(3, 8, generator=drawn()), []
    for seed in (1, 1, 2):
        set_generator(model, drawn(seed))
        results.append(model(inputs).detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    first, own = (make_quantizer("nmpqat/noise").train() for _ in range(2))
    for each in (first, own):
        each.initialize(x)
    assert torch.equal(first(x), own(x))
    assert not torch.equal(first(x), own(x.neg()).neg())


def test_a_copy_draws_the_same_noise_as_the_original():
    model = qcore.quantize(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), {"type:Linear": "nmpqat/noise"}).train()
    set_generator(model, drawn())
    copied = copy.deepcopy(model)
    inputs = torch.randn(3, 8, generator=drawn(1))
    assert torch.equal(model(inputs), copied(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_range_gets_no_noise(dtype):
    x = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, -1.0, 0.0]]).to(dtype)
    quantizer = made(x).train()
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    assert y.dtype == dtype
    assert torch.equal(y[:2], x[:2])
    y.sum().backward()
    assert quantizer.logit.grad.tolist()[:2] == [0.0, 0.0]
    single = made(torch.tensor([[0.3], [-2.0]]).to(dtype)).train()
    column = torch.tensor([[0.3], [-2.0]]).to(dtype)
    assert torch.equal(single(column), column)
    assert torch.equal(single.eval().quantize(column).dequantize(), single(column))


def test_a_huge_range_does_not_overflow():
    x = torch.tensor([[3e38, -3e38, 1.0]])
    quantizer = made(x, "nmpqat/noise(start=8)").train()
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    y.backward(torch.full_like(x, 1e-30))
    assert bool(torch.isfinite(y).all())
    assert bool(torch.isfinite(quantizer.logit.grad).all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_are_refused_in_training(bad):
    quantizer = made(weight(2)).train()
    quantizer.tensor_name = "head.weight"
    with pytest.raises(QuantizationError, match=r"head\.weight"):
        quantizer(torch.full((2, 64), bad))


def test_one_width_trains_with_the_noise_of_it():
    x = weight()
    quantizer = made(x, "nmpqat/noise(widths=[3])").train()
    y = quantizer(x)
    y.sum().backward()
    assert quantizer.real_bits().tolist() == [3.0] * 8
    assert quantizer.widths().tolist() == [3] * 8
    assert not quantizer.logit.grad.any()


def test_logits_stay_where_they_can_come_back_from():
    quantizer = made(weight(3)).train()
    with torch.no_grad():
        quantizer.logit.copy_(torch.tensor([-50.0, 0.5, 50.0]))
    quantizer(weight(3))
    assert quantizer.logit.tolist() == [-FARTHEST, 0.5, FARTHEST]
    quantizer.put(torch.tensor([0.0, 0.5, 1.0]))
    assert quantizer.logit.tolist() == [-FARTHEST, 0.0, FARTHEST]


def test_changing_levels_leaves_other_logits_alone():
    quantizer = spread(made(weight()))
    before, widths = quantizer.logit.detach().clone(), quantizer.widths()
    quantizer.set_levels(torch.where(widths == 8, 0, quantizer.levels()))
    assert torch.equal(quantizer.logit.detach()[widths < 8], before[widths < 8])
    assert quantizer.widths()[widths == 8].tolist() == [1] * int((widths == 8).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("widths=[0, 1]", "among"),
        ("start=9", "between 1 and 8"),
        ("tau=0.2", "noise has none"),
        ("scale='learned'", "absmax"),
        ("distribution='laplace'", "normal"),
        ("hysteresis=0.2", "hysteresis"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_quantizer(f"nmpqat/noise({options})")


def test_it_packs_as_neurons_do_and_nothing_of_training_is_in_the_file(tmp_path):
    quantized = qcore.quantize(
        nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)),
        {"type:Linear": {"weight": "nmpqat/noise", "input": "core/int(bits=8, granularity='token')"}},
    )
    quantized[0].weight_quantizer.set_widths(torch.tensor(WIDTHS * 2))
    path = tmp_path / "model.safetensors"
    qcore.save(quantized, path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        assert not [name for name in file.keys() if "quantizer" in name]  # noqa: SIM118 - it is no mapping
    x = torch.randn(5, 16, generator=drawn())
    loaded = qcore.load(path, model=nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), backend="reference")
    assert torch.equal(loaded(x), quantized.eval()(x))
