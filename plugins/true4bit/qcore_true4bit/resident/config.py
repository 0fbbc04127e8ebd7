"""Options of resident training. Torch-free, so that a listing validates them without importing torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ResidentConfig"]


class ResidentConfig(BaseModel):
    """How resident layers hold and update their weights.

    Attributes:
        residual: whether an int8 a weight keeps what rounding to a code leaves, in 1/256 of a step. Without it the code
            is all there is of a weight, and rounding is stochastic.
        moments: ``factored``: 8-bit first moment, second moment as a row and a column vector; ``8bit``: both in 8 bits;
            ``float``: both in float32, to compare with.
        betas: decay of the first and of the second moment.
        eps: added, squared, to the squared gradient.
        clip: largest norm of one layer's weight gradient, or None. There is no norm over all layers: a layer's gradient
            is gone before the next one's is known.
        soft_clip: the ``a`` of ``a tanh(w / a)``, applied to the target value of each update, or None. It does not
            fall with the learning rate. Where the scale follows the largest weight, scale and weights shrink together;
            here the scale stays and codes shrink, which costs levels, so weight decay is the better bound.
        scale: first scale of a row, from its float weights: ``mean``, LSQ's ``2 mean|w| / sqrt(7)``, or ``mse``, the
            one of least squared error.
        unit: what the learning rate is a step of: ``code``, so that every layer turns at the same rate whatever
            its scale is, or ``weight``, as in Adam.
        start: how float weights become the first codes.
        learn_scale: whether the rows' scales are trained, by the optimizer of the model's parameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual: bool = Field(default=False, description="keep an int8 a weight of what rounding leaves")
    moments: Literal["factored", "8bit", "float"] = Field(default="factored", description="how moments are stored")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay of the moments")
    eps: float = Field(default=1e-8, gt=0, description="added, squared, to the squared gradient")
    clip: float | None = Field(default=None, gt=0, description="largest norm of a layer's weight gradient")
    soft_clip: float | None = Field(default=None, gt=0, description="a of the soft clip a tanh(w / a)")
    scale: Literal["mean", "mse"] = Field(default="mse", description="first scale of a row")
    unit: Literal["code", "weight"] = Field(default="code", description="what the learning rate is a step of")
    start: Literal["nearest", "stochastic"] = Field(default="nearest", description="rounding of the first codes")
    learn_scale: bool = Field(default=True, description="train the rows' scales")
