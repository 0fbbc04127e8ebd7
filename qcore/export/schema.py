"""What the JSON header of a model file must look like. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["FOLDED_FORMAT", "FORMAT", "FORMATS", "SORTED_FORMAT", "format_of", "header_problems"]

FORMAT = "qcore.model/1"
FOLDED_FORMAT = "qcore.model/2"
"""As the first, with ``folded`` in at least one layer: a reader of the first would expect the batch norm's tensors."""

SORTED_FORMAT = "qcore.model/3"
"""As the second, with ``sorted`` in at least one layer: a reader of the others would not know the order of its rows."""
FORMATS = (FORMAT, FOLDED_FORMAT, SORTED_FORMAT)

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
    sorted: Annotated[list[Literal["rows", "columns"]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.packed is not None and (self.kind == "conv2d") != (self.conv is not None):
            raise ValueError("a packed convolution says how it walks, and no other layer does")
        if self.packed is None and self.input is None:
            raise ValueError("a layer is packed, or has a quantized input, or both")
        if self.folded is not None and (self.packed is None or not self.bias):
            raise ValueError("a batch norm is folded into packed layers, which have a bias then")
        if self.sorted is not None and (self.packed is None or self.kind != "linear" and "columns" in self.sorted):
            raise ValueError("rows of packed layers are sorted, and columns of packed linear ones")
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
    def _says_what_it_needs(self) -> Self:
        wanted = format_of(layer.model_dump(exclude_none=True) for layer in self.layers.values())
        if self.format != wanted:
            raise ValueError(f"a file of such layers has the format {wanted}")
        return self


def format_of(layers: Iterable[Mapping[str, Any]]) -> str:
    """Return the format of a file of ``layers``: the first that says all of them."""
    keys = {key for layer in layers for key in layer}
    return SORTED_FORMAT if "sorted" in keys else FOLDED_FORMAT if "folded" in keys else FORMAT


def header_problems(header: object) -> list[str]:
    """Return what is wrong with the header of a model file, one line an entry; an empty list if nothing is."""
    try:
        _Header.model_validate(header)
    except ValidationError as error:
        return [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return []
