"""A whole packed model beside its float twin: the same network with float layers of the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from qcore.backends.choice import Candidate
from qcore.backends.reference import ReferenceBackend
from qcore.errors import UsageError
from qcore.export import ModelFile, inspect, load
from qcore.foreign import ForeignError, guarded
from qcore.measure.bench.contenders import Contender, module_contender
from qcore.measure.bench.contest import Contest, torch_threads
from qcore.measure.bench.layers import Options, Progress, new_report, peer_contenders, sample_input
from qcore.measure.bench.plan import MODEL_BATCHES
from qcore.measure.bench.result import Report
from qcore.nn import PackedConv2d, PackedLayer
from qcore.nn.convert import replace_modules
from qcore.nn.init import skip_init
from qcore.nn.plan import compile_plan

__all__ = ["bench_model", "float_twin", "sample_shape"]

PLAN = "packed, plan"

TOLERANCE = 0.25
"""Deviation of a peer's output from the float twin's: errors of 8-bit activations add up from layer to layer."""


def bench_model(
    path: Path,
    batches: Sequence[int] = MODEL_BATCHES,
    sample: Sequence[int] | None = None,
    options: Options | None = None,
    progress: Progress = lambda text: None,
) -> Report:
    """Time the model file ``path`` at each of ``batches``; ``sample`` is the shape of one sample, if it cannot be told.

    Bytes touched are those of all weights, the input and the output; what lies between the layers is not counted.

    Raises:
        ModelFileError: the file cannot be read.
        UsageError: it holds no packed layer, or the shape of a sample is not known or does not fit.
        BackendError: the named backend cannot run it.
    """
    options = options or Options()
    sizes = tuple(sample) if sample else sample_shape(inspect(path))
    with torch_threads(options.threads):
        device = options.device
        network = load(path, backend=options.backend, registry=options.registry).to(device.device)
        twin = float_twin(network).requires_grad_(False)
        _check_sample(twin, sizes, device.device)
        twin = twin.to(device.dtype)
        reference = _on_the_reference(network)
        report, bandwidth = new_report(options, progress)
        for place, batch in enumerate(batches):
            x = sample_input(batch, *sizes).to(device.device)
            given = x.to(device.dtype)
            floats = module_contender(twin, given, kind="float", name=device.base, weight_nbytes=_nbytes(twin))
            packed = _packed_contender(network, reference, x)
            peers, absent = peer_contenders(twin, given, options, models=True)
            plan = _plan_contender(network, packed, x, options)
            if isinstance(plan, str):
                absent.append((PLAN, plan))
            contest = Contest(
                subject=path.name,
                batch=batch,
                rounds=options.rounds,
                threads=options.threads,
                cold=options.cold,
                bandwidth=bandwidth,
                activation_nbytes=given.element_size() * (x.numel() + _output(twin, given).numel()),
                tolerance=TOLERANCE,
                device=device,
            )
            planned = [] if isinstance(plan, str) else [plan]
            report.rows.extend(contest.run([floats, packed, *planned, *peers], absent))
            progress(f"{place + 1}/{len(batches)}: {path.name}, batch {batch}")
    return report


def float_twin(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in which torch's float layers stand for the packed ones, with the same numbers.

    Raises:
        UsageError: there is no packed layer, or torch has no layer that pads as one of them does.
    """
    made: dict[int, nn.Module] = {}  # a layer that stands in several places stays one layer
    twins: dict[str, nn.Module] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, PackedLayer):
            twins[path] = made.setdefault(id(layer), _float_layer(layer))
    if not twins:
        raise UsageError("the model holds no packed layer: all of it runs in torch", "qcore pack makes one that does")
    return replace_modules(copy.deepcopy(model), twins).eval()


def sample_shape(file: ModelFile) -> tuple[int, ...]:
    """Return the shape of one sample of the network in ``file``.

    Raises:
        UsageError: the file does not tell.
    """
    config: dict[str, Any] = {} if file.architecture is None else file.architecture["config"]
    if "in_features" in config:
        return (int(config["in_features"]),)
    if "in_channels" in config and "image_size" in config:
        return (int(config["in_channels"]), int(config["image_size"]), int(config["image_size"]))
    if file.extra.get("features"):
        return (len(file.extra["features"]),)
    raise UsageError(f"{file.path} does not tell the shape of a sample", "say it with --input, such as 3x32x32")


def _check_sample(twin: nn.Module, sizes: tuple[int, ...], device: torch.device) -> None:
    try:
        guarded("call", lambda: _output(twin, sample_input(1, *sizes).to(device)))
    except ForeignError as error:
        given = "x".join(map(str, sizes))
        hint = "say the shape of one sample, without the batch, such as 64 or 3x32x32"
        raise UsageError(f"--input {given}: the model takes no such sample: {error.reason}", hint) from error


def _packed_contender(network: nn.Module, reference: nn.Module, x: torch.Tensor) -> Contender:
    made = module_contender(network, x, kind="packed", name="packed", weight_nbytes=_nbytes(network))
    return replace(made, right=_output(reference, x))


def _plan_contender(network: nn.Module, packed: Contender, x: torch.Tensor, options: Options) -> Contender | str:
    """Return the model compiled into one call, or why it is not timed."""
    if options.cold:
        return "a plan shares the weights of its model: they cannot be moved in turn"
    try:
        plan = compile_plan(network, options.backend, registry=options.registry)
    except UsageError as error:
        return error.message
    made = module_contender(plan, x, kind="packed", name=PLAN, weight_nbytes=packed.weight_nbytes)
    return replace(made, right=packed.right, captured=options.device.is_gpu)


def _on_the_reference(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` whose packed layers run in plain torch: what they must compute."""
    copied = copy.deepcopy(network)
    for layer in copied.modules():
        if isinstance(layer, PackedLayer):
            layer.prepare([Candidate("core/reference", ReferenceBackend())], forced=True)
    return copied


def _output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return cast(torch.Tensor, model(x))


def _float_layer(layer: PackedLayer) -> nn.Module:
    weight = layer.weight.dequantize()
    twin: nn.Module
    if isinstance(layer, PackedConv2d):
        options = _walk(layer)
        channels = weight.shape[1] * layer.shape.groups
        twin = skip_init(nn.Conv2d, channels, weight.shape[0], weight.shape[2:], bias=layer.bias is not None, **options)
    else:
        twin = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    state = {"weight": weight} | ({} if layer.bias is None else {"bias": layer.bias})
    twin.load_state_dict(state)
    return twin


def _walk(layer: PackedConv2d) -> dict[str, Any]:
    shape, padding = layer.shape, _padding(layer)
    return {
        "stride": shape.stride,
        "padding": padding,
        "dilation": shape.dilation,
        "groups": shape.groups,
        "padding_mode": layer.padding_mode,
    }


def _padding(layer: PackedConv2d) -> tuple[int, int]:
    """Return the padding (height, width) of ``layer`` as torch's constructor takes it."""
    if layer.padding_mode == "zeros":
        return layer.shape.padding
    left, right, top, bottom = layer.reversed_padding
    if (left, top) != (right, bottom):
        raise UsageError("a convolution pads one side more than the other: it has no float twin")
    return (top, left)


def _nbytes(model: nn.Module) -> int:
    """Return the bytes of the kernels of packed layers, and of all parameters of two dimensions and more."""
    kernels = [
        layer.choice.kernel.nbytes for layer in model.modules() if isinstance(layer, PackedLayer) and layer.choice
    ]
    floats = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    return sum(kernels) + sum(cast(torch.Tensor, each).numel() * each.element_size() for each in floats)
