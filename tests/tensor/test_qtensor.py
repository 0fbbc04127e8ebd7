"""QTensor: packing loses nothing, and parts from outside are checked before any use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.errors import ModelFileError, QuantizationError
from qcore.tensor import ENCODINGS, Encoded, QTensor
from qcore.tensor.encoded import offset_and_step, stored_range


def coded(
    rows: int,
    cols: int,
    bits: int | list[int] = 4,
    encoding: str = "int",
    *,
    seed: int = 0,
    group_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    widths = torch.tensor([bits] * rows if isinstance(bits, int) else bits)
    codes = torch.zeros(rows, cols)
    for row, width in enumerate(widths.tolist()):
        low, top = stored_range(encoding, width)
        step, offset = offset_and_step(encoding, width)
        codes[row] = torch.randint(low, top + 1, (cols,), generator=generator) * step + offset
    groups = 1 if group_size is None else -(-cols // group_size)
    scale = torch.rand(rows, groups, generator=generator) + 0.01
    zero = torch.randint(0, 2, scale.shape, generator=generator).float() if encoding == "uint" else None
    given_bits = bits if isinstance(bits, int) else widths
    return Encoded(codes, scale, torch.Size([rows, cols]), dtype, encoding, given_bits, zero, group_size)


def same(a: Encoded, b: Encoded) -> bool:
    zeros = a.zero_point is None and b.zero_point is None or torch.equal(a.zero_point, b.zero_point)  # type: ignore[arg-type]
    bits = torch.as_tensor(a.bits).expand(len(a.codes)), torch.as_tensor(b.bits).expand(len(b.codes))
    kept = (a.shape, a.dtype, a.encoding, a.group_size) == (b.shape, b.dtype, b.encoding, b.group_size)
    return kept and zeros and torch.equal(*bits) and torch.equal(a.codes, b.codes) and torch.equal(a.scale, b.scale)


@given(
    seed=st.integers(0, 2**32),
    encoding=st.sampled_from(ENCODINGS),
    bits=st.integers(1, 8),
    rows=st.integers(0, 5),
    cols=st.integers(0, 33),
    group_size=st.none() | st.integers(1, 9),
)
def test_unpack_gives_back_what_was_packed(
    seed: int, encoding: str, bits: int, rows: int, cols: int, group_size: int | None
) -> None:
    width = 2 if encoding == "ternary" else bits
    given_codes = coded(rows, cols, width, encoding, seed=seed, group_size=group_size)
    packed = QTensor.pack(given_codes)
    assert same(packed.unpack(), given_codes)
    assert torch.equal(packed.dequantize(), given_codes.decode())
    assert same(QTensor.from_parts(packed.tensors(), packed.metadata()).unpack(), given_codes)


@given(
    seed=st.integers(0, 2**32),
    widths=st.lists(st.integers(1, 8), max_size=7),
    cols=st.integers(0, 20),
    encoding=st.sampled_from(["int", "symmetric"]),
)
def test_rows_of_several_widths_come_back_in_their_own_order(
    seed: int, widths: list[int], cols: int, encoding: str
) -> None:
    given_codes = coded(len(widths), cols, widths, encoding, seed=seed)
    packed = QTensor.pack(given_codes)
    assert torch.equal(packed.unpack().codes, given_codes.codes)
    assert packed.row_bits().tolist() == widths or not widths
    assert [block.bits for block in packed.blocks] == sorted(set(widths)) or not widths
    assert same(QTensor.from_parts(packed.tensors(), packed.metadata()).unpack(), packed.unpack())


def test_rows_of_one_width_stand_together_and_the_order_is_stored() -> None:
    packed = QTensor.pack(coded(4, 8, [4, 2, 4, 2]))
    assert [(block.bits, tuple(block.data.shape)) for block in packed.blocks] == [(2, (2, 2)), (4, (2, 4))]
    assert packed.row_order is not None
    assert packed.row_order.tolist() == [1, 3, 0, 2]
    assert packed.row_order.dtype == torch.int32


def test_rows_whose_widths_ascend_need_no_row_order() -> None:
    given_codes = coded(5, 8, [1, 1, 2, 4, 4], "odd")
    packed = QTensor.pack(given_codes)
    assert packed.tensors().keys() == {"codes_0", "codes_1", "codes_2", "scale"}
    assert packed.nbytes == 2 * 1 + 1 * 2 + 2 * 4 + 5 * 4
    assert packed.row_bits().tolist() == [1, 1, 2, 4, 4]
    assert same(packed.unpack(), given_codes)
    assert same(QTensor.from_parts(packed.tensors(), packed.metadata()).unpack(), given_codes)


def test_one_width_for_all_rows_needs_no_row_order() -> None:
    assert QTensor.pack(coded(3, 8, [4, 4, 4])).row_order is None


def test_nbytes_counts_every_byte_that_is_stored() -> None:
    four_bit = QTensor.pack(coded(640, 1536))
    assert four_bit.nbytes == 640 * 1536 // 2 + 4 * 640
    ternary = QTensor.pack(coded(640, 1536, 2, "ternary"))
    assert ternary.nbytes == 640 * -(-1536 // 5) + 4 * 640
    mixed = QTensor.pack(coded(4, 8, [4, 2, 4, 2]))
    assert mixed.nbytes == 2 * 2 + 2 * 4 + 4 * 4 + 4 * 4  # codes of 2 and of 4 bits, scales, row order
    affine = QTensor.pack(coded(2, 8, 4, "uint"))
    assert affine.nbytes == 8 + 2 * 4 + 2
    assert four_bit.effective_bits == pytest.approx(4 + 8 * 4 / 1536)


def test_a_whole_packed_tensor_has_the_documented_bytes() -> None:
    codes = torch.tensor([[-7.0, 0.0, 7.0], [1.0, 2.0, -1.0]])  # stored as 1 8 15, 9 10 7
    packed = QTensor.pack(Encoded(codes, torch.tensor([[0.5], [2.0]]), codes.shape, torch.float32, "int", 4))
    assert [bytes(row).hex() for row in packed.blocks[0].data.tolist()] == ["810f", "a907"]
    assert packed.tensors().keys() == {"codes_0", "scale"}
    assert packed.metadata() == {
        "shape": [2, 3],
        "dtype": "float32",
        "encoding": "int",
        "cols": 3,
        "group_size": None,
        "blocks": [{"bits": 4, "codec": "packn@1"}],
    }


def test_ternary_codes_are_stored_as_trits_unless_another_codec_is_named() -> None:
    x = coded(2, 10, 2, "ternary")
    assert QTensor.pack(x).blocks[0].codec == "trit5@1"
    in_bits = QTensor.pack(x, "packn@1")
    assert in_bits.blocks[0].codec == "packn@1"
    assert torch.equal(in_bits.unpack().codes, x.codes)


def test_binary_and_ternary_rows_beside_wider_ones_have_the_documented_bytes() -> None:
    codes = torch.tensor([[-3.0, 0.0, 3.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 1.0], [-7.0, 7.0, 0.0], [-127.0, 127.0, 0.0]])
    bits = torch.tensor([3, 2, 1, 4, 8])
    packed = QTensor.pack(Encoded(codes, torch.ones(5, 1), codes.shape, torch.float32, "symmetric", bits))
    stored = {block.bits: (block.codec, bytes(block.data[0].tolist()).hex()) for block in packed.blocks}
    assert stored == {
        1: ("packn@1", "06"),  # 0 1 1
        2: ("trit5@1", "05"),  # 2 + 1*3 + 0*9
        3: ("packn@1", "e101"),  # 1 4 7
        4: ("packn@1", "f108"),  # 1 15 8
        8: ("packn@1", "01ff80"),  # 1 255 128
    }
    assert packed.nbytes == 1 + 1 + 2 + 2 + 3 + 5 * 4 + 5 * 4
    assert packed.row_bits().tolist() == bits.tolist()
    assert torch.equal(packed.dequantize(), codes)
    assert torch.equal(packed.unpack().bits, bits)  # type: ignore[arg-type]
    assert packed.codecs == {1: "packn@1", 2: "trit5@1", 3: "packn@1", 4: "packn@1", 8: "packn@1"}
    assert QTensor.pack(packed.unpack(), packed.codecs | {2: "packn@1"}).codecs[2] == "packn@1"


@pytest.mark.parametrize(("bits", "code"), [(1, 0.0), (2, 2.0), (2, -2.0), (3, -4.0), (8, -128.0), (8, 128.0)])
def test_a_code_beyond_the_symmetric_range_is_refused(bits: int, code: float) -> None:
    with pytest.raises(QuantizationError, match="does not fit"):
        QTensor.pack(replace(coded(1, 1, bits, "symmetric"), codes=torch.tensor([[code]])))


@pytest.mark.parametrize(("bits", "codec"), [(2, "packn@1"), (3, "packn@1"), (8, "packn@1")])
def test_stored_codes_beyond_the_symmetric_range_are_refused(bits: int, codec: str) -> None:
    packed = QTensor.pack(coded(3, 8, bits, "symmetric"), codec)
    wrong = torch.full_like(packed.blocks[0].data, 255 if bits == 2 else 0)
    with pytest.raises(ModelFileError, match="stored code"):
        QTensor.from_parts(packed.tensors() | {"codes_0": wrong}, packed.metadata())


@pytest.mark.parametrize("code", [8.0, -9.0, 0.5, float("nan")])
def test_a_code_that_does_not_fit_is_refused(code: float) -> None:
    with pytest.raises(QuantizationError, match="does not fit"):
        QTensor.pack(replace(coded(1, 1), codes=torch.tensor([[code]])))


def test_codes_that_the_codec_cannot_hold_are_refused_rather_than_garbled() -> None:
    with pytest.raises(QuantizationError, match="trit5@1"):
        QTensor.pack(replace(coded(1, 1, 2, "uint"), codes=torch.tensor([[3.0]])), "trit5@1")
    with pytest.raises(QuantizationError, match="1 bits"):
        QTensor.pack(replace(coded(1, 1, 2, "ternary"), codes=torch.tensor([[1.0]]), bits=1), "packn@1")


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 9},
        {"bits": 0},
        {"zero_point": torch.tensor([[1.0]])},
        {"encoding": "uint", "codes": torch.zeros(1, 3), "zero_point": torch.tensor([[-1.0]])},
        {"encoding": "uint", "codes": torch.zeros(1, 3), "zero_point": torch.tensor([[0.5]])},
    ],
    ids=str,
)
def test_widths_and_zero_points_that_no_file_can_hold_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(QuantizationError):
        QTensor.pack(replace(coded(1, 3), **change))


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(QuantizationError, match="packn@1, trit5@1"):
        QTensor.pack(coded(1, 3), "zip@1")


def parts(**options: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    packed = QTensor.pack(coded(3, 10, **options))
    return packed.tensors(), packed.metadata()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoding", "roman"),
        ("dtype", "Tensor"),
        ("dtype", "int8"),
        ("dtype", "nothing"),
        ("dtype", None),
        ("cols", 11),
        ("cols", -10),
        ("cols", "many"),
        ("shape", [3, 11]),
        ("shape", [-3, -10]),
        ("shape", [2**33, 2**33, 2**33]),
        ("shape", [10**30]),
        ("shape", "3x10"),
        ("group_size", 0),
        ("group_size", 5),
        ("blocks", []),
        ("blocks", [{"bits": 4, "codec": "zip@9"}]),
        ("blocks", [{"bits": 3, "codec": "packn@1"}]),
        ("blocks", [{"bits": 0, "codec": "packn@1"}]),
        ("blocks", [{"bits": 99, "codec": "trit5@1"}]),
        ("blocks", [{"bits": 4}]),
        ("blocks", [{"bits": 4, "codec": "packn@1"}] * 2),
        ("blocks", 7),
    ],
)
def test_malformed_metadata_are_refused(key: str, value: object) -> None:
    tensors, metadata = parts()
    with pytest.raises(ModelFileError):
        QTensor.from_parts(tensors, metadata | {key: value})


@pytest.mark.parametrize("key", ["shape", "dtype", "encoding", "cols", "blocks"])
def test_metadata_that_lack_an_entry_are_refused_by_its_name(key: str) -> None:
    tensors, metadata = parts()
    del metadata[key]
    with pytest.raises(ModelFileError, match=key):
        QTensor.from_parts(tensors, metadata)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("codes_0", torch.zeros(3, 6, dtype=torch.uint8)),
        ("codes_0", torch.zeros(2, 5, dtype=torch.uint8)),
        ("codes_0", torch.zeros(3, 5)),
        ("codes_0", torch.zeros(15, dtype=torch.uint8)),
        ("scale", torch.zeros(3)),
        ("scale", torch.zeros(3, 2)),
        ("scale", torch.zeros(2, 1)),
        ("scale", torch.zeros(3, 1, dtype=torch.float64)),
        ("zero_point", torch.zeros(3, 1, dtype=torch.uint8)),
        ("row_order", torch.tensor([0, 1, 1], dtype=torch.int32)),
        ("row_order", torch.tensor([0, 1], dtype=torch.int32)),
        ("row_order", torch.tensor([0, 1, 2])),
    ],
    ids=str,
)
def test_ill_shaped_tensors_are_refused(name: str, value: torch.Tensor) -> None:
    tensors, metadata = parts()
    with pytest.raises(ModelFileError):
        QTensor.from_parts(tensors | {name: value}, metadata)


@pytest.mark.parametrize("name", ["codes_0", "scale"])
def test_a_missing_tensor_is_named(name: str) -> None:
    tensors, metadata = parts()
    del tensors[name]
    with pytest.raises(ModelFileError, match=name):
        QTensor.from_parts(tensors, metadata)


def test_zero_points_are_checked_against_the_widest_code() -> None:
    tensors, metadata = parts(encoding="uint")
    for wrong in (torch.full((3, 1), 16, dtype=torch.uint8), torch.zeros(3, 1), torch.zeros(2, 1, dtype=torch.uint8)):
        with pytest.raises(ModelFileError, match="zero point"):
            QTensor.from_parts(tensors | {"zero_point": wrong}, metadata)


def test_widths_that_do_not_ascend_without_a_row_order_are_refused() -> None:
    packed = QTensor.pack(coded(4, 8, [2, 2, 4, 4]))
    metadata = packed.metadata()
    tensors = packed.tensors() | {"codes_0": packed.blocks[1].data, "codes_1": packed.blocks[0].data}
    with pytest.raises(ModelFileError, match="row order"):
        QTensor.from_parts(tensors, metadata | {"blocks": metadata["blocks"][::-1]})


def test_activations_of_16_bits_are_not_stored() -> None:
    codes = torch.tensor([[65535.0]])
    with pytest.raises(QuantizationError, match="16 bits are not stored"):
        QTensor.pack(Encoded(codes, torch.ones(1, 1), codes.shape, torch.float32, "uint", 16))


def test_a_copy_on_another_device_has_the_same_parts() -> None:
    packed = QTensor.pack(coded(4, 8, [4, 2, 4, 2]))
    moved = packed.to("meta")
    assert moved.scale.is_meta
    assert moved.metadata() == packed.metadata()
    assert same(packed.to("cpu").unpack(), packed.unpack())


def test_conv_weights_and_activations_keep_their_shape() -> None:
    x = replace(coded(4, 18), shape=torch.Size([4, 2, 3, 3]), dtype=torch.bfloat16)
    packed = QTensor.pack(x)
    assert (packed.dequantize().shape, packed.dequantize().dtype) == ((4, 2, 3, 3), torch.bfloat16)
