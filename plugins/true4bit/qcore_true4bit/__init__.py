"""True 4-bit training for qcore: networks trained in fifteen levels from the first step.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, ModelSpec, QuantizerSpec, TaskSpec

__all__ = ["qcore_methods", "qcore_models", "qcore_quantizers", "qcore_tasks"]

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
def qcore_tasks() -> list[TaskSpec]:
    """Return the image sets that the method is tried on."""
    return [
        TaskSpec(
            name="cifar10",
            target="qcore_true4bit.tasks.cifar:Cifar10",
            config="qcore_true4bit.tasks.config:Cifar10Config",
            summary="60,000 photographs of 32 x 32 pixels, 10 classes",
            reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
            needs="the CIFAR-10 archive: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="cifar100",
            target="qcore_true4bit.tasks.cifar:Cifar100",
            config="qcore_true4bit.tasks.config:Cifar100Config",
            summary="60,000 photographs of 32 x 32 pixels, 100 classes",
            reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
            needs="the CIFAR-100 archive: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="fashion_mnist",
            target="qcore_true4bit.tasks.fashion:FashionMnist",
            config="qcore_true4bit.tasks.config:FashionMnistConfig",
            summary="70,000 grey pictures of garments of 28 x 28 pixels, 10 classes",
            reference="Xiao, Rasul and Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747",
            needs="the four idx files: --data FOLDER, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="image_folder",
            target="qcore_true4bit.tasks.folder:ImageFolder",
            config="qcore_true4bit.tasks.config:ImageFolderConfig",
            summary="train/ and test/ folders of class folders, class folders alone, or a packed-JPEG npz",
            needs="a folder of images or a packed npz: --data PATH",
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
