"""The core's own plugin, ``core``: what qcore offers with no other plugin installed."""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import (
    BackendSpec,
    ExporterSpec,
    MethodSpec,
    ModelSpec,
    QuantizerSpec,
    RouterSpec,
    TaskSpec,
)

__all__: list[str] = []


@hookimpl
def qcore_quantizers() -> list[QuantizerSpec]:
    """Return the integer quantizer."""
    return [
        QuantizerSpec(
            name="int",
            target="qcore.quantizers.integer:IntQuantizer",
            config="qcore.quantizers.config:IntConfig",
            summary="integers of 1 to 8 bits, symmetric or affine, static or dynamic",
            reference="Jacob et al. 2018, arXiv:1712.05877",
            bits=(1, 2, 3, 4, 5, 6, 7, 8),
            granularity=("tensor", "row", "group", "token"),
            tensors=("weight", "input"),
        )
    ]


@hookimpl
def qcore_routers() -> list[RouterSpec]:
    """Return the router that learns and the one that does not."""
    return [
        RouterSpec(
            name="topk",
            target="qcore.routers.topk:TopKRouter",
            config="qcore.routers.config:TopKConfig",
            summary="softmax over the experts, the k most probable are used",
            reference="Shazeer et al. 2017, arXiv:1701.06538",
        ),
        RouterSpec(
            name="uniform",
            target="qcore.routers.uniform:UniformRouter",
            config="qcore.routers.config:UniformConfig",
            summary="every expert with the same weight",
        ),
    ]


@hookimpl
def qcore_backends() -> list[BackendSpec]:
    """Return the backend that is always there."""
    return [
        BackendSpec(
            name="reference",
            target="qcore.backends.reference:ReferenceBackend",
            summary="plain torch: the definition of correct, on every device",
            devices=("cpu", "cuda"),
        )
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the baselines."""
    return [
        MethodSpec(
            name="float",
            target="qcore.methods.float_baseline:FloatMethod",
            config="qcore.methods.config:FloatConfig",
            summary="the task's network in float32, nothing quantized",
        ),
        MethodSpec(
            name="ptq",
            target="qcore.methods.ptq:PtqMethod",
            config="qcore.methods.config:PtqConfig",
            summary="any quantizer applied to a trained network, after calibration",
            reference="Jacob et al. 2018, arXiv:1712.05877",
        ),
    ]


@hookimpl
def qcore_tasks() -> list[TaskSpec]:
    """Return the bundled data sets, and the tasks for files of one's own."""
    return [
        TaskSpec(
            name="digits",
            target="qcore.tasks.bundled:Digits",
            config="qcore.tasks.config:DigitsConfig",
            summary="1797 handwritten digits of 8 x 8 pixels, 10 classes",
            reference="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits",
        ),
        TaskSpec(
            name="breast_cancer",
            target="qcore.tasks.bundled:BreastCancer",
            config="qcore.tasks.config:BreastCancerConfig",
            summary="569 tumours with 30 features, benign or malignant",
            reference="Wolberg, Street and Mangasarian 1995, UCI Breast Cancer Wisconsin (Diagnostic)",
        ),
        TaskSpec(
            name="diabetes",
            target="qcore.tasks.bundled:Diabetes",
            config="qcore.tasks.config:DiabetesConfig",
            summary="442 patients with 10 features, progression after a year",
            reference="Efron et al. 2004, Least Angle Regression",
            problem="regression",
        ),
        TaskSpec(
            name="table",
            target="qcore.tasks.table:Table",
            config="qcore.tasks.config:TableConfig",
            summary="a csv, parquet or npz file of features",
            problem="classification or regression",
            needs="a file of features: --data FILE --target COLUMN",
        ),
        TaskSpec(
            name="images",
            target="qcore.tasks.images:Images",
            config="qcore.tasks.config:ImagesConfig",
            summary="a folder with one folder of images a class",
            needs="a folder of class folders: --data FOLDER",
        ),
    ]


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the networks."""
    return [
        ModelSpec(
            name="mlp",
            target="qcore.nn.mlp:build_mlp",
            config="qcore.nn.config:MLPConfig",
            summary="multilayer perceptron with normalization and dropout",
        ),
        ModelSpec(
            name="cnn",
            target="qcore.nn.cnn:build_cnn",
            config="qcore.nn.config:CNNConfig",
            summary="small convolutional network for images",
        ),
    ]


@hookimpl
def qcore_exporters() -> list[ExporterSpec]:
    """Return the file formats."""
    return [
        ExporterSpec(
            name="safetensors",
            target="qcore.export:save",
            summary="packed weights and JSON metadata, no pickle",
            reference="https://github.com/huggingface/safetensors",
            suffixes=(".safetensors",),
        )
    ]
