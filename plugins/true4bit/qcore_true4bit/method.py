"""The method ``true4bit``: networks trained in fifteen levels, beside their float twins and other ways to 4 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from qcore.errors import UsageError
from qcore.methods import Arm, Method, MethodConfig, OptimizerConfig, Phase
from qcore_true4bit.claims import list_claims, observe_codes
from qcore_true4bit.clip import SoftClip
from qcore_true4bit.config import True4BitConfig
from qcore_true4bit.observe import watch_layers
from qcore_true4bit.resident import ResidentRates, harden, quantized
from qcore_true4bit.schedule import PAPER_HALF_PERIOD, EpochCosine
from qcore_true4bit.sections import make_sections

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from qcore.methods import Claim, Evidence
    from qcore.runs.report import Section
    from qcore.tasks import Task
    from qcore.training import FoldTensors

__all__ = ["True4Bit"]

SMALL_IMAGE, SMALL_WIDTH = 16, 16
FIRST_INPUT = "core/int(bits=8, granularity='token')"
"""Images are signed once they are scaled, and have a range of their own each."""


class True4Bit(Method):
    """One network and recipe for all arms: AdamW, a global gradient norm of 0.5, one cosine, no label smoothing.

    Every convolution and linear layer is quantized, the first and the last included; biases and batch norms stay
    float32. ``dorefa4`` alone keeps the first and the last layer float, as its paper does: its weights reach from -1 to
    1, and no norm follows the head.

    Source: Tathe 2026, arXiv:2603.13931. The arms ``fixed_scale`` to ``plain`` define what its ablation leaves open.
    """

    Config: ClassVar[type[MethodConfig]] = True4BitConfig
    config: True4BitConfig

    def arms(self) -> list[Arm]:
        """Return the float twins, the faithful network, its ablation, and other ways to 4 bits."""
        four = self.config.quantizer
        fixed = "true4bit/tanh(scale='fixed')"
        return [
            Arm("float", "the network in float32", baseline=True),
            Arm("float_clip", "the network in float32, with the soft clip", {"clip": True}),
            Arm("true4bit", "fifteen levels and the soft clip, as in the paper", {"weight": four, "clip": True}),
            Arm("no_clip", "without the soft clip", {"weight": four}),
            Arm("fixed_scale", "the scale is that of the initial weights", {"weight": fixed, "clip": True}),
            Arm("no_grad_clip", "gradients are not clipped", {"weight": four, "clip": True, "free": True}),
            Arm("plain", "fixed scale, neither soft clip nor clipped gradients", {"weight": fixed, "free": True}),
            Arm("dorefa4", "DoReFa, 4 bits; first and last layer float", {"weight": "true4bit/dorefa", "inner": True}),
            Arm("lsq4", "a learned scale for each tensor (LSQ)", {"weight": "true4bit/tanh(scale='learned')"}),
            Arm("ptq4", "the float arm after training, least squared error a row", {"weight": PTQ}, needs=("float",)),
            Arm("resident", "weights live in 4-bit codes: no float master", {"resident": {"residual": False}}),
            Arm("resident_residual", "the same with 8 bits of residual", {"resident": {"residual": True}}),
            Arm("w4a8", "fifteen levels, inputs of 8 bits", {"weight": four, "clip": True, "input": 8}),
            Arm("w4a4", "fifteen levels, inputs of 4 bits", {"weight": four, "clip": True, "input": 4}),
        ]

    def check(self, task: Task) -> None:
        """Make the quantizers once, and look whether the task has images.

        Raises:
            UsageError: it has not.
        """
        from qcore.quantizers import make_quantizer

        make_quantizer(self.config.quantizer, self.registry)
        make_quantizer({**self.config.activation, "bits": 8}, self.registry)
        image_shape(task)

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the arm's network: new, or the trained float one, with quantizers in place."""
        model = sources["float"] if arm.needs else self.network(task, generator)
        if "resident" in arm.options:
            from qcore_true4bit.resident import make_resident

            config = self.config.resident.model_copy(update=arm.options["resident"])
            return make_resident(model, config, generator, inplace=True)
        if "weight" in arm.options:
            from qcore.nn import quantize

            return quantize(model, self._rules(model, arm), registry=self.registry)
        return model

    def network(self, task: Task, generator: torch.Generator, **changes: Any) -> nn.Module:
        """Return the config's network for the task's images."""
        from qcore.nn import build_model

        name, given = task.default_model()
        channels, size, _ = image_shape(task)
        options: dict[str, Any] = {"in_channels": channels, "image_size": size, "out_features": task.out_features}
        options["flat"] = task.data.inputs.dim() == 2
        if name.startswith("true4bit/"):
            options |= {key: given[key] for key in ("mean", "std") if key in given}
        if self.config.width or size < SMALL_IMAGE:
            options["width"] = self.config.width or SMALL_WIDTH
        if self.config.model == "vgg4bit":
            own = {"hidden": self.config.hidden and self.config.hidden[0], "dropout": self.config.dropout}
            options |= {key: value for key, value in own.items() if value is not None}
        return build_model(f"true4bit/{self.config.model}", {**options, **changes}, generator, registry=self.registry)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return one phase; none for ``ptq4``."""
        if arm.needs:
            return []
        config = self.config
        half = PAPER_HALF_PERIOD if config.schedule == "paper" else config.epochs
        schedule = EpochCosine(config.epochs, half)
        resident = "resident" in arm.options
        return [
            self.main_phase(
                optimizers=(OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay, lr_schedule=schedule),),
                grad_clip=None if arm.options.get("free") else config.grad_clip,
                after_step=SoftClip(config.soft_clip, config.clip_per_epoch) if arm.options.get("clip") else None,
                before_step=ResidentRates(config.resident_lr, schedule, config.resident_decay) if resident else None,
                after_epoch=watch_layers if resident or "weight" in arm.options else None,
                restore_best=config.checkpoint == "best",
            )
        ]

    def calibrate(self, arm: Arm, model: nn.Module, data: FoldTensors) -> nn.Module:
        """Return the model ready for evaluation: a resident one with ordinary quantized layers of the same codes."""
        if "resident" in arm.options:
            model = quantized(harden(model, inplace=True), self.registry)
        return super().calibrate(arm, model, data)

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return what :func:`observe_codes` tells of the network, the same for each sample."""
        import torch

        found = observe_codes(model, self.registry)
        return {name: torch.full((len(inputs),), value, dtype=torch.float64) for name, value in found.items()}

    def claims(self) -> list[Claim]:
        """Return the paper's statements, and those it should have been asked."""
        return list_claims()

    def sections(self, evidence: Evidence) -> list[Section]:
        """Return what became of the codes from epoch to epoch."""
        return make_sections(evidence)

    def _rules(self, model: nn.Module, arm: Arm) -> dict[str, Any]:
        from torch import nn

        layers = {
            path: type(module) for path, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)
        }
        weight, paths = arm.options["weight"], list(layers)
        rules: dict[str, Any] = {}
        if arm.options.get("inner"):
            rules |= dict.fromkeys((paths[0], paths[-1]))
        inputs = None
        if "input" in arm.options:
            inputs = {**self.config.activation, "bits": arm.options["input"]}
            rules[paths[0]] = {"weight": weight, "input": FIRST_INPUT}
        kinds = sorted({kind.__name__ for path, kind in layers.items() if path not in rules})
        return {**rules, **{f"type:{kind}": {"weight": weight, "input": inputs} for kind in kinds}}


PTQ = {"quantizer": "core/int", "bits": 4, "granularity": "row", "scale": "mse"}
"""The strongest 4-bit weights that the core makes without training."""


def image_shape(task: Task) -> tuple[int, int, int]:
    """Return (channels, height, width) of the task's images; rows of a square number of features are grey images.

    Raises:
        UsageError: the inputs are no square images.
    """
    shape = tuple(task.data.inputs.shape[1:])
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        shape = (1, side, shape[0] // side if side else 0)
    if len(shape) != 3 or shape[1] != shape[2] or math.prod(shape) != math.prod(task.data.inputs.shape[1:]):
        raise UsageError(
            f"true4bit trains convolutional networks, and {task.spec_id or 'this task'} has inputs "
            f"{tuple(task.data.inputs.shape[1:])}",
            "choose a task of square images, such as digits, cifar10 or fashion_mnist",
        )
    if task.problem != "classification":
        raise UsageError("true4bit tells classes apart; this task is a regression", "choose a task with classes")
    if shape[1] < 8:
        raise UsageError(f"images of {shape[1]} pixels a side are too small", "8 is the least")
    return shape[0], shape[1], shape[2]
