"""True 4-bit training for qcore: networks trained in fifteen levels from the first step.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, ModelSpec, QuantizerSpec

__all__ = ["qcore_methods", "qcore_models", "qcore_quantizers"]

__version__ = "0.1.0"

_PAPER = "True 4-Bit Quantized CNN Training on CPU, arXiv:2603.13931"


@hookimpl
def qcore_quantizers() -> list[QuantizerSpec]:
    """Return the quantizers."""
    return [
        QuantizerSpec(
            name="tanh",
            target="qcore_true4bit.quantizers.tanh:TanhQuantizer",
            summary="weights in fifteen levels, scaled by their largest magnitude or a learned step",
            reference=_PAPER,
            config="qcore_true4bit.quantizers.config:TanhConfig",
            bits=(4.0,),
            granularity=("tensor", "row"),
        ),
        QuantizerSpec(
            name="dorefa",
            target="qcore_true4bit.quantizers.dorefa:DoReFaQuantizer",
            summary="weights through a tanh onto levels from -1 to 1 (DoReFa)",
            reference="Zhou et al. 2016, arXiv:1606.06160",
            config="qcore_true4bit.quantizers.config:DoReFaConfig",
            bits=(4.0,),
            granularity=("tensor",),
        ),
        QuantizerSpec(
            name="activation",
            target="qcore_true4bit.quantizers.activation:ActivationQuantizer",
            summary="activations after a ReLU, from 0 to a learned bound (PACT, LSQ)",
            reference="Choi et al. 2018, arXiv:1805.06085",
            config="qcore_true4bit.quantizers.config:ActivationConfig",
            bits=(8.0, 4.0),
            granularity=("tensor",),
            tensors=("input",),
        ),
    ]


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the networks."""
    return [
        ModelSpec(
            name="vgg4bit",
            target="qcore_true4bit.models.vgg:build_vgg",
            summary="six 3x3 convolutions with batch norm, one hidden layer and a head",
            reference=_PAPER,
            config="qcore_true4bit.models.config:VGGConfig",
        ),
        ModelSpec(
            name="simple_resnet4bit",
            target="qcore_true4bit.models.resnet:build_resnet",
            summary="six 3x3 convolutions with batch norm, one of them with a skip, and a head",
            reference=_PAPER,
            config="qcore_true4bit.models.config:ResNetConfig",
        ),
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the method."""
    return [
        MethodSpec(
            name="true4bit",
            target="qcore_true4bit.method:True4Bit",
            summary="a network trained in fifteen levels, against float twins, its ablation and other ways to 4 bits",
            reference=_PAPER,
            config="qcore_true4bit.config:True4BitConfig",
        )
    ]
