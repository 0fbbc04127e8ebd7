"""SubLN: a norm right before each quantized layer, which keeps the input's variance as at initialization.

``core/mlp`` has it built in (``pre_norm``), and that is what the method uses. These helpers put it into other networks.

Source: Wang et al. 2023, arXiv:2310.11453, section 2.1; the norm with a weight is that of b1.58.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from qcore.errors import PatternError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["insert_subln"]

EPSILON = 1e-5


def insert_subln(
    model: nn.Module, pattern: str = "*", batches: Iterable[Tensor] = (), *, inplace: bool = False
) -> nn.Module:
    """Put an RMS norm before each ``nn.Linear`` whose path matches ``pattern``.

    The layer at ``path`` becomes ``nn.Sequential(norm, linear)``, so the layer itself is at ``path.linear``. A norm
    changes the scale of what it sees, so the function of a trained model cannot be kept exactly; with ``batches`` each
    norm's weight is set to the root mean square of the inputs that the layer saw, which keeps it closely.

    Args:
        model: left alone unless ``inplace``.
        pattern: a glob over module paths.
        batches: inputs of the model.
        inplace: change ``model`` itself.

    Returns:
        The model with its norms, their weights trainable.

    Raises:
        PatternError: if the pattern matches no ``nn.Linear``.
    """
    model = model if inplace else copy.deepcopy(model)
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {path: module for path, module in linears.items() if fnmatchcase(path, pattern) and path}
    if not chosen:
        raise PatternError(f"{pattern!r} matches no nn.Linear", did_you_mean(pattern, linears))
    magnitudes = _root_mean_squares(model, chosen, batches)
    for path, linear in chosen.items():
        norm = nn.RMSNorm(linear.in_features, eps=EPSILON, device=linear.weight.device, dtype=linear.weight.dtype)
        nn.init.constant_(norm.weight, magnitudes.get(path, 1.0))
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Sequential(OrderedDict(norm=norm, linear=linear)))
    return model


@torch.no_grad()
def _root_mean_squares(model: nn.Module, linears: dict[str, nn.Linear], batches: Iterable[Tensor]) -> dict[str, float]:
    """Return the root mean square of each layer's inputs over ``batches``; empty without batches."""
    sums: dict[str, tuple[float, int]] = {}

    def watch(path: str, x: Tensor) -> None:
        total, count = sums.get(path, (0.0, 0))
        sums[path] = (total + float(x.double().square().sum()), count + x.numel())

    handles = [
        linear.register_forward_pre_hook(lambda _, inputs, path=path: watch(path, inputs[0]))
        for path, linear in linears.items()
    ]
    training = model.training
    model.eval()
    try:
        for batch in batches:
            model(batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return {path: (total / max(count, 1)) ** 0.5 for path, (total, count) in sums.items()}
