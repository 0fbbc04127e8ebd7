"""LearnedWidths: what the quantizers of weights and of activations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qcore.quantizers import Quantizer
from qcore.quantizers.config import QuantizerConfig
from qcore_nmpqat.quantizers.config import WidthConfig
from qcore_nmpqat.quantizers.gates import choose_levels, middle_of, mixture_weights, slopes

__all__ = ["MEMORY", "LearnedWidths"]

MEMORY = 0.99
"""Share of the demand that is remembered from one step to the next."""


class LearnedWidths(Quantizer):
    """A quantizer with a width for each neuron, chosen by a strength that the loss moves.

    All are of no length until :meth:`allocate` has been told how many neurons there are.

    Attributes:
        strength: float32 (neurons,), 0..1: a parameter, or what a subclass makes of one.
        level: int64 (neurons,), which of the config's widths each neuron had at the last training step; with neither
            hysteresis nor ratchet it follows from the strength.
        demand: float32 (neurons,), a running mean of ``-dL/dstrength``: above 0 where more precision lowers the loss.
        price: float32 (), what a bit costs: a method that keeps a budget moves it. It stands here so that a checkpoint
            holds it.
    """

    config: WidthConfig
    strength: Tensor
    level: Tensor
    demand: Tensor
    price: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.begin(torch.empty(0))
        self.register_buffer("level", torch.empty(0, dtype=torch.int64))
        self.register_buffer("demand", torch.empty(0))
        self.register_buffer("price", torch.zeros(()))

    def allocate(self, neurons: int, device: torch.device | None = None) -> None:
        """Begin with ``neurons`` neurons of the lowest width, in the middle of its strengths."""
        self.level = torch.zeros(neurons, dtype=torch.int64, device=device)
        self.demand = torch.zeros(neurons, device=device)
        self.begin(middle_of(self.level, self.config.steps))

    def begin(self, strength: Tensor) -> None:
        """Make the parameter anew, for neurons of these strengths, float32 (neurons,)."""
        self.strength = nn.Parameter(strength)

    @torch.no_grad()
    def put(self, strength: Tensor, where: Tensor | slice = slice(None)) -> None:
        """Write strengths, float32, into the parameter, for the neurons ``where`` says."""
        self.strength[where] = strength

    @torch.no_grad()
    def confine(self) -> None:
        """Bring strengths back to 0..1, from where an optimizer has moved them."""
        self.strength.clamp_(0, 1)

    @torch.no_grad()
    def set_widths(self, widths: Tensor) -> None:
        """Give each neuron its width, int64 (neurons,), by a strength in the middle of what chooses it.

        Raises:
            ValueError: a width that the config does not know.
        """
        known = torch.tensor(self.config.widths, device=widths.device)
        found = widths.unsqueeze(1) == known
        if not bool(found.any(dim=1).all()):
            raise ValueError(f"widths are {list(self.config.widths)}")
        self.set_levels(found.long().argmax(dim=1))
        self.put(middle_of(self.level, self.config.steps))

    @torch.no_grad()
    def set_levels(self, levels: Tensor) -> None:
        """Give each neuron the config's width of that index, int64 (neurons,); strengths move where widths change."""
        levels = levels.to(self.strength.device)
        changed = levels != self.levels()
        self.put(middle_of(levels[changed], self.config.steps), changed)
        self.level = levels

    @torch.no_grad()
    def settle(self) -> Tensor:
        """Bring strengths back to 0..1 and let widths follow them; return :meth:`levels`."""
        self.confine()
        self.level = self.levels()
        return self.level

    def levels(self) -> Tensor:
        """Return the index of each neuron's width, int64 (neurons,)."""
        config = self.config
        return choose_levels(
            self.strength.detach(), self.level, config.steps, config.hysteresis, ratchet=config.ratchet
        )

    def widths(self, levels: Tensor | None = None) -> Tensor:
        """Return each neuron's width, int64 (neurons,), by :meth:`levels`, if they are known already."""
        levels = self.levels() if levels is None else levels
        return torch.tensor(self.config.widths, device=levels.device)[levels]

    def bits(self) -> Tensor:
        """Return each neuron's width, float32 (neurons,); its gradient is that of the mixture's mean width.

        Before any neurons are known, it is the width that they will begin with, float32 ().
        """
        if not self.strength.numel():
            return torch.tensor(float(self.config.widths[0]))
        hard = self.widths().to(torch.float32)
        if not (self.strength.requires_grad and torch.is_grad_enabled()):
            return hard
        weights = mixture_weights(self.strength, self.config.steps, self.config.tau)
        soft = weights @ weights.new_tensor(self.config.widths)
        return hard + (soft - soft.detach())

    def strength_gradient(self, products: Tensor) -> Tensor:
        """Return ``dL/dstrength``, float32 (neurons,), and take note of the demand.

        Args:
            products: float32 (neurons, widths), ``<dL/dq, Q_k>`` of each neuron for each width.
        """
        config = self.config
        gradient = (slopes(self.strength.detach(), config.steps, config.tau) * products.diff(dim=1)).sum(dim=1)
        self.note_demand(gradient)
        return gradient

    def note_demand(self, gradient: Tensor) -> None:
        """Let the demand follow ``gradient``, ``dL/dstrength``, float32 (neurons,)."""
        self.demand.mul_(MEMORY).sub_(gradient, alpha=1 - MEMORY)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of neurons comes from the data, so these take the file's shape before they are compared.
        for name, tensor in [*self._parameters.items(), *self._buffers.items()]:
            stored = state_dict.get(prefix + name)
            if stored is not None and tensor is not None and stored.shape != tensor.shape:
                empty = torch.empty_like(stored, device=tensor.device)
                setattr(self, name, nn.Parameter(empty) if name in self._parameters else empty)
        load: Callable[..., None] = super()._load_from_state_dict
        load(state_dict, prefix, *args)
