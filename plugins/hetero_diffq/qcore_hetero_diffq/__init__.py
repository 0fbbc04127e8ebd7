"""Heterogeneous differentiable quantization for qcore: bit widths learned through step sizes and ranges.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, ModelSpec, QuantizerSpec, TaskSpec

__all__ = ["qcore_methods", "qcore_models", "qcore_quantizers", "qcore_tasks"]

__version__ = "0.1.0"

_PAPER = "Edge Inference with Fully Differentiable Quantized Mixed Precision Neural Networks, arXiv:2206.07741"


@hookimpl
def qcore_quantizers() -> list[QuantizerSpec]:
    """Return the quantizers."""
    return [
        QuantizerSpec(
            name="sliced",
            target="qcore_hetero_diffq.quantizers.sliced:Sliced",
            summary="weights whose widths follow from a learned step and range of each channel",
            reference=_PAPER,
            config="qcore_hetero_diffq.quantizers.config:SlicedConfig",
            bits=(1.0, 1.6, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            granularity=("row", "tensor", "group"),
        ),
        QuantizerSpec(
            name="activation",
            target="qcore_hetero_diffq.quantizers.activation:Activation",
            summary="an input whose width follows from a learned step and range",
            reference=_PAPER,
            config="qcore_hetero_diffq.quantizers.config:ActivationConfig",
            bits=(2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            granularity=("tensor",),
            tensors=("input",),
        ),
        QuantizerSpec(
            name="packed_activation",
            target="qcore_hetero_diffq.quantizers.packed:PackedActivation",
            summary="what a packed layer keeps of hetero_diffq/activation: a range, nothing to train",
            reference=_PAPER,
            config="qcore_hetero_diffq.quantizers.config:PackedActivationConfig",
            bits=(2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
            granularity=("tensor",),
            tensors=("input",),
        ),
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the method."""
    return [
        MethodSpec(
            name="hetero_diffq",
            target="qcore_hetero_diffq.method:HeteroDiffq",
            summary="widths learned for each channel under a byte budget that is kept",
            reference=_PAPER,
            config="qcore_hetero_diffq.config:HeteroDiffqConfig",
        )
    ]


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the networks."""
    return [
        ModelSpec(
            name="mobilenet_v2",
            target="qcore_hetero_diffq.models.build:build_mobilenet_v2",
            summary="inverted residuals with linear bottlenecks, of any width, with or without norms",
            reference="Sandler et al. 2018, arXiv:1801.04381",
            config="qcore_hetero_diffq.models.config:MobileNetV2Config",
        ),
        ModelSpec(
            name="efficientnet_lite0",
            target="qcore_hetero_diffq.models.build:build_efficientnet_lite0",
            summary="EfficientNet-B0 without squeeze and excitation, and with ReLU6",
            reference="Tan and Le 2019, arXiv:1905.11946",
            config="qcore_hetero_diffq.models.config:EfficientNetConfig",
        ),
        ModelSpec(
            name="squeezenext",
            target="qcore_hetero_diffq.models.squeezenext:build_squeezenext",
            summary="SqueezeNext of 23 layers: two-stage bottlenecks around windows of 1 x 3 and 3 x 1",
            reference="Gholami et al. 2018, arXiv:1803.10615",
            config="qcore_hetero_diffq.models.config:SqueezeNextConfig",
        ),
        ModelSpec(
            name="resnet20",
            target="qcore_hetero_diffq.models.resnet:build_resnet20",
            summary="the residual network of 20 layers for images of 32 x 32 pixels",
            reference="He et al. 2016, arXiv:1512.03385",
            config="qcore_hetero_diffq.models.config:ResNet20Config",
        ),
    ]


@hookimpl
def qcore_tasks() -> list[TaskSpec]:
    """Return the image sets."""
    return [
        TaskSpec(
            name="imagenet",
            target="qcore_hetero_diffq.tasks.imagenet:ImageNet",
            config="qcore_hetero_diffq.tasks.config:ImageNetConfig",
            summary="folders train/ and val/ of class folders, as ImageNet-1k comes",
            reference="Russakovsky et al. 2015, arXiv:1409.0575",
            needs="the folders of ImageNet: --data FOLDER, or imagenet/ in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="imagenet_sample",
            target="qcore_hetero_diffq.tasks.sample:ImageNetSample",
            config="qcore_hetero_diffq.tasks.config:ImageNetSampleConfig",
            summary="one image of each of ImageNet's 1000 classes, to compare networks on; not for training",
            reference="Deng et al. 2009, ImageNet: A Large-Scale Hierarchical Image Database",
            needs="the packed-JPEG npz: --data FILE, or in the folder QCORE_DATA",
        ),
    ]
