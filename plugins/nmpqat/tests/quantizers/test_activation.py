"""``nmpqat/activation``: clips and widths of a layer's inputs, and the integer grid they share."""

import copy

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import CalibrationError, ConfigError, QuantizationError
from qcore.nn import PackedLinear, QuantLinear
from qcore.quantizers import make_quantizer
from qcore_nmpqat.quantizers.activation import SMALLEST, ActivationQuantizer
from qcore_nmpqat.quantizers.gates import mixture_weights
from qcore_nmpqat.quantizers.grid import column_scheme, levels_of
from qcore_nmpqat.quantizers.packed import PackedActivation

WIDTHS = (4, 8, 16)


def inputs(rows: int = 32, cols: int = 6, *, signed: bool = False, seed: int = 0) -> torch.Tensor:
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    x = x * torch.logspace(-1, 1, cols)
    return x if signed else x.relu()


def made(x: torch.Tensor, reference: str = "nmpqat/activation") -> ActivationQuantizer:
    quantizer = make_quantizer(reference)
    quantizer.initialize(x)
    return quantizer


def layers(x: torch.Tensor, reference: str = "nmpqat/activation", widths: tuple[int, ...] = WIDTHS) -> QuantLinear:
    """Return a trained layer whose input features have all widths in turn."""
    linear = nn.Linear(x.shape[1], 5)
    rules = {"type:Linear": {"weight": "nmpqat/neuron", "input": reference}}
    model = qcore.quantize(nn.Sequential(linear), rules).train()
    model(x)
    layer = model[0]
    count = x.shape[1]
    layer.input_quantizer.set_widths(torch.tensor(widths).repeat(count)[:count])
    layer.weight_quantizer.set_widths(torch.tensor((1, 2, 4, 8)).repeat(5)[:5])
    return layer


def test_every_feature_begins_with_four_bits():
    assert made(inputs()).widths().tolist() == [4] * 6


@pytest.mark.parametrize("signed", [False, True])
def test_grids_align(signed):
    four, eight, sixteen = (levels_of(width, signed=signed) for width in WIDTHS)
    assert eight % four == 0
    assert sixteen % eight == 0
    assert sixteen < 2 ** (15 if signed else 16)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("signed", [False, True])
def test_a_feature_has_at_most_two_to_the_width_values_within_its_clip(width, signed):
    x = inputs(4000, signed=signed)
    quantizer = made(x)
    quantizer.set_widths(torch.full((6,), width))
    values = quantizer(x)
    low = -1.0 if signed else 0.0
    values = values.detach()
    assert float(values.min()) >= low
    assert float(values.max()) <= 1.0
    assert max(len(column.unique()) for column in values.t()) <= 2**width
    top = levels_of(width, signed=signed)
    exact = (x / quantizer.clip()).clamp(low, 1)
    assert bool(((values - exact).abs() <= 0.5 / top + 1e-6).all())


def test_the_first_batch_tells_the_sign_and_the_clips():
    x = inputs(signed=True)
    quantizer = made(x)
    assert int(quantizer.is_signed) == 1
    assert torch.equal(quantizer.clip(), x.abs().amax(dim=0))
    assert int(made(inputs()).is_signed) == 0


def test_a_dead_feature_gets_the_median_clip():
    x = inputs()
    x[:, 2] = 0
    peaks = x.abs().amax(dim=0)
    assert float(made(x).clip()[2]) == float(peaks[peaks > 0].median())
    assert bool((made(torch.zeros(4, 3)).clip() >= SMALLEST).all())


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_of_input_and_clip(signed):
    x = inputs(64, signed=signed)
    quantizer = made(x).train()
    with torch.no_grad():
        quantizer.alpha.mul_(0.5)
    leaf, upstream = x.clone().requires_grad_(), torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    quantizer(leaf).backward(upstream)
    clip = quantizer.clip()
    inside = (x.abs() < clip) if signed else (x > 0) & (x < clip)
    beyond = torch.where(x >= clip, 1.0, 0.0) - (torch.where(x <= -clip, 1.0, 0.0) if signed else 0.0)
    assert torch.allclose(leaf.grad, upstream / clip * inside)
    assert torch.allclose(quantizer.alpha.grad, (upstream / clip * beyond).sum(dim=0), rtol=1e-4, atol=1e-5)
    assert bool((beyond != 0).any())


def test_lsq_adds_the_roundings():
    x = inputs(64)
    found = {}
    for gradient in ("pact", "lsq"):
        quantizer = made(x, f"nmpqat/activation(gradient={gradient!r})").train()
        values = quantizer(x.clone().requires_grad_())
        values.backward(torch.ones_like(x))
        found[gradient] = quantizer.alpha.grad
    clip = made(x).clip()
    inside = (x > 0) & (x < clip)
    roundings = torch.where(inside, (values.detach() - x / clip) / clip, 0.0).sum(dim=0)
    assert torch.allclose(found["lsq"] - found["pact"], roundings, rtol=1e-4, atol=1e-5)


def test_the_demand_rule_is_the_gradient_of_the_mixture():
    x, upstream = inputs(50), torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    quantizer = made(x).train()
    with torch.no_grad():
        quantizer.strength.copy_(torch.linspace(0.05, 0.95, 6))
    quantizer(x.clone().requires_grad_()).backward(upstream)
    candidates = []
    for width in WIDTHS:
        top = levels_of(width, signed=False)
        candidates.append((x.double() / quantizer.clip().double()).clamp(0, 1).mul(top).round() / top)
    strength, eps = quantizer.strength.detach().double(), 1e-6

    def loss(moved: torch.Tensor) -> torch.Tensor:
        weights = mixture_weights(moved, quantizer.config.steps, quantizer.config.tau)
        return ((torch.stack(candidates, dim=2) * weights).sum(dim=2) * upstream.double()).sum(dim=0)

    numeric = (loss(strength + eps) - loss(strength - eps)) / (2 * eps)
    assert torch.allclose(quantizer.strength.grad.double(), numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("widths", [(4,), (4, 8), WIDTHS])
def test_packed_equals_eval_bit_for_bit(signed, widths):
    x = inputs(40, 20, signed=signed)
    layer = layers(x, widths=widths)
    expected = layer.eval()(x)
    packed = qcore.pack(nn.Sequential(layer), backend="reference")
    assert isinstance(packed[0], PackedLinear)
    assert torch.equal(packed(x), expected)


def test_eval_computes_what_training_trains():
    x = inputs(40, 20)
    layer = layers(x)
    trained = layer.train()(x).detach()
    assert torch.allclose(layer.eval()(x), trained, rtol=1e-4, atol=1e-5)


def test_the_layer_scales_its_columns_by_the_clips():
    x = inputs(40, 20)
    layer = layers(x, widths=(16,))
    layer.weight_quantizer.set_widths(torch.full((5,), 8))
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer.eval()(x), plain, atol=0.02 * float(plain.abs().max()))


def test_what_is_kept_of_it_has_nothing_to_train(tmp_path):
    x = inputs(40, 20)
    layer = layers(x)
    path = tmp_path / "model.safetensors"
    model = nn.Sequential(layer)
    expected = model.eval()(x)
    qcore.save(model, path)
    loaded = qcore.load(path, model=nn.Sequential(nn.Linear(20, 5)), backend="reference")
    kept = loaded[0].input_quantizer
    assert isinstance(kept, PackedActivation)
    assert not list(kept.parameters())
    assert {name for name, _ in kept.named_buffers()} == {"clip", "width", "is_signed"}
    assert torch.equal(loaded(x), expected)


def test_the_clips_of_a_new_layer_belong_to_the_optimizer():
    rules = {"type:Linear": {"weight": "nmpqat/neuron", "input": "nmpqat/activation"}}
    model = qcore.quantize(nn.Sequential(nn.Linear(6, 3)), rules).train()
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    model(inputs()).sum().backward()
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert model[0].input_quantizer.alpha.grad is not None


def test_sixteen_bits_are_computed_with_and_not_stored():
    x = inputs()
    quantizer = made(x)
    quantizer.set_widths(torch.tensor([4, 8, 16, 4, 8, 16]))
    assert quantizer.encode(x).bits == 16
    with pytest.raises(QuantizationError, match="not stored"):
        quantizer.quantize(x)


def test_codes_come_before_clips():
    quantizer = make_quantizer("nmpqat/activation")
    with pytest.raises(CalibrationError, match="never set"):
        quantizer.encode(inputs())


def test_another_number_of_features_is_refused():
    with pytest.raises(ConfigError, match="6 clips for 4 features"):
        made(inputs()).encode(inputs(cols=4))


def test_the_scheme_is_the_grid_of_the_widest():
    clip = torch.ones(3)
    assert column_scheme(clip, torch.tensor([4, 4, 8]), signed=False).bits == 8
    wide = column_scheme(clip, torch.tensor([4, 16, 8]), signed=False)
    assert wide.bits == 16
    assert wide.columns.step.tolist() == [[4369.0, 1.0, 257.0]]


def test_a_convolution_has_no_columns():
    rules = {"type:Conv2d": {"weight": "nmpqat/neuron", "input": "nmpqat/activation"}}
    with pytest.raises(ConfigError, match="linear"):
        qcore.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), rules)


def test_that_clips_are_known_is_looked_up_once():
    """A look at a number halts a GPU's queue; once set, a clip that an optimizer moves to 0 is no unknown one."""
    quantizer = made(inputs())
    assert not quantizer.needs_calibration
    with torch.no_grad():
        quantizer.alpha.zero_()
    assert not quantizer.needs_calibration


def test_a_state_brings_its_own_knowledge():
    known, fresh = made(inputs()), make_quantizer("nmpqat/activation")
    fresh.expect_features(6)
    assert fresh.needs_calibration
    unset = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    fresh.load_state_dict(known.state_dict())
    assert not fresh.needs_calibration
    assert torch.equal(fresh(inputs()), known(inputs()))
    fresh.load_state_dict(unset)
    assert fresh.needs_calibration
    assert fresh.column_scale() is None


def test_a_checkpoint_in_place_makes_clips_known():
    known, fresh = made(inputs()), make_quantizer("nmpqat/activation")
    fresh.expect_features(6)
    assert fresh.needs_calibration
    with torch.no_grad():
        for name, tensor in [*fresh.named_parameters(), *fresh.named_buffers()]:
            tensor.copy_(known.state_dict()[name])
    assert not fresh.needs_calibration
    assert torch.equal(fresh.column_scale(), known.clip())


def test_a_copy_and_new_features_know_for_themselves():
    known = made(inputs())
    copied = copy.deepcopy(known)
    assert not known.needs_calibration
    copied.expect_features(3)
    assert copied.needs_calibration
    assert not known.needs_calibration
    unset = copy.deepcopy(copied)
    copied.initialize(inputs(cols=3))
    assert unset.needs_calibration
    assert not copied.needs_calibration
