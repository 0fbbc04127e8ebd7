"""``nmpqat/neuron``: section 4 of the paper's contract, point by point."""

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError, QuantizationError
from qcore.quantizers import make_quantizer
from qcore.tensor.integer import odd_codes, odd_inverse
from qcore_nmpqat.quantizers.gates import mixture_weights
from qcore_nmpqat.quantizers.neuron import NeuronQuantizer

WIDTHS = (1, 2, 4, 8)


def weight(rows: int = 8, cols: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed)) * 0.1


def made(x: torch.Tensor, reference: str = "nmpqat/neuron") -> NeuronQuantizer:
    quantizer = make_quantizer(reference)
    quantizer.initialize(x)
    return quantizer


def mixed(x: torch.Tensor, reference: str = "nmpqat/neuron") -> NeuronQuantizer:
    """Return a quantizer whose rows have all widths in turn."""
    quantizer = made(x, reference)
    quantizer.set_widths(torch.tensor(WIDTHS).repeat(len(x))[: len(x)])
    return quantizer


def mixture(quantizer: NeuronQuantizer, x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Return the soft mixture of all widths, in float64: what the surrogate gradient is the gradient of."""
    values = []
    for width in WIDTHS:
        alone = made(x, f"nmpqat/neuron(widths=[{width}])")
        values.append(alone(x).detach().double())
    weights = mixture_weights(strength, quantizer.config.steps, quantizer.config.tau)
    return (weights.t().unsqueeze(2) * torch.stack(values)).sum(dim=0)


def test_every_neuron_begins_with_one_bit():
    assert made(weight()).widths().tolist() == [1] * 8
    assert made(torch.randn(4, 2, 3, 3)).widths().tolist() == [1] * 4


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    x = weight()
    expected = torch.where(x < 0, -1.0, 1.0) * x.abs().double().mean(dim=1, keepdim=True).float()
    assert torch.equal(made(x)(x), expected)


def test_zero_counts_as_positive():
    x = torch.tensor([[0.0, -0.0, -1.0, 1.0]])
    assert made(x)(x).tolist() == [[0.5, 0.5, -0.5, 0.5]]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_has_at_most_two_to_the_width_values(width):
    x = weight(6, 5000)
    values = made(x, f"nmpqat/neuron(widths=[{width}])")(x)
    counts = [len(row.unique()) for row in values]
    assert max(counts) <= 2**width
    assert min(counts) > 2 ** (width - 1)


def test_a_wider_row_is_nearer():
    x = weight(64, 512)
    errors = [float((made(x, f"nmpqat/neuron(widths=[{b}])")(x).detach() - x).square().mean()) for b in range(1, 9)]
    relative = [error / float(x.square().mean()) for error in errors]
    assert relative == sorted(relative, reverse=True)
    assert relative[0] == pytest.approx(0.363, abs=0.01)
    assert relative[1] == pytest.approx(0.119, abs=0.005)
    assert relative[3] == pytest.approx(0.0115, abs=0.001)


def test_mixed_rows_are_those_of_their_widths():
    x = weight()
    values = mixed(x)(x)
    for row, width in enumerate(WIDTHS * 2):
        assert torch.equal(values[row], made(x, f"nmpqat/neuron(widths=[{width}])")(x)[row])


@pytest.mark.parametrize("scale", ["mse", "absmax", "learned"])
def test_weights_get_the_plain_gradient_whatever_the_strengths(scale):
    x = weight().requires_grad_()
    quantizer = mixed(x.detach(), f"nmpqat/neuron(scale={scale!r})").train()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    quantizer(x).backward(upstream)
    if scale == "learned":
        kept = x.grad != 0
        assert torch.equal(x.grad[kept], upstream[kept])
    else:
        assert torch.equal(x.grad, upstream)


def test_the_demand_rule_is_the_gradient_of_the_mixture():
    x, upstream = weight(12, 40), torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    quantizer = made(x).train()
    with torch.no_grad():
        quantizer.strength.copy_(torch.linspace(0.02, 0.98, 12))
    quantizer(x).backward(upstream)
    eps = 1e-6
    strength = quantizer.strength.detach().double()
    raised, lowered = (mixture(quantizer, x, strength + sign * eps) for sign in (1, -1))
    numeric = ((raised - lowered) * upstream.double()).sum(dim=1) / (2 * eps)
    assert torch.allclose(quantizer.strength.grad.double(), numeric, rtol=1e-4, atol=1e-5)


def test_a_step_raises_a_strength_where_more_precision_helps():
    x = weight(2, 64)
    quantizer = made(x).train()
    coarse, fine = quantizer(x).detach(), made(x, "nmpqat/neuron(widths=[2])")(x).detach()
    towards = (coarse - fine) * torch.tensor([[1.0], [-1.0]])  # the loss falls, and rises, towards two bits
    quantizer(x).backward(towards)
    demand = -quantizer.strength.grad
    assert demand[0] > 0 > demand[1]
    assert quantizer.demand[0] > 0 > quantizer.demand[1]


def test_no_gradient_no_motion():
    x = weight()
    quantizer = mixed(x).train()
    quantizer(x).backward(torch.zeros_like(x))
    assert torch.equal(quantizer.strength.grad, torch.zeros(8))


def test_what_all_widths_represent_moves_nothing():
    """Signs of one magnitude are exact at 1 bit; at other widths with absmax steps they lie on the outermost levels."""
    x = torch.where(torch.rand(4, 32, generator=torch.Generator().manual_seed(2)) < 0.5, -0.5, 0.5)
    quantizer = made(x, "nmpqat/neuron(scale='absmax')").train()
    quantizer(x).backward(torch.randn(x.shape, generator=torch.Generator().manual_seed(4)))
    assert torch.allclose(quantizer.strength.grad, torch.zeros(4), atol=1e-5)


def test_torch_and_kernels_agree(monkeypatch):
    x, upstream = weight(7, 129), torch.randn(7, 129, generator=torch.Generator().manual_seed(5))
    results = []
    for backend in ("", "reference"):
        monkeypatch.setenv("QCORE_BACKEND", backend)
        quantizer = mixed(x).train()
        y = quantizer(x.clone().requires_grad_())
        y.backward(upstream)
        results.append((y.detach(), quantizer.strength.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_strengths_stay_between_0_and_1():
    x = weight(3)
    quantizer = made(x).train()
    with torch.no_grad():
        quantizer.strength.copy_(torch.tensor([-3.0, 0.4, 9.0]))
    quantizer(x)
    assert quantizer.strength.tolist() == pytest.approx([0.0, 0.4, 1.0])
    assert quantizer.widths().tolist() == [1, 2, 8]


def test_widths_of_eval_are_those_of_the_last_step():
    """An optimizer moves strengths after the forward pass: eval mode follows at once, and so does a packed layer."""
    x = weight(4)
    quantizer = made(x, "nmpqat/neuron(hysteresis=0.02)").train()
    quantizer(x)
    with torch.no_grad():
        quantizer.strength.copy_(torch.tensor([0.26, 0.28, 0.6, 0.9]))
    evaluated = quantizer.eval()(x)
    assert quantizer.widths().tolist() == [1, 2, 4, 8]
    assert torch.equal(quantizer.quantize(x).dequantize(), evaluated)
    quantizer.train()(x)
    assert torch.equal(quantizer.eval()(x), evaluated)


def test_bits_are_differentiable():
    quantizer = made(weight(2))
    bits = quantizer.bits()
    assert bits.tolist() == [1.0, 1.0]
    bits.sum().backward()
    assert bool((quantizer.strength.grad > 0).all())


def test_a_learned_step_gets_lsq_gradients():
    x = weight(4, 50)
    quantizer = mixed(x, "nmpqat/neuron(scale='learned')").train()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    quantizer(x.clone().requires_grad_()).backward(upstream)
    step = quantizer.half_step.detach()
    for row, width in enumerate(WIDTHS):
        top, level = 2.0 ** (width - 1), WIDTHS.index(width)
        h = step[row, level]
        v = x[row] / h
        codes = odd_codes(x[row].clone(), odd_inverse(h), top)
        inside = (v / 2 >= -top) & (v / 2 < top)
        terms = torch.where(inside, codes - v, codes) * upstream[row]
        expected = terms.sum() / (x.shape[1] * top) ** 0.5
        assert quantizer.half_step.grad[row, level] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert int((quantizer.half_step.grad != 0).sum()) == 4


@pytest.mark.parametrize("scale", ["mse", "absmax", "learned"])
def test_a_pruned_row_is_zero(scale):
    x = weight(4)
    quantizer = made(x, f"nmpqat/neuron(widths=[0, 1, 4], scale={scale!r})")
    quantizer.set_widths(torch.tensor([0, 1, 4, 0]))
    values = quantizer(x)
    assert bool((values[[0, 3]] == 0).all())
    assert quantizer.bits().tolist() == [0.0, 1.0, 4.0, 0.0]
    assert torch.equal(quantizer.quantize(x).dequantize(), values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("widths=[2, 1]", "rise"),
        ("widths=[1, 9]", "among"),
        ("widths=[0]", "prunes"),
        ("thresholds=[0.5]", "thresholds"),
        ("thresholds=[0.5, 0.4, 0.6]", "rising"),
        ("thresholds=[0.0, 0.4, 0.6]", "between 0 and 1"),
        ("hysteresis=0.2", "hysteresis"),
        ("tau=0", "tau"),
        ("treshold=[0.5]", "treshold"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_quantizer(f"nmpqat/neuron({options})")


def test_widths_that_are_not_among_the_options_are_refused():
    with pytest.raises(ValueError, match="widths are"):
        made(weight(2)).set_widths(torch.tensor([1, 3]))


def test_nan_is_refused_with_the_tensors_name():
    quantizer = made(weight(2))
    quantizer.tensor_name = "head.weight"
    with pytest.raises(QuantizationError, match=r"head\.weight"):
        quantizer(torch.full((2, 64), torch.nan))


def test_nothing_of_training_is_in_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    quantized = qcore.quantize(model, {"type:Linear": "nmpqat/neuron"})
    quantized[0].weight_quantizer.set_widths(torch.tensor(WIDTHS * 2))
    path = tmp_path / "model.safetensors"
    qcore.save(quantized, path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = list(file.keys())
    assert not [name for name in names if "strength" in name or "demand" in name or "level" in name or "price" in name]
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    loaded = qcore.load(path, model=nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), backend="reference")
    torch.testing.assert_close(loaded(x), quantized.eval()(x))  # sorted neurons add up in another order
