"""The built-in method ``core/ptq``: any quantizer applied after training, with calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from qcore.methods.base import Arm, Method
from qcore.methods.claim_library import equivalence, size_ratio
from qcore.methods.claims import Claim
from qcore.methods.config import MethodConfig, PtqConfig
from qcore.methods.phases import Phase

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qcore.tasks.base import Task

__all__ = ["PtqMethod", "ptq_rules"]


class PtqMethod(Method):
    """Arms ``float`` and ``ptq``: the second is the first, quantized after training and calibrated on its data."""

    Config: ClassVar[type[MethodConfig]] = PtqConfig
    config: PtqConfig

    def arms(self) -> list[Arm]:
        """Return the float baseline and its quantized copy."""
        return [
            Arm("float", "the network in float32", baseline=True),
            Arm("ptq", f"the float arm after training, weights {_name(self.config.quantizer)}", needs=("float",)),
        ]

    def check(self, task: Task) -> None:
        """Make both quantizers once."""
        from qcore.quantizers import make_quantizer

        for reference in (self.config.quantizer, self.config.input):
            if reference is not None:
                make_quantizer(reference, self.registry)

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the float network, or its trained self with the quantizers in place."""
        if arm.name == "float":
            return self.network(task, generator)
        from qcore.nn import quantize

        config = self.config
        rules = ptq_rules(sources["float"], config.quantizer, config.input, config.keep)
        return quantize(sources["float"], rules, registry=self.registry)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return one phase for the float arm and none for the other."""
        return [self.main_phase()] if arm.name == "float" else []

    def claims(self) -> list[Claim]:
        """Return what post-training quantization promises: the same score in fewer bytes."""
        return [
            equivalence("ptq_equals_float", "ptq", "float", margin=0.01),
            size_ratio("ptq_is_smaller", "ptq", "float", at_least=2.0),
        ]


def ptq_rules(
    model: nn.Module,
    weight: str | Mapping[str, Any],
    inputs: str | Mapping[str, Any] | None,
    keep: tuple[str, ...] = ("head",),
) -> dict[str, Any]:
    """Return rules that quantize every Linear and Conv2d of ``model`` but those that ``keep`` names."""
    from torch import nn

    present = {type(module) for module in model.modules()}
    kinds = [kind.__name__ for kind in (nn.Linear, nn.Conv2d) if kind in present]
    chosen = {"weight": weight, "input": inputs}
    return {**dict.fromkeys(keep, None), **{f"type:{kind}": chosen for kind in kinds}}


def _name(reference: str | Mapping[str, Any]) -> str:
    return reference if isinstance(reference, str) else str(reference.get("quantizer"))
