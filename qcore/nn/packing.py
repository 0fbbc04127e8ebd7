"""``pack``: from eval mode to stored bits and kernels. ``explain``: what runs where, and why."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qcore.backends.choice import Candidate, find_backends, report_fallback
from qcore.nn.convert import replace_modules
from qcore.nn.folding import Norm, batch_norms, fold_norms
from qcore.nn.layers import QuantLayer
from qcore.nn.packed import PackedLayer, pack_layer
from qcore.nn.plan.compile import Plan
from qcore.nn.sorting import Sorting, find_sortings, sort_neurons
from qcore.registry import Registry

__all__ = ["Explanation", "explain", "pack", "packed_layers", "prepare_layers"]


def pack(
    model: nn.Module,
    backend: str = "auto",
    *,
    fold: bool = False,
    inplace: bool = False,
    registry: Registry | None = None,
) -> nn.Module:
    """Return ``model`` in eval mode with the weights of its quantized layers packed and their kernels chosen.

    Outputs equal those of ``model.eval()`` bit for bit where the arithmetic is integer; elsewhere within the kernel's
    bound, which is 0 on the reference backend. Where the neurons between two linear layers have several widths, they
    are sorted by them, see :func:`qcore.nn.sorting.sort_neurons`; a weight-only layer behind them then has a bound on
    every backend.

    Args:
        model: a model that ``qcore.quantize`` made; left alone unless ``inplace``. Layers whose weight has no quantizer
            stay as they are; layers that are packed already get their kernels chosen anew.
        backend: a backend's name, or ``"auto"`` for the best that can; ``QCORE_BACKEND`` overrides ``"auto"``.
        fold: make each batch norm that directly follows a packed layer in an ``nn.Sequential`` part of that layer; the
            outputs then differ from ``model.eval()`` by float rounding, see :func:`qcore.nn.folding.fold_norms`.
        inplace: change ``model`` itself, to save memory.
        registry: where backends are looked up; None for the default framework's.

    Raises:
        BackendError: the named backend cannot run a layer.
        QuantizationError: a weight holds NaN or infinity.
        CalibrationError: an input's static range was never set.
    """
    candidates, forced = find_backends(backend, registry)
    model = (model if inplace else copy.deepcopy(model)).eval()
    packed = packed_layers(model)
    made = sort_neurons(model, fold_norms(model, packed) if fold else packed)
    standing = [layer for path, layer in model.named_modules() if path not in made]
    found = dict.fromkeys(layer for layer in (*made.values(), *standing) if isinstance(layer, PackedLayer))
    _prepare(list(found), candidates, forced=forced)
    return replace_modules(model, made)


def packed_layers(model: nn.Module) -> dict[str, PackedLayer]:
    """Return the packed form of each quantized layer of ``model`` by path, its kernel not chosen; leave the model."""
    packed: dict[int, PackedLayer] = {}  # a layer that stands in several places stays one layer
    layers: dict[str, PackedLayer] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, QuantLayer) and layer.weight_quantizer is not None:
            if id(layer) not in packed:
                packed[id(layer)] = pack_layer(layer)
            layers[path] = packed[id(layer)]
    return layers


def prepare_layers(model: nn.Module, backend: str = "auto", registry: Registry | None = None) -> nn.Module:
    """Choose the kernels of all packed layers of ``model`` anew, in place; return it."""
    candidates, forced = find_backends(backend, registry)
    _prepare([layer for layer in model.modules() if isinstance(layer, PackedLayer)], candidates, forced=forced)
    return model


def _prepare(layers: list[PackedLayer], candidates: list[Candidate], *, forced: bool) -> None:
    choices = [layer.prepare(candidates, forced=forced).choice for layer in layers]
    report_fallback([choice for choice in choices if choice is not None])


@dataclass(frozen=True)
class Explanation:
    """What runs each layer.

    Attributes:
        rows: one a layer: ``layer``, ``op``, ``bits``, ``backend``, ``kernel``, ``bound``, and ``refused``, a list of
            ``{"backend", "reason", "hint"}`` of the backends of higher priority that do not run it. Of a plan's steps
            also ``output``, what is handed over (``floats``, ``uint8 codes`` or ``int8 codes``), and ``why_floats``.
        norms: the batch norms of a packed model: which are folded, and why the others stay.
        sortings: the pairs of packed layers whose neurons have several widths: which are sorted, and why the others are
            not.
    """

    rows: list[dict[str, Any]]
    norms: list[Norm] = field(default_factory=list)
    sortings: list[Sorting] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.rows:
            return "no packed layer: call qcore.pack(model) first"
        lines = [_line(row) for row in self.rows]
        reasons = {f"  not {r['backend']}: {r['reason']}" for row in self.rows for r in row["refused"]}
        return "\n".join([*lines, *sorted(reasons), *map(str, self.norms), *map(str, self.sortings)])


def _line(row: dict[str, Any]) -> str:
    bits = "" if row["bits"] == "-" else f", {row['bits']} bits"
    given = f", gives {row['output']}" if "output" in row else ""
    why = f": {row['why_floats']}" if row.get("why_floats") else ""
    return f"{row['layer'] or 'the model'}: {row['backend']} ({row['kernel']}){bits}{given}{why}"


def explain(model: nn.Module) -> Explanation:
    """Return what runs each quantized or packed layer of ``model``, and why each better backend was refused.

    Of a packed model, also which batch norms are folded into the layers before them, which neurons are sorted by their
    widths, and why others are not. Of a plan, each step: ``op`` names what is fused into it.
    """
    rows = []
    for path, layer in model.named_modules():
        if isinstance(layer, Plan):
            rows += layer.explain()
        elif isinstance(layer, PackedLayer):
            rows.append(_packed_row(path, layer))
        elif isinstance(layer, QuantLayer):
            rows.append(_row(path, type(layer).__name__, "-", "none", "fake-quantized, not packed", 0.0, []))
    packed = any(isinstance(layer, PackedLayer) for layer in model.modules())
    return Explanation(rows, batch_norms(model), find_sortings(model)) if packed else Explanation(rows)


def _packed_row(path: str, layer: PackedLayer) -> dict[str, Any]:
    request = layer.request()
    bits = "/".join(map(str, request.bits))
    choice = layer.choice
    if choice is None:
        return _row(path, request.op, bits, "none", "not prepared", 0.0, [])
    refused = [{"backend": r.backend, "reason": r.reason, "hint": r.hint} for r in choice.refused]
    return _row(path, request.op, bits, choice.backend, choice.kernel.name, choice.kernel.bound, refused)


def _row(
    layer: str, op: str, bits: str, backend: str, kernel: str, bound: float, refused: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "layer": layer,
        "op": op,
        "bits": bits,
        "backend": backend,
        "kernel": kernel,
        "bound": bound,
        "refused": refused,
    }
