"""What is counted, what is allowed, and how far a network in training is from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from qcore.errors import UsageError
from qcore.export import to_bytes
from qcore.nn.packing import packed_layers
from qcore_hetero_diffq.budget.activations import ActivationSizes, Counting
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of
from qcore_hetero_diffq.quantizers.levels import stored_bits

if TYPE_CHECKING:
    from qcore.registry import Registry

__all__ = ["Ledger", "Limits", "Rules", "Usage"]


@dataclass(frozen=True)
class Limits:
    """Bytes that are allowed; None: as many as it takes.

    Attributes:
        weights: of the model file; of the codes in it, where metadata are not counted.
        activations: of one sample's quantized inputs.
        both: of the two together.
    """

    weights: int | None = None
    activations: int | None = None
    both: int | None = None

    def items(self) -> list[tuple[str, int]]:
        """Return what is limited, and to how much."""
        return [(name, limit) for name, limit in vars(self).items() if limit is not None]


@dataclass(frozen=True)
class Usage:
    """Bytes that are taken.

    Attributes:
        weights: of the model file, or of the codes in it.
        activations: of one sample's quantized inputs, rounded up.
    """

    weights: int
    activations: int

    def of(self, name: str) -> int:
        """Return what a limit of :class:`Limits` counts."""
        return self.weights + self.activations if name == "both" else int(getattr(self, name))

    def exceeds(self, limits: Limits) -> bool:
        """Return whether any limit is passed."""
        return any(self.of(name) > limit for name, limit in limits.items())


@dataclass(frozen=True)
class Rules:
    """How bytes are counted.

    Attributes:
        sizes: numbers of each quantized input, and when they live.
        counting: how inputs are counted together.
        count_metadata: whether ``weights`` is the model file with all that is in it, or the codes alone, as in papers.
        metadata: what the file says beside the model; an estimate from above where it is not known to the letter.
        registry: where versions of plugins are looked up.
    """

    sizes: ActivationSizes
    counting: Counting = "sum"
    count_metadata: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
    registry: Registry | None = None

    def __post_init__(self) -> None:
        if self.counting not in get_args(Counting):
            raise ValueError(f"activations are counted by {', '.join(get_args(Counting))}, not by {self.counting!r}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Rules:
        return self  # nothing in it changes, and a registry holds all plugins

    def usage(self, model: nn.Module) -> Usage:
        """Return what ``model`` takes; its file is made to see."""
        if self.count_metadata:
            weights = len(to_bytes(model, metadata=self.metadata, registry=self.registry))
        else:
            layers = {id(layer): layer for layer in packed_layers(model).values()}
            weights = sum(block.data.numel() for layer in layers.values() for block in layer.weight.blocks)
        widths = {path: float(quantizer.bits().detach()) for path, quantizer in inputs_of(model).items()}
        return Usage(weights, -int(-self.sizes.nbits(widths, self.counting) // 8))


ROOM = 0.1
"""Share above the narrowest derived widths that the Lagrangian leaves, so that rows can differ."""


class Ledger(nn.Module):
    """What the penalty of a training has to know; none of it is saved with the model.

    Attributes:
        limits: what is allowed.
        base_nbytes: what a file holds beside codes.
        rules: how bytes are counted.
        multiplier, stiffness, excess: float32 (limits,), buffers: of the augmented Lagrangian, and the excess that it
            last looked back to.
        ramp: float32 (), a buffer: share of the paper's penalty that counts by now.
        start: float32 (limits,), a buffer: bytes that the Lagrangian's glide began at; 0 before it begins.
        aim: float32 (limits,), a buffer: bytes that the Lagrangian allows by now.
    """

    multiplier: Tensor
    stiffness: Tensor
    excess: Tensor
    ramp: Tensor
    start: Tensor
    aim: Tensor

    def __init__(self, limits: Limits, rules: Rules, base_nbytes: int, stiffness: float) -> None:
        super().__init__()
        self.limits, self.rules, self.base_nbytes = limits, rules, base_nbytes
        count = len(limits.items())
        self.register_buffer("multiplier", torch.zeros(count), persistent=False)
        self.register_buffer("stiffness", torch.full((count,), stiffness), persistent=False)
        self.register_buffer("excess", torch.full((count,), torch.inf), persistent=False)
        self.register_buffer("ramp", torch.ones(()), persistent=False)
        self.register_buffer("start", torch.zeros(count), persistent=False)
        self.register_buffer("aim", torch.tensor([float(limit) for _, limit in limits.items()]), persistent=False)

    def attach(self, model: nn.Module) -> None:
        """Let a quantizer of ``model`` carry it: checkpoints then hold it, and packing leaves it behind."""
        learned_grids(model)[0].ledger = self

    @staticmethod
    def of(model: nn.Module) -> Ledger:
        """Return the ledger of ``model``."""
        found = next((module for module in model.modules() if isinstance(module, Ledger)), None)
        if found is None:
            raise UsageError("this network was given no budget", "make it with the method, or attach a Ledger")
        return found

    def over(self, model: nn.Module) -> Tensor:
        """Return ``(S - T) / (T - F)`` of each limit, float32 (limits,), with ``T`` the aim; differentiable.

        ``F`` is what no width changes. ``S`` is of smooth widths: rounded up, all of them would stay where they are
        until many fall at once.
        """
        taken = torch.stack([self.taken(model, name, smooth=True) for name, _ in self.limits.items()])
        return (taken - self.aim) / (self.aim - self._fixed()).clamp_min(1.0)

    @torch.no_grad()
    def glide(self, model: nn.Module, share: float, margin: float) -> None:
        """Move the aim: at ``share`` 0 what the model takes, at 1 the limit less ``margin``, in between on a line.

        It stays above what the narrowest derived widths take: below, only the choice at the end can go, to binary.
        """
        if not bool(self.start.any()):
            self.start.copy_(torch.stack([self.taken(model, name, smooth=True) for name, _ in self.limits.items()]))
        ends = torch.tensor([limit * (1 - margin) for _, limit in self.limits.items()], device=self.aim.device)
        floors = torch.tensor([self.floor(model, name) for name, _ in self.limits.items()], device=self.aim.device)
        ends = torch.maximum(ends, floors + ROOM * (floors - self._fixed()))
        self.aim.copy_(self.start + (ends - self.start).clamp_max(0) * share)

    def _fixed(self) -> Tensor:
        """Return the bytes of each limit that no width changes, float32 (limits,)."""
        fixed = [0.0 if name == "activations" else float(self.base_nbytes) for name, _ in self.limits.items()]
        return torch.tensor(fixed, device=self.aim.device)

    def floor(self, model: nn.Module, name: str) -> float:
        """Return the bytes that a limit counts at the narrowest derived widths: ternary rows, inputs of 2 bits."""
        weights = self.base_nbytes + sum(layer.weight.numel() for layer, _ in weights_of(model).values()) * 1.6 / 8
        sizes = self.rules.sizes
        inputs = sizes.nbits(dict.fromkeys(sizes.counts, 2.0), self.rules.counting) / 8
        return {"weights": weights, "activations": inputs, "both": weights + inputs}[name]

    def taken(self, model: nn.Module, name: str, *, smooth: bool = False) -> Tensor:
        """Return the bytes that a limit counts, float32 (), as derived or smooth widths tell; differentiable."""
        if name == "weights":
            return self.weight_nbytes(model, smooth=smooth)
        if name == "activations":
            return self.activation_nbytes(model, smooth=smooth)
        return self.weight_nbytes(model, smooth=smooth) + self.activation_nbytes(model, smooth=smooth)

    def weight_nbytes(self, model: nn.Module, *, smooth: bool = False) -> Tensor:
        """Return the bytes of codes at derived widths, and of what is beside them; rows not rounded up to bytes."""
        bits = [
            stored_bits(quantizer.bits(smooth=smooth)).sum() * (layer.weight.numel() / max(len(quantizer.level), 1))
            for layer, quantizer in weights_of(model).values()
        ]
        return torch.stack(bits).sum() / 8 + self.base_nbytes

    def activation_nbytes(self, model: nn.Module, *, smooth: bool = False) -> Tensor:
        """Return the bytes of one sample's quantized inputs at derived widths."""
        sizes = self.rules.sizes
        found = {
            path: quantizer.bits(smooth=smooth) * sizes.counts[path] for path, quantizer in inputs_of(model).items()
        }
        if not found:
            return torch.zeros(())
        if self.rules.counting == "sum":
            return torch.stack(list(found.values())).sum() / 8
        groups = sizes.together if self.rules.counting == "peak" else [{path} for path in found]
        return torch.stack([torch.stack([found[path] for path in group]).sum() for group in groups]).amax() / 8
