"""Loads pickle and joblib files without running what is in them.

A pickle is a program. This unpickler lets it call and build only what `pickle_names.py` lists:
numpy and scipy arrays, the estimators of scikit-learn, xgboost and lightgbm, and their helpers.
Everything else raises UntrustedModel before anything is imported or called. joblib's format (arrays
as raw bytes between the opcodes, the whole possibly compressed) is read here, not by joblib, whose
own reader hands arrays of objects to a plain `pickle.load`.

What this does not promise: a crafted but well-formed model may still predict nonsense, use much
CPU, or crash a framework whose native code trusts its own arrays.
"""

import copy
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
MAX_DTYPE_DEPTH = 8
MEMORY_FLAGS = 0x1B  # numpy's NPY_FROM_FIELDS: holds pointers, is pickled as a list, …
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
    memo: dict[int, Any]
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
        if isinstance(target, np.dtype):
            self.stack.pop()
            self._replace_dtype(target, state)
            return
        if isinstance(target, np.ndarray):
            self._check_array_state(target, state)
        super().load_build()  # type: ignore[misc]  # see the class
        if type(target).__module__.startswith("scipy.sparse.") and hasattr(target, "check_format"):
            target.check_format(full_check=True)  # scipy writes where its indices say

    def _replace_dtype(self, target: np.dtype[Any], state: Any) -> None:
        """Fills a copy: arrays made from target before would show their bytes as something else."""
        filled = copy.copy(target)  # np.dtype(target, copy=True) may be target itself
        filled.__setstate__(state)  # type: ignore[attr-defined]  # typeshed
        check_dtype(filled)
        self.stack[-1] = filled
        for key, value in self.memo.items():
            if value is target:
                self.memo[key] = filled

    def _check_array_state(self, target: np.ndarray[Any, Any], state: Any) -> None:
        if target.size:  # its memory, which another array may share, would be freed
            raise self._refused("a second content for an array")
        for part in state:
            if isinstance(part, np.dtype):
                check_dtype(part)

    def load_append(self) -> None:
        self._check_container(self.stack[-2], list | deque)
        super().load_append()  # type: ignore[misc]  # see the class

    def load_appends(self) -> None:
        self._check_container(self.metastack[-1][-1], list | deque)
        super().load_appends()  # type: ignore[misc]  # see the class

    def load_additems(self) -> None:
        self._check_container(self.metastack[-1][-1], set)
        super().load_additems()  # type: ignore[misc]  # see the class

    def load_setitem(self) -> None:
        self._check_container(self.stack[-3], dict)
        super().load_setitem()  # type: ignore[misc]  # see the class

    def load_setitems(self) -> None:
        self._check_container(self.metastack[-1][-1], dict)
        super().load_setitems()  # type: ignore[misc]  # see the class

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
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
        if issubclass(
            klass, np.ndarray
        ):  # numpy takes any bytes for its pointers; see _reconstruct
            raise self._refused("an array over memory of its own")

    def _check_container(self, target: Any, kind: Any) -> None:
        """Python calls the target's `append`, which an object may have as a plain attribute."""
        if not isinstance(target, kind):
            raise self._refused(f"items added to a {type(target).__name__}")

    def _refused(self, what: str) -> UntrustedModel:
        return UntrustedModel(
            f"{self._path}: this pickle wants {what}, which is not on the list of what models "
            f"need, and a pickle can run any code. If you trust where it comes from, start the "
            f"server with --trust-pickle (in a manifest: args: [--trust-pickle])"
        )


def check_dtype(dtype: np.dtype[Any], depth: int = 0) -> None:
    """Raises ValueError for a dtype that numpy itself would not make from its parts, e.g. one
    whose flags hide the pointers it holds: an array of it would read addresses from the file."""
    if depth > MAX_DTYPE_DEPTH:
        raise ValueError("a dtype is nested too deeply")
    if dtype.subdtype:
        check_dtype(dtype.subdtype[0], depth + 1)
        honest = np.dtype(dtype.subdtype)
    elif dtype.names is not None and dtype.fields is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        for field in fields:
            check_dtype(field[0], depth + 1)
        if len(dtype.fields) != len(fields):
            raise ValueError("a dtype has more fields than names")
        honest = np.dtype(
            {
                "names": list(dtype.names),
                "formats": [field[0] for field in fields],
                "offsets": [field[1] for field in fields],
                "itemsize": dtype.itemsize,
            }
        )
    elif dtype.kind in "SUV":
        honest = np.dtype((dtype.type, dtype.itemsize // (4 if dtype.kind == "U" else 1)))
    elif dtype.kind in "biufcmMO":
        honest = np.dtype(dtype.type)
    else:
        raise ValueError(f"an array of {dtype.kind!r}")
    if (honest.itemsize, honest.flags & MEMORY_FLAGS) != (
        dtype.itemsize,
        dtype.flags & MEMORY_FLAGS,
    ):
        raise ValueError("a dtype's size or flags contradict its parts")


def _name(value: Any) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if module and name else f"a {type(value).__name__}"
