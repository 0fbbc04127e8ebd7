"""Budgets without training: a trained float network, a few batches, and the bytes that it may take."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcore
from qcore.errors import DataError, UsageError
from qcore.nn import QuantLayer
from qcore_hetero_diffq.bias import correct_biases, output_means
from qcore_hetero_diffq.budget.activations import ActivationSizes, Counting, trace_inputs
from qcore_hetero_diffq.budget.allocate import Search, set_uniform
from qcore_hetero_diffq.budget.inputs import InputChoices
from qcore_hetero_diffq.budget.ledger import Rules
from qcore_hetero_diffq.budget.setup import Asked, check_feasible, measurable, resolve
from qcore_hetero_diffq.budget.sizes import check_levels, parse_budget
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of
from qcore_hetero_diffq.quantizers.levels import LEVELS
from qcore_hetero_diffq.rules import layer_rules

if TYPE_CHECKING:
    from qcore.registry import Registry

__all__ = ["Fitted", "prepare"]

Problem = Literal["classification", "regression"]

WIDEST = 8
CORRECTED = 64
"""Inputs that biases are corrected on, all at once."""
TRUSTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""In gradients: what :meth:`Fitted.to_budget` chooses among."""


class Fitted:
    """A float network made ready for budgets: calibrated, with 8-bit grids and what each width would cost.

    :func:`prepare` makes it; :meth:`to_budget` may be called for many budgets.

    Attributes:
        model: the quantized network, every width 8.
        batch: inputs that biases are corrected on.
        samples: of a batch that gradients were noted of.
        means: mean outputs of the float network's layers over ``batch``, by path.
        outputs: of the float network for ``batch``.
        problem: what outputs mean.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Tensor,
        means: dict[str, Tensor],
        outputs: Tensor,
        *,
        samples: int,
        problem: Problem,
        registry: Registry | None,
    ) -> None:
        self.model, self.batch, self.means, self.outputs = model, batch, means, outputs
        self.samples, self.problem, self.registry = samples, problem, registry

    @cached_property
    def sizes(self) -> ActivationSizes:
        """How many numbers each input has, and when it lives."""
        return trace_inputs(self.model, self.batch[:1])

    def to_budget(
        self,
        budget: str,
        *,
        of: Literal["weights", "activations", "both"] = "weights",
        activation_budget: str | None = None,
        counting: Counting = "sum",
        count_metadata: bool = True,
        levels: Sequence[int] = LEVELS,
        trusts: Sequence[float] = TRUSTS,
        metadata: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Return a network with widths that keep a budget; ``qcore.save`` writes it so.

        For each of ``trusts`` the widths of least estimated loss are found; the network is taken whose outputs for
        ``batch`` are closest to those in float, with corrected biases or without.

        Args:
            budget: like ``"1.5MB"`` or ``"3bit"``.
            of: what it counts: the model file, one sample's quantized inputs, or both together.
            activation_budget: a limit of their own for inputs, beside one of the file.
            counting: of inputs: their sum, the largest, or the most that lives at one time.
            count_metadata: count the file as it is; false: codes alone.
            levels: what a row of weights chooses among; 1 binary, 2 ternary.
            trusts: in gradients, against sizes of weights alone, see
                :func:`~qcore_hetero_diffq.budget.sensitivity.error_weights`.
            metadata: what you will hand to ``qcore.save``: it is part of the file.

        Raises:
            BudgetInfeasible: no choice keeps the budget.
            UsageError: an argument that says nothing, or contradicts another.
        """
        try:
            rules = Rules(self.sizes, counting, count_metadata, metadata or {}, self.registry)
            own = None if activation_budget is None else parse_budget(activation_budget)
            asked = Asked(parse_budget(budget), of, own)
            check_levels(levels)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not trusts:
            raise UsageError("to_budget chooses among trusts: give one at least")
        limits = resolve(measurable(self.model), asked, rules)
        check_feasible(measurable(self.model), limits, rules, tuple(levels))
        made = []
        for trust in trusts:
            made.append(copy.deepcopy(self.model))
            Search(made[-1], limits, rules, levels=tuple(levels), samples=self.samples, trust=trust).run()
        return self._closest(made)

    @torch.no_grad()
    def divergence(self, network: nn.Module) -> float:
        """Return how far outputs for ``batch`` are from those in float.

        For logits the mean Kullback-Leibler divergence of what they say, in nats; for numbers the mean squared error.
        """
        outputs = network(self.batch)
        if self.problem == "regression":
            return float(F.mse_loss(outputs, self.outputs))
        found, wanted = (logits.double().log_softmax(dim=-1) for logits in (outputs, self.outputs))
        return float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))

    def uniform(self, bits: int, input_bits: int = WIDEST) -> nn.Module:
        """Return the network with one width for all weights, and one for all inputs, over the best of their ranges."""
        made = copy.deepcopy(self.model)
        set_uniform(made, bits, None)
        inputs = inputs_of(made)
        choices = InputChoices.of(inputs, (input_bits,), self.sizes, "sum")
        for path, quantizer in inputs.items():
            quantizer.set_level(*choices.grid(path, 0))
        return self._closest([made])

    def _closest(self, networks: Sequence[nn.Module]) -> nn.Module:
        """Return the closest to float among these with their biases corrected, or as it is if that is closer."""
        corrected = copy.deepcopy(list(networks))
        for network in corrected:
            correct_biases(network, self.batch, self.means)
        best = min(zip(corrected, networks, strict=True), key=lambda pair: self.divergence(pair[0]))
        return min(best, key=self.divergence)


def prepare(
    model: nn.Module,
    batches: Sequence[Tensor],
    *,
    rules: Mapping[str, Any] | None = None,
    problem: Problem = "classification",
    weight: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    registry: Registry | None = None,
) -> Fitted:
    """Quantize a trained float network to 8 bits and note, batch by batch, how the loss feels each width.

    Ranges are the largest magnitudes of a batch, in the mean over batches: no training follows that would get used to
    clipped ones, and each width may narrow them. No labels are needed: gradients are those of the log-likelihood of an
    answer drawn from what the network itself says (the Fisher information), in a regression of a random projection of
    its outputs.

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
        {"quantizer": "hetero_diffq/activation", "percentile": 100.0, **(inputs or {}), "bits": WIDEST},
    )
    made = qcore.quantize(model, chosen, registry=registry).eval()
    qcore.calibrate(made, batches)
    set_uniform(made, WIDEST, WIDEST)
    _note_gradients(made, batches, problem, torch.Generator(batches[0].device).manual_seed(seed))
    corrected = torch.cat([batch[:CORRECTED] for batch in batches])[:CORRECTED]
    original = copy.deepcopy(model).eval()
    means = output_means(original, corrected, set(weights_of(made)))
    with torch.no_grad():
        outputs = original(corrected)
    return Fitted(made, corrected, means, outputs, samples=len(batches[0]), problem=problem, registry=registry)


def _note_gradients(model: nn.Module, batches: Sequence[Tensor], problem: Problem, generator: torch.Generator) -> None:
    with _watching(model):
        for batch in batches:
            if len(batch) == len(batches[0]):
                _drawn_loss(model(batch), problem, generator).backward()  # type: ignore[no-untyped-call]
            model.zero_grad()


def _drawn_loss(output: Tensor, problem: Problem, generator: torch.Generator) -> Tensor:
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
