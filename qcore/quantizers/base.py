"""Quantizer: the interface of everything that makes a tensor low-bit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from qcore.backends.training import ChosenKernels
from qcore.errors import QuantizationError
from qcore.quantizers.config import QuantizerConfig
from qcore.tensor import ActivationScheme, Encoded, QTensor

__all__ = ["Quantizer", "check_finite", "check_later", "checks_together", "straight_through"]


class Quantizer(nn.Module, ABC):
    """Maps a float tensor to a low-bit one, differentiably.

    A subclass gives :meth:`encode`, the one code function: :meth:`forward` and :meth:`quantize` both go through it, so
    ``q.quantize(x).dequantize()`` equals ``q(x)`` bit for bit. It may override :meth:`forward` for another gradient
    than the straight-through one, as long as the values stay those of ``encode(x).decode()``; in training they may be
    others where :attr:`trains_on_codes` is False.

    Attributes:
        trains_on_codes: of the class; False if training sees something in place of the codes, such as noise.
        config: the frozen config it was made with.
        spec_id: ``plugin/name``, set when the registry makes it.
        tensor_name: what it quantizes, such as ``"features.0.weight"``; named by its errors.
        kernels: where :meth:`forward` gets fused kernels; what they compute equals ``encode(x).decode()`` bit for bit.
    """

    Config: ClassVar[type[QuantizerConfig]] = QuantizerConfig
    trains_on_codes: ClassVar[bool] = True

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__()
        self.config = self.Config() if config is None else config
        self.spec_id = ""
        self.tensor_name = "tensor"
        self.kernels = ChosenKernels()

    @abstractmethod
    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``; no gradient.

        Raises:
            QuantizationError: if ``x`` holds NaN or infinity.
        """

    def initialize(self, x: Tensor) -> None:  # noqa: B027 - a quantizer without state has nothing to do
        """Set scales from a weight tensor, or from all calibration inputs of a layer stacked along axis 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized, same shape and dtype; the gradient passes straight through."""
        return straight_through(x, self.encode(x).decode())

    def quantize(self, x: Tensor) -> QTensor:
        """Return the same numbers as :meth:`forward`, packed; no gradient."""
        return QTensor.pack(self.encode(x))

    @abstractmethod
    def bits(self) -> Tensor:
        """Return the width of each slice, float32 () or (slices,); differentiable where it is learned."""

    @property
    def needs_calibration(self) -> bool:
        """Whether :meth:`initialize` must see data before this quantizer can be used."""
        return False

    def scheme(self) -> ActivationScheme | None:
        """Return what this quantizer does to a layer's input as data for kernels, or None if it cannot be said so."""
        return None

    def expect_features(self, features: int) -> None:  # noqa: B027 - most quantizers have no state for each feature
        """Make room for what is learned of each input feature; a linear layer calls it once, before any training."""

    def column_scale(self) -> Tensor | None:
        """Return what each feature of a linear layer's input is divided by, float32 (features,); None for nothing.

        The layer multiplies the columns of its weight by it, without gradient, before the weight is quantized: so the
        codes of all features count the same, and sums stay integer.
        """
        return None

    def packed(self) -> Quantizer:
        """Return what a packed layer keeps of this input quantizer: the same codes, and nothing to train."""
        return self

    def permute_columns(self, order: Tensor) -> bool:
        """Reorder what this quantizer holds for each column of a layer's input; return False if it does not know how.

        Args:
            order: int64 (cols,): column i becomes what column ``order[i]`` was.

        By default there is nothing to do where :meth:`scheme` says that one range serves all columns, and no way else.
        """
        scheme = self.scheme()
        return scheme is not None and scheme.columns is None

    def describe(self) -> dict[str, Any]:
        """Return id and config, as plain JSON data from which the quantizer can be made again."""
        return {"quantizer": self.spec_id, **self.config.model_dump(mode="json")}

    def extra_repr(self) -> str:
        """Return the config's fields, for ``print(model)``."""
        return ", ".join(f"{key}={value!r}" for key, value in self.config)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, mask: Tensor | None) -> Tensor:
        ctx.masked = mask is not None
        ctx.save_for_backward(*(() if mask is None else (mask,)))
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient * ctx.saved_tensors[0] if ctx.masked else gradient), None, None


def straight_through(x: Tensor, quantized: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ``quantized`` exactly, with the gradient ``dL/dx = dL/dquantized * mask`` (no mask: 1).

    ``x + (quantized - x).detach()`` would be off by float rounding, and packed would not equal eval.
    """
    quantized = quantized.clone() if quantized is x else quantized.detach()
    if not (x.requires_grad and torch.is_grad_enabled()):
        return quantized.detach()
    return cast(Tensor, _StraightThrough.apply(x, quantized, mask))  # type: ignore[no-untyped-call]


_Waiting = list[tuple[str, Tensor, float]]
_waiting: ContextVar[_Waiting | None] = ContextVar("qcore_waiting_checks", default=None)


@contextmanager
def checks_together() -> Iterator[Callable[[], None]]:
    """Let :func:`check_finite` and :func:`check_later` wait where a look at a number halts a queue; look once for all.

    Yields:
        What to call, within, when it is time: it raises QuantizationError for the first tensor that was bad. On a CPU
        nothing waits, and it does nothing.
    """
    waiting: _Waiting = []
    token = _waiting.set(waiting)
    try:
        yield lambda: _raise_if_bad(waiting)
    finally:
        _waiting.reset(token)


def check_later(bad: Tensor, name: str) -> bool:
    """Leave a look at ``bad`` to :func:`checks_together`, and return whether it will look.

    For kernels that find NaN and infinity on their way: outside, or on a CPU, they look for themselves.

    Args:
        bad: one number, 0 unless ``name`` held such values.
        name: of the tensor.
    """
    waiting = _waiting.get()
    if waiting is None or bad.device.type == "cpu":
        return False
    waiting.append((name, bad, 0.0))
    return True


def check_finite(x: Tensor, name: str) -> None:
    """Raise QuantizationError if ``x`` holds NaN or infinity, or a float64 that float32 cannot hold.

    Skipped while torch compiles or exports, and on meta tensors; within :func:`checks_together` it may wait.
    """
    if x.numel() == 0 or torch.compiler.is_compiling() or x.is_meta:
        return
    low, high = x.detach().aminmax()
    largest = torch.maximum(-low, high)
    waiting = _waiting.get()
    if waiting is not None and x.device.type != "cpu":
        waiting.append((name, largest, torch.finfo(torch.float32).max))
        return
    if not float(largest) <= torch.finfo(torch.float32).max:
        bad = int((~torch.isfinite(x.detach().float())).sum())
        raise _not_finite(name, f"{bad} values of {x.numel()}")


def _raise_if_bad(waiting: _Waiting) -> None:
    if waiting:
        found = torch.cat([value.reshape(1).double() for _, value, _ in waiting]).tolist()
        for (name, _, limit), value in zip(waiting, found, strict=True):
            if not value <= limit:
                raise _not_finite(name, "values")
        waiting.clear()


def _not_finite(name: str, what: str) -> QuantizationError:
    return QuantizationError(
        f"{name} holds {what} that are NaN or infinite in float32",
        "look at the data or the learning rate: qcore does not quantize such values",
    )
