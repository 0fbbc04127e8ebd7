"""What the JSON header of a model file must look like. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["FOLDED_FORMAT", "FORMAT", "header_problems"]

FORMAT = "qcore.model/1"
FOLDED_FORMAT = "qcore.model/2"
"""As the first, with ``folded`` in at least one layer: a reader of the first would expect the batch norm's tensors."""

_Count = Annotated[int, Field(ge=0, le=1 << 48)]
_Pair = Annotated[list[_Count], Field(min_length=2, max_length=2)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A plugin or a distribution. Its name goes into a line that people paste into a shell."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Network(_Part):
    id: str
    config: dict[str, Any]


class _Block(_Part):
    bits: int = Field(ge=1, le=8)
    codec: str


class _Packed(_Part):
    shape: list[_Count]
    dtype: str
    encoding: str
    cols: _Count
    group_size: Annotated[int, Field(ge=1, le=1 << 48)] | None
    blocks: list[_Block] = Field(min_length=1)


class _Walk(_Part):
    stride: _Pair
    padding: _Pair
    dilation: _Pair
    groups: _Count
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    reversed_padding: list[_Count]


class _Layer(_Part):
    kind: Literal["linear", "conv2d"]
    weight: dict[str, Any] | None
    packed: _Packed | None
    bias: bool
    input: dict[str, Any] | None
    conv: _Walk | None = None
    folded: Annotated[str, Field(pattern=r"^[^.]+$")] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.packed is not None and (self.kind == "conv2d") != (self.conv is not None):
            raise ValueError("a packed convolution says how it walks, and no other layer does")
        if self.packed is None and self.input is None:
            raise ValueError("a layer is packed, or has a quantized input, or both")
        if self.folded is not None and (self.packed is None or not self.bias):
            raise ValueError("a batch norm is folded into packed layers, which have a bias then")
        return self


class _Origin(_Part):
    distribution: _Name | None
    version: str | None


class _Header(_Part):
    format: str
    qcore: str
    model: _Network | None
    layers: dict[str, _Layer]
    plugins: dict[_Name, _Origin]
    checksums: str = Field(pattern=r"^([0-9a-f]{16})*$")
    extra: dict[str, Any]

    @model_validator(mode="after")
    def _says_what_is_folded(self) -> Self:
        folded = any(layer.folded is not None for layer in self.layers.values())
        if folded != (self.format == FOLDED_FORMAT):
            raise ValueError(f"files with folded batch norms have the format {FOLDED_FORMAT}, and no others")
        return self


def header_problems(header: object) -> list[str]:
    """Return what is wrong with the header of a model file, one line an entry; an empty list if nothing is."""
    try:
        _Header.model_validate(header)
    except ValidationError as error:
        return [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return []
