"""Budgets without training: a trained float network, a few batches, and the bytes that it may take."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcore
from qcore.errors import DataError
from qcore.nn import QuantLayer
from qcore_hetero_diffq.bias import correct_biases, output_means
from qcore_hetero_diffq.budget.activations import Counting, trace_inputs
from qcore_hetero_diffq.budget.allocate import Search, set_uniform
from qcore_hetero_diffq.budget.ledger import Rules
from qcore_hetero_diffq.budget.setup import Asked, check_feasible, measurable, resolve
from qcore_hetero_diffq.budget.sizes import parse_budget
from qcore_hetero_diffq.network import learned_grids, weights_of
from qcore_hetero_diffq.quantizers.levels import LEVELS
from qcore_hetero_diffq.rules import layer_rules

if TYPE_CHECKING:
    from qcore.registry import Registry

__all__ = ["Fitted", "prepare"]

WIDEST = 8
CORRECTED = 64
"""Inputs that biases are corrected on, all at once."""


class Fitted:
    """A float network made ready for budgets: calibrated, with 8-bit grids and what each width would cost.

    :func:`prepare` makes it; :meth:`to_budget` may be called for many budgets.

    Attributes:
        model: the quantized network, every width 8.
        batch: inputs that biases are corrected on.
        samples: of a batch that gradients were noted of.
        means: mean outputs of the float network's layers over ``batch``, by path.
    """

    def __init__(
        self, model: nn.Module, batch: Tensor, means: dict[str, Tensor], samples: int, registry: Registry | None
    ) -> None:
        self.model, self.batch, self.means, self.samples, self.registry = model, batch, means, samples, registry

    def to_budget(
        self,
        budget: str,
        *,
        of: Literal["weights", "activations", "both"] = "weights",
        activation_budget: str | None = None,
        counting: Counting = "sum",
        count_metadata: bool = True,
        levels: Sequence[int] = LEVELS,
        metadata: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Return a network with the widths of least estimated loss that keep a budget; ``qcore.save`` writes it so.

        Args:
            budget: like ``"1.5MB"`` or ``"3bit"``.
            of: what it counts: the model file, one sample's quantized inputs, or both together.
            activation_budget: a limit of their own for inputs, beside one of the file.
            counting: of inputs: their sum, the largest, or the most that lives at one time.
            count_metadata: count the file as it is; false: codes alone.
            levels: what a row of weights chooses among; 1 binary, 2 ternary.
            metadata: what you will hand to ``qcore.save``: it is part of the file.

        Raises:
            BudgetInfeasible: no choice keeps the budget.
        """
        rules = Rules(trace_inputs(self.model, self.batch[:1]), counting, count_metadata, metadata or {}, self.registry)
        own = None if activation_budget is None else parse_budget(activation_budget)
        limits = resolve(measurable(self.model), Asked(parse_budget(budget), of, own), rules)
        check_feasible(measurable(self.model), limits, rules, tuple(levels))
        made = copy.deepcopy(self.model)
        Search(made, limits, rules, levels=tuple(levels), samples=self.samples).run()
        correct_biases(made, self.batch, self.means)
        return made

    def uniform(self, bits: int, input_bits: int = WIDEST) -> nn.Module:
        """Return the network with one width for all weights, and one for all inputs."""
        made = copy.deepcopy(self.model)
        set_uniform(made, bits, input_bits)
        correct_biases(made, self.batch, self.means)
        return made


def prepare(
    model: nn.Module,
    batches: Sequence[Tensor],
    *,
    rules: Mapping[str, Any] | None = None,
    problem: Literal["classification", "regression"] = "classification",
    weight: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    registry: Registry | None = None,
) -> Fitted:
    """Quantize a trained float network to 8 bits and note, batch by batch, how the loss feels each width.

    Ranges come from the batches. No labels are needed: gradients are those of the log-likelihood of an answer drawn
    from what the network itself says (the Fisher information), in a regression of a random projection of its outputs.

    Args:
        model: in float, left alone.
        batches: inputs, of equal size but for the last.
        rules: which layers, see ``qcore.quantize``; None: all linear layers and convolutions, and all inputs but the
            first layer's.
        problem: what outputs mean: logits, or numbers.
        weight: options of ``hetero_diffq/sliced``.
        inputs: options of ``hetero_diffq/activation``.
        seed: of the drawn answers.
        registry: where quantizers are looked up.

    Raises:
        DataError: there is no batch.
    """
    if not batches or not len(batches[0]):
        raise DataError("there is no batch to look at", "give inputs of the kind that the network will see")
    chosen = rules or layer_rules(
        model,
        {"quantizer": "hetero_diffq/sliced", **(weight or {}), "bits": WIDEST},
        {"quantizer": "hetero_diffq/activation", **(inputs or {}), "bits": WIDEST},
    )
    made = qcore.quantize(model, chosen, registry=registry).eval()
    qcore.calibrate(made, batches)
    set_uniform(made, WIDEST, WIDEST)
    _note_gradients(made, batches, problem, torch.Generator(batches[0].device).manual_seed(seed))
    corrected = torch.cat([batch[:CORRECTED] for batch in batches])[:CORRECTED]
    means = output_means(copy.deepcopy(model).eval(), corrected, set(weights_of(made)))
    return Fitted(made, corrected, means, len(batches[0]), registry)


def _note_gradients(model: nn.Module, batches: Sequence[Tensor], problem: str, generator: torch.Generator) -> None:
    with _watching(model):
        for batch in batches:
            if len(batch) == len(batches[0]):
                _drawn_loss(model(batch), problem, generator).backward()  # type: ignore[no-untyped-call]
            model.zero_grad()


def _drawn_loss(output: Tensor, problem: str, generator: torch.Generator) -> Tensor:
    if problem == "regression":
        noise = torch.randn(output.shape, generator=generator, device=output.device)
        return (output * noise).sum() / len(output)
    drawn = torch.multinomial(output.detach().softmax(dim=-1), 1, generator=generator).squeeze(-1)
    return F.cross_entropy(output, drawn)


@contextmanager
def _watching(model: nn.Module) -> Iterator[None]:
    """Let quantized layers train, so that gradients pass, and norms and dropout evaluate."""
    layers = [layer for layer in model.modules() if isinstance(layer, QuantLayer)]
    grids = learned_grids(model)
    try:
        for module in (*layers, *grids):
            module.training = True
        for grid in grids:
            grid.watching = True
        yield
    finally:
        for grid in grids:
            grid.watching = False
        model.eval()
