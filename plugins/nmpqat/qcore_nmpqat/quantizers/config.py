"""Configs of the quantizers. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from qcore.quantizers.config import QuantizerConfig

__all__ = ["ActivationConfig", "NeuronConfig", "NoiseConfig", "PackedActivationConfig", "WidthConfig"]


class WidthConfig(QuantizerConfig):
    """Options of quantizers that learn widths.

    Attributes:
        widths: what a neuron chooses among, rising.
        thresholds: one fewer than there are widths, rising, between 0 and 1; None divides 0 to 1 equally.
        tau: how far from a threshold a strength still feels it, in the unit of strengths.
        hysteresis: by how much a strength must pass a threshold for the width to change; 0 makes a width a function of
            the strength alone.
        ratchet: whether a width never falls.
    """

    allowed: ClassVar[frozenset[int]] = frozenset()

    widths: tuple[int, ...] = Field(default=(1,), description="widths that a neuron chooses among")
    thresholds: tuple[float, ...] | None = Field(default=None, description="strengths at which the next width begins")
    tau: float = Field(default=0.1, gt=0, description="temperature of the gates between two widths")
    hysteresis: float = Field(default=0.0, ge=0, description="how far a strength must pass a threshold")
    ratchet: bool = Field(default=False, description="a width never falls")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or not self.allowed.issuperset(self.widths):
            known = ", ".join(map(str, sorted(self.allowed)))
            raise ValueError(f"widths rise and are among {known}, not {list(self.widths)}")
        steps = self.steps
        if len(steps) != len(self.widths) - 1 or list(steps) != sorted(set(steps)):
            raise ValueError(f"{len(self.widths)} widths have {len(self.widths) - 1} thresholds, rising")
        if any(not 0 < step < 1 for step in steps):
            raise ValueError("thresholds lie between 0 and 1")
        ends = (0.0, *steps, 1.0)
        gaps = [high - low for low, high in zip(ends[:-1], ends[1:], strict=True)]
        if 2 * self.hysteresis >= min(gaps):
            raise ValueError(f"hysteresis must be below half of the smallest gap between thresholds, {min(gaps) / 2:g}")
        return self

    @property
    def steps(self) -> tuple[float, ...]:
        """The thresholds, whether given or not."""
        count = len(self.widths)
        return tuple(k / count for k in range(1, count)) if self.thresholds is None else self.thresholds


class NeuronConfig(WidthConfig):
    """Options of ``nmpqat/neuron``."""

    allowed = frozenset(range(9))

    widths: tuple[int, ...] = Field(default=(1, 2, 4, 8), description="widths of a neuron's weights; 0 prunes it")
    scale: Literal["mse", "absmax", "learned"] = Field(
        default="mse",
        description="steps of least squared error for normal weights, over the largest magnitude, or learned",
    )

    @model_validator(mode="after")
    def _prunes_beside_another(self) -> Self:
        if self.widths == (0,):
            raise ValueError("a width of 0 stands beside another: alone it prunes all neurons")
        return self


class NoiseConfig(NeuronConfig):
    """Options of ``nmpqat/noise``.

    Attributes:
        thresholds: of ``(b - lowest) / (highest - lowest)``; by default the nearest width is taken.
        start: the real width that all neurons begin with; None: the one in the middle of ``widths``.
        settle: what weights are trained with while the logits are not trained: noise of the hard width, or the codes
            themselves, with the straight-through gradient.
    """

    allowed = frozenset(range(1, 9))

    scale: Literal["mse", "absmax"] = Field(
        default="mse", description="steps of least squared error for normal weights, or over the largest magnitude"
    )
    distribution: Literal["uniform", "normal"] = Field(
        default="uniform", description="of the noise: uniform in (-1/2, 1/2), or normal over 2"
    )
    start: float | None = Field(default=None, description="the real width that neurons begin with")
    settle: Literal["noise", "codes"] = Field(
        default="noise", description="what weights are trained with while widths stand still"
    )

    @model_validator(mode="after")
    def _starts_within(self) -> Self:
        if self.start is not None and not self.widths[0] <= self.start <= self.widths[-1]:
            raise ValueError(f"a start of {self.start:g} bits is not between {self.widths[0]} and {self.widths[-1]}")
        if self.tau != WidthConfig.model_fields["tau"].default:
            raise ValueError("tau is of gates, and noise has none")
        return self

    @property
    def steps(self) -> tuple[float, ...]:
        """The thresholds; by default halfway from one width to the next."""
        if self.thresholds is not None or len(self.widths) < 2:
            return super().steps
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return tuple(((low + high) / 2 - self.widths[0]) / self.span for low, high in pairs)

    @property
    def span(self) -> int:
        """From the lowest width to the highest, in bits."""
        return self.widths[-1] - self.widths[0]

    @property
    def first_strength(self) -> float:
        """Where ``start`` lies between the lowest width, 0, and the highest, 1."""
        start = self.widths[len(self.widths) // 2] if self.start is None else self.start
        return (start - self.widths[0]) / self.span if self.span else 0.5

    @property
    def first_width(self) -> int:
        """The hard width that neurons begin with."""
        return self.widths[sum(self.first_strength > step for step in self.steps)]


class ActivationConfig(WidthConfig):
    """Options of ``nmpqat/activation``."""

    allowed = frozenset((4, 8, 16))

    widths: tuple[int, ...] = Field(default=(4, 8, 16), description="widths of a neuron's activations")
    signed: bool | None = Field(
        default=None, description="whether values may be negative; by default the first batch tells"
    )
    gradient: Literal["pact", "lsq"] = Field(
        default="pact", description="of the clip: from what lies beyond it (PACT), or from the roundings too (LSQ)"
    )


class PackedActivationConfig(QuantizerConfig):
    """Options of ``nmpqat/packed_activation``: it has none."""
