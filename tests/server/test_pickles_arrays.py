"""Arrays whose pickles would have numpy take the file's bytes for pointers, or use freed memory."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from headrace.server import ModelLoadError, UntrustedModel, load_pickle
from tests.server.pickle_code import called, code, stack_global, text

POINTER = called("numpy", "dtype", text("O8"), b"\x89", b"\x88")
EIGHT_BYTES = b"C\x08" + b"A" * 8
ONE = b"K\x01\x85"
EMPTY = called(
    "numpy._core.multiarray", "_reconstruct", stack_global("numpy", "ndarray"), b"K\x00\x85C\x01b"
)


def load(content: bytes, folder: Path) -> Any:
    path = folder / "array.pkl"
    path.write_bytes(content)
    return load_pickle(path)


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def dtype(kind: str, state: bytes = b"") -> bytes:
    return called("numpy", "dtype", text(kind), b"\x89", b"\x88") + state


def filled(names: bytes, fields: bytes, size: int, flags: int, subdtype: bytes = b"N") -> bytes:
    """BUILD of a dtype with its state of version 3."""
    size_and_flags = integer(size) + integer(1) + integer(flags)
    return b"(K\x03" + text("|") + subdtype + names + fields + size_and_flags + b"tb"


def one_field(inner: bytes, offset: int = 0) -> bytes:
    return b"}" + text("a") + inner + integer(offset) + b"\x86s"


def two_fields(first: bytes, second: bytes, offset: int) -> bytes:
    pairs = text("a") + first + b"K\x00\x86" + text("b") + second + integer(offset) + b"\x86"
    return b"}(" + pairs + b"u"


NAME = text("a") + b"\x85"
NAMES = text("a") + text("b") + b"\x86"
NUMBER = dtype("i8")
CONTRADICTS = "a dtype's size or flags contradict its parts"
DTYPES = {
    "flags that deny the pointers": (
        dtype("V8", filled(NAME, one_field(POINTER), 8, 0)),
        CONTRADICTS,
    ),
    "flags that have pointers pickled as bytes": (
        dtype("V8", filled(NAME, one_field(POINTER), 8, 61)),
        CONTRADICTS,
    ),
    "pointers that deny themselves": (dtype("O8", filled(b"N", b"N", -1, 0)), CONTRADICTS),
    "pointers pickled as bytes": (dtype("O8", filled(b"N", b"N", -1, 61)), CONTRADICTS),
    "a number over a pointer": (
        dtype("V8", filled(NAMES, two_fields(POINTER, NUMBER, 0), 8, 63)),
        "",
    ),
    "a field outside": (dtype("V8", filled(NAME, one_field(NUMBER, 8), 8, 0)), ""),
    "a field before": (dtype("V8", filled(NAME, one_field(NUMBER, -8), 8, 0)), ""),
    "a field without a name": (
        dtype("V16", filled(NAME, two_fields(NUMBER, POINTER, 8), 16, 0)),
        "a dtype has more fields than names",
    ),
    "a subarray larger than its element": (
        dtype("V8", filled(b"N", b"N", 8, 0, NUMBER + integer(1000) + b"\x85\x86")),
        CONTRADICTS,
    ),
}


@pytest.mark.parametrize(("content", "reason"), DTYPES.values(), ids=DTYPES)
def test_dtype_numpy_would_not_make_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as refused:
        load(code(content), tmp_path)
    path = tmp_path / "array.pkl"
    told = str(refused.value)
    assert told.startswith(f"{path}: not a pickle that can be read: ")
    if reason:
        assert told == f"{path}: not a pickle that can be read: ValueError: {reason}"


def test_numpys_own_dtypes_stay_as_they_are(tmp_path: Path) -> None:
    """Without `copy`, numpy hands out the dtype that the whole process uses."""
    shared = called("numpy", "dtype", text("O8"), b"\x89", b"\x89")
    with pytest.raises(ModelLoadError):
        load(code(shared + filled(b"N", b"N", -1, 0)), tmp_path)
    assert np.dtype(object).flags == 63


def test_array_keeps_the_dtype_it_was_made_with(tmp_path: Path) -> None:
    """An array of eight bytes, whose dtype then becomes a pointer; the array comes back."""
    memoed = dtype("V8") + b"q\x00"
    state = b"(K\x01" + ONE + b"h\x00" + b"\x89" + EIGHT_BYTES + b"tb"
    array = EMPTY + state + b"q\x01"
    built = b"h\x00" + filled(NAME, one_field(POINTER), 8, 63)
    loaded, made = load(code(memoed + b"0" + array + b"0" + built + b"h\x01\x86"), tmp_path)[::-1]
    assert loaded.dtype == np.dtype("V8")
    assert made == np.dtype([("a", object)])


def test_array_over_given_memory_is_refused(tmp_path: Path) -> None:
    """`np.ndarray(shape, object, buffer)` takes the buffer's bytes for pointers."""
    body = stack_global("numpy", "ndarray") + b"(" + ONE + POINTER + EIGHT_BYTES + b"t\x81"
    with pytest.raises(UntrustedModel, match="wants an array over memory of its own, which"):
        load(code(body), tmp_path)


def test_array_is_filled_once(tmp_path: Path) -> None:
    """A second time would free the memory that a view of it still uses."""
    state = b"(K\x01" + ONE + dtype("V8") + b"\x89" + EIGHT_BYTES + b"tb"
    with pytest.raises(UntrustedModel, match="wants a second content for an array, which"):
        load(code(EMPTY + state + state), tmp_path)


def test_items_of_an_array_are_not_set(tmp_path: Path) -> None:
    with pytest.raises(UntrustedModel, match="wants items added to a ndarray, which"):
        load(code(EMPTY + b"K\x00K\x01s"), tmp_path)


def test_memory_map_loads_as_an_array(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "numbers", "f8", "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    loaded = load(pickle.dumps(mapped), tmp_path)
    assert type(loaded) is np.ndarray
    np.testing.assert_array_equal(loaded, [1, 2, 3])


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_sparse_index_outside_is_refused(kind: Any, tmp_path: Path) -> None:
    """scipy's native code writes where the indices of a sparse matrix say."""
    matrix = kind(np.eye(3))
    matrix.indices[1] = 1_000_000
    with pytest.raises(ModelLoadError, match=r"not a pickle that can be read: ValueError: .*ind"):
        load(pickle.dumps(matrix), tmp_path)
