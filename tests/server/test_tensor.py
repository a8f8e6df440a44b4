"""Tensors and their bytes: layout, views, and what is refused."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace.server.errors import InferenceError, InvalidInput
from headrace.server.tensor import (
    NUMPY,
    Datatype,
    Tensor,
    bytes_array,
    datatype_of,
    from_raw,
    iter_bytes,
    to_datatype,
    to_raw,
)


@pytest.mark.parametrize(
    ("datatype", "value", "raw"),
    [
        pytest.param(Datatype.BOOL, [True, False], b"\x01\x00", id="BOOL"),
        pytest.param(Datatype.UINT8, [255], b"\xff", id="UINT8"),
        pytest.param(Datatype.INT8, [-1], b"\xff", id="INT8"),
        pytest.param(Datatype.UINT16, [258], b"\x02\x01", id="UINT16, little-endian"),
        pytest.param(Datatype.INT16, [-2], b"\xfe\xff", id="INT16"),
        pytest.param(Datatype.UINT32, [1], b"\x01\0\0\0", id="UINT32"),
        pytest.param(Datatype.INT32, [-1], b"\xff" * 4, id="INT32"),
        pytest.param(Datatype.UINT64, [2**64 - 1], b"\xff" * 8, id="UINT64"),
        pytest.param(Datatype.INT64, [-(2**63)], b"\0" * 7 + b"\x80", id="INT64"),
        pytest.param(Datatype.FP16, [1.0], b"\x00\x3c", id="FP16"),
        pytest.param(Datatype.BF16, [1.0], b"\x80\x3f", id="BF16: the upper half of a float32"),
        pytest.param(Datatype.FP32, [1.0], b"\0\0\x80\x3f", id="FP32"),
        pytest.param(Datatype.FP64, [1.0], b"\0" * 6 + b"\xf0\x3f", id="FP64"),
        pytest.param(Datatype.BYTES, [b"", b"hi"], b"\0\0\0\0\x02\0\0\0hi", id="BYTES"),
    ],
)
def test_wire_layout(datatype: Datatype, value: list[Any], raw: bytes) -> None:
    tensor = from_raw("x", datatype, [len(value)], raw, "x")
    assert tensor.array.tolist() == value
    assert tensor.array.dtype == NUMPY[datatype]
    assert bytes(to_raw(tensor)) == raw


def test_raw_tensors_are_read_only_views() -> None:
    raw = bytearray(np.arange(4, dtype="<f4").tobytes())
    tensor = from_raw("x", Datatype.FP32, [2, 2], raw, "x")
    assert np.shares_memory(tensor.array, np.frombuffer(raw, np.uint8))
    assert not tensor.array.flags.writeable


def test_an_array_of_columns_is_sent_row_by_row() -> None:
    tensor = Tensor("x", np.array([[1, 2], [3, 4]], "<i4", order="F"))
    assert bytes(to_raw(tensor)) == np.array([1, 2, 3, 4], "<i4").tobytes()


@pytest.mark.parametrize(
    ("shape", "raw", "sentence"),
    [
        pytest.param([2], b"1234", "at: FP32 of shape [2] needs 8 bytes, got 4", id="too few"),
        pytest.param([0], b"1234", "at: FP32 of shape [0] needs 0 bytes, got 4", id="too many"),
        pytest.param([-1], b"", "at: shape [-1] has a negative dimension", id="negative"),
        pytest.param(
            [2**60, 2], b"", f"at: shape [{2**60}, 2] has more elements than fit int64", id="huge"
        ),
    ],
)
def test_bytes_that_do_not_fit(shape: list[int], raw: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_raw("x", Datatype.FP32, shape, raw, "at")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array(["a"]), Datatype.BYTES),
        (np.array([b"a"]), Datatype.BYTES),
        (np.array([None], object), Datatype.BYTES),
        (np.array(["2026-11-24"], "M8[D]"), Datatype.BYTES),
        (np.array([1], ">i4"), Datatype.INT32),
        (np.array([1], ml_dtypes.bfloat16), Datatype.BF16),
    ],
)
def test_datatype_of(array: Any, datatype: Datatype) -> None:
    assert datatype_of(array) is datatype


def test_a_dtype_without_a_name_is_the_models_mistake() -> None:
    with pytest.raises(InferenceError) as caught:
        datatype_of(np.array([1j]))
    assert str(caught.value) == (
        "numpy dtype complex128 has no Open Inference Protocol datatype; cast it to one of "
        "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, "
        "FP64, BYTES"
    )


def test_datatypes_are_known_in_any_case() -> None:
    assert to_datatype("fp32", "at") is Datatype.FP32


def test_elements_of_every_kind_become_bytes() -> None:
    array = bytes_array([b"a", "ü", bytearray(b"b"), memoryview(b"c"), 1], (5,))  # type: ignore[list-item]  # what models put into object arrays
    assert list(iter_bytes(array)) == [b"a", "ü".encode(), b"b", b"c", b"1"]
    assert list(iter_bytes(np.array(["2026-11-24"], "M8[D]"))) == [b"2026-11-24"]
