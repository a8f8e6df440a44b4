"""Pickles that name only what is on the list, arranged so as to reach what is not.

Each is one step of Python's unpickler that calls something without asking `find_class`. What they
would run is watched by an audit hook, which also hears any unpickler but ours.
"""

import copyreg
import io
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from headrace.server import ModelLoadError, UntrustedModel, load_pickle
from tests.server.pickle_code import built, called, code, made, stack_global, text

SCALER = made("sklearn.preprocessing._data", "StandardScaler")
OBJECT = made("sklearn.cluster._birch", "_CFNode")
MEAN = stack_global("numpy", "mean")
BOOSTER = stack_global("lightgbm.basic", "Booster")
RAN: list[Any] = []
WATCHED = {"os.system", "subprocess.Popen", "pickle.find_class", "shutil.copyfile"}
HEARD: list[str] | None = None


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    if HEARD is not None and event in WATCHED:
        HEARD.append(f"{event} {arguments}")


sys.addaudithook(hear)  # for good: hooks cannot be removed


@pytest.fixture
def heard() -> Iterator[list[str]]:
    global HEARD
    HEARD = []
    yield HEARD
    HEARD = None


def record(value: Any) -> None:
    RAN.append(value)


class Records:
    def __reduce__(self) -> Any:
        return record, ("ran",)


def in_list_in_dict() -> bytes:
    return pickle.dumps({"model": [1, [Records()]]})


REFUSED = {
    "a function of one's own": (pickle.dumps(Records()), f"{__name__}.record"),
    "one in a list in a dict": (in_list_in_dict(), f"{__name__}.record"),
    "an instance's own __setstate__": (
        code(built(SCALER, __setstate__=MEAN) + b"Nb"),
        "a __setstate__ of its own",
    ),
    "an instance's own __new__": (code(built(SCALER, __new__=MEAN)), "a __new__ of its own"),
    "another class by slots": (
        code(made("builtins", "object") + b"N}" + text("__class__") + BOOSTER + b"s\x86b"),
        "a __class__ of its own",
    ),
    "an instance's own extend, by APPENDS": (
        code(built(OBJECT, extend=MEAN) + b"(K\x01e"),
        "items added to a _CFNode",
    ),
    "an instance's own append, by APPEND": (
        code(built(OBJECT, append=MEAN) + b"K\x01a"),
        "items added to a _CFNode",
    ),
    "an instance's own add, by ADDITEMS": (
        code(built(OBJECT, add=MEAN) + b"(K\x01\x90"),
        "items added to a _CFNode",
    ),
    "a change of a function": (
        code(built(MEAN, __wrapped__=BOOSTER)),
        "a change of numpy.mean",
    ),
    "a change of a ufunc": (
        code(stack_global("numpy", "add") + b"N}" + text("x") + b"K\x01s\x86b"),
        "a change of numpy.add",
    ),
    "a call of a function that is only referred to": (
        code(called("numpy", "mean", b"]")),
        "a call of numpy.mean",
    ),
    "a call of what was made": (code(SCALER + b")R"), "a call of a StandardScaler"),
    "an instance of a function": (code(MEAN + b")\x81"), "an instance of numpy.mean"),
    "a module of an allowed module": (
        code(stack_global("sklearn.base", "warnings")),
        "sklearn.base.warnings",
    ),
    "a function of an allowed module": (
        code(stack_global("sklearn.base", "clone")),
        "sklearn.base.clone",
    ),
    "numpy.vectorize": (code(stack_global("numpy", "vectorize")), "numpy.vectorize"),
    "numpy.frompyfunc": (code(stack_global("numpy", "frompyfunc")), "numpy.frompyfunc"),
    "numpy's files of arrays": (
        code(stack_global("numpy.lib.npyio", "NpzFile")),
        "numpy.lib.npyio.NpzFile",
    ),
    "a class of scikit-learn's tests": (
        code(stack_global("sklearn.tree.tests.test_tree", "DecisionTreeClassifier")),
        "sklearn.tree.tests.test_tree.DecisionTreeClassifier",
    ),
    "an unpickler": (code(stack_global("pickle", "Unpickler")), "pickle.Unpickler"),
    "codecs, whose lookup imports": (code(stack_global("codecs", "lookup")), "codecs.lookup"),
    "copyreg's registry": (code(stack_global("copyreg", "pickle")), "copyreg.pickle"),
    "a finder of modules": (code(stack_global("pydoc", "locate")), "pydoc.locate"),
    "a method's caller": (code(stack_global("_operator", "attrgetter")), "_operator.attrgetter"),
    "joblib's memory of results": (
        code(stack_global("joblib.memory", "Memory")),
        "joblib.memory.Memory",
    ),
    "a bound method": (
        code(called("builtins", "getattr", SCALER, text("fit"))),
        "builtins.getattr",
    ),
    "a class of torch": (code(stack_global("torch", "load")), "torch.load"),
    "a memory map, by joblib's name": (
        code(stack_global("joblib.backports", "make_memmap")),
        "joblib.backports.make_memmap",
    ),
}


@pytest.mark.parametrize(("content", "wanted"), REFUSED.values(), ids=REFUSED)
def test_refusal_names_it(content: bytes, wanted: str, tmp_path: Path, heard: list[str]) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(UntrustedModel) as refused:
        load_pickle(path)
    assert str(refused.value) == (
        f"{path}: this pickle wants {wanted}, which is not on the list of what models need, and a "
        "pickle can run any code. If you trust where it comes from, start the server with "
        "--trust-pickle (in a manifest: args: [--trust-pickle])"
    )
    assert (RAN, heard) == ([], [])


def test_extension_already_in_copyregs_cache_is_refused(
    tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's unpickler takes it from there without asking for the class."""
    monkeypatch.setitem(copyreg._extension_cache, 7, os.system)  # type: ignore[attr-defined]
    canary = tmp_path / "canary"
    path = tmp_path / "model.pkl"
    path.write_bytes(code(b"\x82\x07" + text(f"touch {canary}") + b"\x85R"))
    with pytest.raises(UntrustedModel, match="this pickle wants extension 7 of copyreg, which"):
        load_pickle(path)
    assert not canary.exists()
    assert heard == []


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Records()], dtype=object), allow_pickle=True)
    return file.getvalue()


def array_of(shape: bytes) -> bytes:
    """joblib's file of one array of 5 bytes, its shape's first number replaced."""
    file = io.BytesIO()
    joblib.dump(np.zeros(5, dtype=np.int8), file)
    content = file.getvalue()
    frame = content.find(b"\x95")  # which tells a length that would no longer hold
    content = content[:frame] + content[frame + 9 :] if frame >= 0 else content
    return content.replace(b"shape\x94K\x05\x85", b"shape\x94" + shape + b"\x85", 1)


POINTER = called("numpy", "dtype", text("O8"), b"\x89", b"\x88")
DAMAGED = {
    "numpy's maker of generators, given a function": (
        code(called("numpy.random._pickle", "__generator_ctor", text("x"), MEAN)),
        "ValueError: x is not a known BitGenerator module.",
    ),
    "numpy's maker of generators, given a class": (
        code(called("numpy.random._pickle", "__bit_generator_ctor", BOOSTER)),
        "ValueError: a random generator made by Booster",
    ),
    "copyreg's maker, which would call a class": (
        code(called("copyreg", "_reconstructor", BOOSTER, BOOSTER, b"}")),
        "ValueError: an instance made by <class 'lightgbm.basic.Booster'>",
    ),
    "scikit-learn's maker of trees, given an instance": (
        code(called("sklearn.neighbors._kd_tree", "newObj", SCALER)),
        "ValueError: an instance of a StandardScaler",
    ),
    "an array of objects over bytes": (
        code(
            called(
                "numpy._core.numeric",
                "_frombuffer",
                text("x" * 8),
                POINTER,
                b"K\x01\x85",
                text("C"),
            )
        ),
        "",
    ),
    "a numpy file with a pickle in it": (npy(), ""),
    "a joblib array of a negative size": (array_of(b"J\xfe\xff\xff\xff"), ""),
    "a joblib array of more than its file": (array_of(b"M\xff\xff"), ""),
    "a joblib array of 2**60 bytes": (array_of(b"\x8a\x08" + b"\x00" * 7 + b"\x10"), ""),
}


@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_is_not_read(content: bytes, reason: str, tmp_path: Path, heard: list[str]) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as refused:
        load_pickle(path)
    if reason:
        assert str(refused.value) == f"{path}: not a pickle that can be read: {reason}"
    assert (RAN, heard) == ([], [])


def test_watching_hears_a_plain_unpickler(heard: list[str]) -> None:
    pickle.loads(in_list_in_dict())
    assert RAN == ["ran"]
    assert heard == [f"pickle.find_class ('{__name__}', 'record')"]
    RAN.clear()


def test_trust_loads_a_harmless_file_that_the_list_refuses(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump({"kept": [io.StringIO, 3]}, path)
    with pytest.raises(UntrustedModel, match=r"this pickle wants _io\.StringIO, which is not"):
        load_pickle(path)
    assert load_pickle(path, trust=True) == {"kept": [io.StringIO, 3]}
