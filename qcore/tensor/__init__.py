"""Packed low-bit tensors, their codecs, and the one arithmetic. Pure functions, no modules."""

from __future__ import annotations

from qcore.tensor.activation import ActivationScheme
from qcore.tensor.arithmetic import integer_conv2d, integer_linear
from qcore.tensor.codecs import CODECS, Codec
from qcore.tensor.columns import Columns
from qcore.tensor.encoded import ENCODINGS, Encoded
from qcore.tensor.qtensor import Block, QTensor

__all__ = [
    "CODECS",
    "ENCODINGS",
    "ActivationScheme",
    "Block",
    "Codec",
    "Columns",
    "Encoded",
    "QTensor",
    "integer_conv2d",
    "integer_linear",
]
