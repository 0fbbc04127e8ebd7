"""NMP-QAT for qcore: every neuron learns its own precision.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, ModelSpec, QuantizerSpec, TaskSpec

__all__ = ["qcore_methods", "qcore_models", "qcore_quantizers", "qcore_tasks"]

__version__ = "0.1.0"

_PAPER = "Adaptive Neuron-level Mixed Precision QAT, arXiv:2605.25054"


@hookimpl
def qcore_quantizers() -> list[QuantizerSpec]:
    """Return the quantizers."""
    return [
        QuantizerSpec(
            name="neuron",
            target="qcore_nmpqat.quantizers.neuron:NeuronQuantizer",
            summary="weights whose rows learn a width of 1, 2, 4 or 8 bits each",
            reference=_PAPER,
            config="qcore_nmpqat.quantizers.config:NeuronConfig",
            bits=(1.0, 2.0, 4.0, 8.0),
            granularity=("row",),
        ),
        QuantizerSpec(
            name="noise",
            target="qcore_nmpqat.quantizers.noise:NoiseQuantizer",
            summary="the same codes and widths, learned with noise in place of rounding (DiffQ)",
            reference="Differentiable Model Compression via Pseudo Quantization Noise, arXiv:2104.09987",
            config="qcore_nmpqat.quantizers.config:NoiseConfig",
            bits=(1.0, 2.0, 4.0, 8.0),
            granularity=("row",),
        ),
        QuantizerSpec(
            name="activation",
            target="qcore_nmpqat.quantizers.activation:ActivationQuantizer",
            summary="activations of 4, 8 or 16 bits within a learned clip, both a neuron's own",
            reference=_PAPER,
            config="qcore_nmpqat.quantizers.config:ActivationConfig",
            bits=(4.0, 8.0, 16.0),
            granularity=("column",),
            tensors=("input",),
        ),
        QuantizerSpec(
            name="packed_activation",
            target="qcore_nmpqat.quantizers.packed:PackedActivation",
            summary="what a packed layer keeps of nmpqat/activation: clips and widths, nothing to train",
            reference=_PAPER,
            config="qcore_nmpqat.quantizers.config:PackedActivationConfig",
            bits=(4.0, 8.0, 16.0),
            granularity=("column",),
            tensors=("input",),
        ),
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the method."""
    return [
        MethodSpec(
            name="nmpqat",
            target="qcore_nmpqat.method:NmpQat",
            summary="every neuron learns its width, against float, uniform widths and other ways to choose",
            reference=_PAPER,
            config="qcore_nmpqat.config:NmpQatConfig",
        )
    ]


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the network."""
    return [
        ModelSpec(
            name="tabular_transformer",
            target="qcore_nmpqat.models.transformer:build_transformer",
            summary="a small transformer over binned features, each a token",
            reference="after Padhi et al. 2021, Tabular Transformers for Modeling Multivariate Time Series (TabFormer)",
            config="qcore_nmpqat.models.config:TabularTransformerConfig",
        )
    ]


@hookimpl
def qcore_tasks() -> list[TaskSpec]:
    """Return the tabular and telecom data that the method is tried on."""
    return [
        TaskSpec(
            name="covertype",
            target="qcore_nmpqat.tasks.covertype:Covertype",
            config="qcore_nmpqat.tasks.config:CovertypeConfig",
            summary="patches of forest with 54 features, 7 kinds of trees",
            reference="Blackard 1998, Covertype, UCI Machine Learning Repository",
            needs="covtype.data or a packed npz: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="higgs",
            target="qcore_nmpqat.tasks.higgs:Higgs",
            config="qcore_nmpqat.tasks.config:HiggsConfig",
            summary="simulated collisions with 28 features, Higgs boson or background",
            reference="Baldi, Sadowski and Whiteson 2014, Searching for Exotic Particles with Deep Learning",
            needs="HIGGS.csv or a packed npz: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="poqemon_qoe",
            target="qcore_nmpqat.tasks.poqemon:PoqemonQoe",
            config="qcore_nmpqat.tasks.config:PoqemonQoeConfig",
            summary="1,543 rated video views, 5 opinion scores, without (or with) the leaking user feedback",
            reference="Amour et al. 2015, Building a Large Dataset for Model-based QoE Prediction",
            needs="a packed npz: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="vod",
            target="qcore_nmpqat.tasks.traces:Vod",
            config="qcore_nmpqat.tasks.config:VodConfig",
            summary="frame rate of a video service, from statistics of its server",
            reference="Yanggratoke et al. 2015, Predicting Service Metrics for Cluster-based Services",
            problem="regression",
            needs="a packed npz, or X.csv beside Y.csv: --data PATH, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="kvs",
            target="qcore_nmpqat.tasks.traces:Kvs",
            config="qcore_nmpqat.tasks.config:KvsConfig",
            summary="response time of a key-value store, from statistics of its servers",
            reference="Yanggratoke et al. 2015, Predicting Service Metrics for Cluster-based Services",
            problem="regression",
            needs="X.csv beside Y.csv of a KTH trace: --data FOLDER, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="mesh",
            target="qcore_nmpqat.tasks.mesh:Mesh",
            config="qcore_nmpqat.tasks.config:MeshConfig",
            summary="response times and drops of two services on a mesh, one or several at once",
            reference="Shahab Samani and Stadler 2022, Dynamically Meeting Performance Objectives on a Service Mesh",
            problem="regression",
            needs="a packed npz: --data FILE, or in the folder QCORE_DATA",
        ),
        TaskSpec(
            name="rss",
            target="qcore_nmpqat.tasks.rss:Rss",
            config="qcore_nmpqat.tasks.config:RssConfig",
            summary="synthetic signal strengths of 9 cells, 27 outputs, drawn from path-loss formulas",
            reference="path loss of 3GPP TR 38.901; stands in for a set of arXiv:2605.25054 that is not public",
            problem="regression",
        ),
    ]
