"""Loads pickle and joblib files without running what is in them.

A pickle is a program. This unpickler lets it call and build only what `pickle_names.py` lists:
numpy and scipy arrays, the estimators of scikit-learn, xgboost and lightgbm, and their helpers.
Everything else raises UntrustedModel before anything is imported or called. joblib's format (arrays
as raw bytes between the opcodes, the whole possibly compressed) is read here, not by joblib, whose
own reader hands arrays of objects to a plain `pickle.load`.

What this does not promise: a crafted but well-formed model may still predict nonsense, use much
CPU, or crash a framework whose native code trusts its own arrays.
"""

import io
import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil

from headrace.server.compressed import open_bounded
from headrace.server.errors import ModelLoadError, ServingError, UntrustedModel
from headrace.server.pickle_names import find_allowed, is_builder

FREE_BYTES = 1 << 30  # what any file may unpack to, whatever its size
MAX_RATIO = 200  # unpacked bytes per byte of file beyond that


def load_pickle(path: Path, trust: bool = False) -> Any:
    """The object in a pickle or joblib file, compressed or not.

    trust: --trust-pickle, no allow list. Raises UntrustedModel naming the first global that is not
    on the list, ModelLoadError for a file that is damaged, too large or no pickle.
    """
    if trust:
        return _load_trusting(path)
    size = path.stat().st_size
    available = psutil.virtual_memory().available
    if size > available:
        raise ModelLoadError(f"{path}: {size} bytes, but only {available} bytes of memory are free")
    limit = min(available, FREE_BYTES + MAX_RATIO * size)
    try:
        with open_bounded(path, limit) as file:
            return SafeUnpickler(file, path).load()
    except ServingError:
        raise
    except MemoryError as err:
        raise ModelLoadError(f"{path}: needs more memory than there is") from err
    except Exception as err:  # a damaged or hostile file raises anything
        raise ModelLoadError(
            f"{path}: not a pickle that can be read: {type(err).__name__}: {err}"
        ) from err


def _load_trusting(path: Path) -> Any:
    try:
        import joblib
    except ImportError as err:
        raise ModelLoadError("pickles need joblib: pip install 'headrace[sklearn]'") from err
    try:
        return joblib.load(path)
    except Exception as err:
        raise ModelLoadError(f"{path}: {type(err).__name__}: {err}") from err


# What Python's unpickler does for each opcode; typeshed does not list these methods.
_STEPS: dict[int, Callable[[Any], None]] = dict(pickle._Unpickler.dispatch)


class ArrayWrapper:
    """Stands in for joblib's `NumpyArrayWrapper`: what it says of the raw array that follows."""

    subclass: Any = None
    shape: Any = None
    order: Any = None
    dtype: Any = None
    allow_mmap: Any = None
    numpy_array_alignment_bytes: Any = None


# Python's own unpickler, not C's: its steps can be overridden, as joblib does, and its memo is a
# dict, so that a file cannot make it allocate a table of 2**32 entries.
class SafeUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_STEPS)
    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self._source = file
        self._path = path
        self._globals: dict[int, Any] = {}  # kept, so that no id is used twice

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return ArrayWrapper
        found = find_allowed(module, name)
        if found is None:
            raise self._refused(f"{module}.{name}")
        self._globals[id(found)] = found
        return found

    def get_extension(self, code: int) -> Any:
        raise self._refused(f"extension {code} of copyreg")

    def persistent_load(self, pid: Any) -> Any:
        raise self._refused("a persistent id")

    def load_reduce(self) -> None:
        self._check_call(self.stack[-2])
        super().load_reduce()  # type: ignore[misc]  # see the class

    def load_newobj(self) -> None:
        self._check_class(self.stack[-2])
        super().load_newobj()  # type: ignore[misc]  # see the class

    def load_newobj_ex(self) -> None:
        self._check_class(self.stack[-3])
        super().load_newobj_ex()  # type: ignore[misc]  # see the class

    def _instantiate(self, klass: Any, args: Any) -> None:
        """Protocol 0 and 1: INST and OBJ call klass; with no arguments they only make it."""
        self._check_class(klass)
        if args:
            self._check_call(klass)
        self.append(klass.__new__(klass, *args))

    def load_build(self) -> None:
        state, target = self.stack[-1], self.stack[-2]
        if isinstance(target, ArrayWrapper):
            self.stack.pop()
            target.__dict__.update(state)
            self.stack[-1] = self._read_array(target)
            return
        if id(target) in self._globals:
            raise self._refused(f"a change of {_name(target)}")
        for part in state if isinstance(state, tuple) else (state,):
            for key in part if isinstance(part, dict) else ():
                if isinstance(key, str) and key.startswith("__") and key.endswith("__"):
                    raise self._refused(f"a {key} of its own")  # would be called as a method
        if isinstance(target, np.ndarray) and isinstance(state, tuple):
            for part in state:
                if isinstance(part, np.dtype):
                    check_dtype(part)
        super().load_build()  # type: ignore[misc]  # see the class
        if isinstance(target, np.dtype):
            check_dtype(target)

    def load_append(self) -> None:
        self._check_list(self.stack[-2])
        super().load_append()  # type: ignore[misc]  # see the class

    def load_appends(self) -> None:
        self._check_list(self.metastack[-1][-1])
        super().load_appends()  # type: ignore[misc]  # see the class

    def load_additems(self) -> None:
        self._check_list(self.metastack[-1][-1])
        super().load_additems()  # type: ignore[misc]  # see the class

    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, wrapper: ArrayWrapper) -> np.ndarray[Any, Any]:
        dtype = np.dtype(wrapper.dtype)
        check_dtype(dtype)
        shape = tuple(int(dim) for dim in wrapper.shape)
        if dtype.hasobject:  # joblib puts a pickle of its own here
            array = SafeUnpickler(self._source, self._path).load()
            if not isinstance(array, np.ndarray):
                raise ModelLoadError(f"{self._path}: an array is a {type(array).__name__}")
            return array
        if wrapper.numpy_array_alignment_bytes is not None:
            padding = self._source.read(1)
            self._source.read(padding[0])
        count = int(np.prod(shape, dtype=object)) if shape else 1
        raw = self._source.read(count * dtype.itemsize) if count else b""
        if len(raw) != count * dtype.itemsize:
            raise ModelLoadError(
                f"{self._path}: an array of shape {list(shape)} needs {count * dtype.itemsize} "
                f"bytes, the file has {len(raw)}"
            )
        flat = np.frombuffer(bytearray(raw), dtype=dtype, count=count)
        array = flat.reshape(shape[::-1]).T if wrapper.order == "F" else flat.reshape(shape)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def _check_call(self, function: Any) -> None:
        if not is_builder(function):
            raise self._refused(f"a call of {_name(function)}")

    def _check_class(self, klass: Any) -> None:
        if not isinstance(klass, type):
            raise self._refused(f"an instance of {_name(klass)}")

    def _check_list(self, target: Any) -> None:
        """Python calls the target's `append`, which an object may have as a plain attribute."""
        if not isinstance(target, list | set | deque):
            raise self._refused(f"items added to a {type(target).__name__}")

    def _refused(self, what: str) -> UntrustedModel:
        return UntrustedModel(
            f"{self._path}: this pickle wants {what}, which is not on the list of what models "
            f"need, and a pickle can run any code. If you trust where it comes from, start the "
            f"server with --trust-pickle (in a manifest: args: [--trust-pickle])"
        )


def check_dtype(dtype: np.dtype[Any], depth: int = 0) -> None:
    """Raises ValueError for a dtype whose pickled flags hide the pointers it holds: an array of
    it would read addresses from the file."""
    inner = [dtype.subdtype[0]] if dtype.subdtype else []
    for name in dtype.names or ():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]  # names has it
        if offset < 0 or offset + field.itemsize > dtype.itemsize:
            raise ValueError(f"field {name!r} of a dtype lies outside it")
        inner.append(field)
    if depth > 8:
        raise ValueError("a dtype is nested too deeply")
    for field in inner:
        check_dtype(field, depth + 1)
    if inner and any(field.hasobject for field in inner) != dtype.hasobject:
        raise ValueError("a dtype's flags contradict its fields")
    if not inner and dtype.hasobject != (dtype.kind == "O"):
        raise ValueError("a dtype's flags contradict its kind")


def _name(value: Any) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if module and name else f"a {type(value).__name__}"
