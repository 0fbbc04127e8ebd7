"""The method ``bitnet``: low-bit networks trained from scratch or converted, beside float, int8 and 2-bit PTQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from qcore.methods import Arm, Method, MethodConfig, OptimizerConfig, Phase
from qcore_bitnet.claims import list_claims, observe_ternary
from qcore_bitnet.config import BitNetConfig
from qcore_bitnet.schedule import Ramp, TwoStageDecay, TwoStageRate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Claim
    from qcore.tasks import Task

__all__ = ["BitNet"]

PTQ2 = {"quantizer": "core/int", "bits": 2, "granularity": "row", "scale": "mse"}
"""The strongest 2-bit weights that the core makes without training: a scale a row, of least squared error."""


FLOAT_RATE = ("float", "int8")
"""Arms whose weights are fine enough for the float network's learning rate."""


class BitNet(Method):
    """BitNet b1.58 and its forerunner on the task's own network.

    All arms have the same network, optimizer, schedule and rule for the checkpoint: all epochs, and of these the one
    with the best validation score. The learning rate is the float network's, or five times it for coarse weights. The
    head stays float, and so does the first convolution of a network that has any. Weights of the float arm are
    quantized after training in ``ptq2`` and fine-tuned in ``ternary_converted``.

    Source: Wang et al. 2023, arXiv:2310.11453; Ma et al. 2024, arXiv:2402.17764; "The Era of 1-bit LLMs: Training Tips,
    Code and FAQ" (schedule); "Fine-tuning LLMs to 1.58 bits", Hugging Face blog, 2024 (conversion).
    """

    Config: ClassVar[type[MethodConfig]] = BitNetConfig
    config: BitNetConfig

    def arms(self) -> list[Arm]:
        """Return the float baseline, int8, ternary and binary, and what becomes of the trained float network."""
        shared = {"granularity": self.config.granularity, "group_size": self.config.group_size}
        ternary = {"quantizer": "bitnet/ternary", **shared}
        return [
            Arm("float", "the network in float32", baseline=True),
            Arm("int8", "8-bit weights, a scale a row", {"weight": "core/int(bits=8)"}),
            Arm("ternary", "weights -1, 0, +1 (b1.58)", {"weight": ternary}),
            Arm("binary", "weights -1, +1 (the first BitNet)", {"weight": {"quantizer": "bitnet/binary", **shared}}),
            Arm("ptq2", "the float arm in 2 bits, not trained further", {"weight": PTQ2}, needs=("float",)),
            Arm("ternary_converted", "the float arm, faded into ternary", {"weight": ternary}, needs=("float",)),
        ]

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the arm's network: new, or the trained float one, with quantizers in place."""
        model = sources["float"] if arm.needs else self._new_network(task, generator)
        if "weight" not in arm.options:
            return model
        from qcore.nn import quantize

        return quantize(model, _rules(model, arm.options["weight"]), registry=self.registry)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return one phase in two stages; none for ``ptq2``."""
        if arm.name == "ptq2":
            return []
        config = self.config
        optimizer = OptimizerConfig(
            lr=config.float_lr if arm.name in FLOAT_RATE else config.lr,
            weight_decay=config.weight_decay,
            lr_schedule=TwoStageRate(config.switch, config.stage1_end, config.stage2_start),
            weight_decay_schedule=TwoStageDecay(config.switch),
        )
        if arm.name == "ternary_converted":
            ramp = Ramp(config.ramp_steps)
            epochs = config.conversion_epochs
            return [self.main_phase("convert", optimizers=(optimizer,), epochs=epochs, before_step=ramp)]
        return [self.main_phase(optimizers=(optimizer,))]

    def observe(self, arm: Arm, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return what :func:`observe_ternary` tells of the network, the same for each sample."""
        found = observe_ternary(model)
        return {name: torch.full((len(inputs),), value, dtype=torch.float64) for name, value in found.items()}

    def claims(self) -> list[Claim]:
        """Return the statements of the papers that a run can test."""
        return list_claims()

    def _new_network(self, task: Task, generator: torch.Generator) -> nn.Module:
        name, _ = task.default_model()
        changes: dict[str, Any] = {"pre_norm": self.config.subln} if name == "core/mlp" else {}
        return self.network(task, generator, **changes)


def _rules(model: nn.Module, weight: str | Mapping[str, Any]) -> dict[str, Any]:
    from torch import nn

    layers = {path: type(module) for path, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)}
    convolutions = [path for path, kind in layers.items() if kind is nn.Conv2d]
    kept = [path for path in ("head", *convolutions[:1]) if path in layers]
    kinds = sorted({kind.__name__ for path, kind in layers.items() if path not in kept})
    chosen = {"weight": weight, "input": "bitnet/absmax"}
    return {**dict.fromkeys(kept), **{f"type:{kind}": chosen for kind in kinds}}
