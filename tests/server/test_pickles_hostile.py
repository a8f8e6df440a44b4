"""Files that want more than a model needs: each is refused, and nothing in it runs.

Every file would, if run, create the canary; what plain `pickle.load` does with some of them is
checked too, so that the corpus is not harmless by mistake.
"""

import bz2
import codecs
import gzip
import io
import lzma
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from headrace.server import ModelLoadError, UntrustedModel, load_pickle
from tests.server.pickle_code import code, stack_global, text


class Calls:
    """Pickles to a call of function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = (function, args)

    def __reduce__(self) -> Any:
        return self._call


def touching(canary: Path) -> str:
    return f"touch {canary}"


def system(canary: Path) -> Calls:
    import os

    return Calls(os.system, touching(canary))


def written(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def inst(canary: Path) -> bytes:
    return b"(S'" + touching(canary).encode() + b"'\nios\nsystem\n."


def obj(canary: Path) -> bytes:
    return b"(cos\nsystem\n" + text(touching(canary)) + b"o."


def evaluated(name: str) -> Callable[[Path], bytes]:
    return lambda canary: code(stack_global("builtins", name) + text(written(canary)) + b"\x85R")


def dotted(canary: Path) -> bytes:
    """A dotted name walks from an allowed module to one that is not."""
    body = stack_global("sklearn.base", "warnings.sys.modules") + text("os") + b"\x85R"
    return code(body)


def newobj_popen(canary: Path) -> bytes:
    argument = b"(" + text("touch") + text(str(canary)) + b"l"
    return code(stack_global("subprocess", "Popen") + argument + b"\x85\x81")


def built_class(canary: Path) -> bytes:
    """BUILD with slots on a class would replace its methods for the whole process."""
    slots = b"}" + text("transform") + stack_global("numpy", "mean") + b"s"
    body = stack_global("sklearn.preprocessing._data", "StandardScaler") + b"N" + slots + b"\x86b"
    return code(body)


def python_2_names(canary: Path) -> bytes:
    return b"c__builtin__\neval\n(" + text(written(canary)) + b"tR."


def called_estimator(canary: Path) -> bytes:
    """A class that may be made by `__new__` is still not one to call."""
    return code(stack_global("sklearn.pipeline", "Pipeline") + b"]\x85R")


def hidden_pointers(canary: Path) -> bytes:
    """A dtype whose flags deny that its field is a pointer."""
    honest = pickle.dumps(np.dtype([("a", "O")]), 4)
    return honest.replace(b"K\x1b", b"K\x00")  # the flags of the whole, of its field stay


def extension(canary: Path) -> bytes:
    return code(b"\x82\x01)R")


def persistent(canary: Path) -> bytes:
    return b"P" + str(canary).encode() + b"\n."


def memory_by_bytes(canary: Path) -> bytes:
    return code(stack_global("builtins", "bytearray") + b"\x8a\x06" + b"\xff" * 5 + b"\x0f\x85R")


def joblib_of(value: Callable[[Path], Any], compress: Any = 0) -> Callable[[Path], bytes]:
    def dumped(canary: Path) -> bytes:
        file = io.BytesIO()
        joblib.dump(value(canary), file, compress=compress)
        return file.getvalue()

    return dumped


def pickled(value: Callable[[Path], Any], protocol: int = 4) -> Callable[[Path], bytes]:
    return lambda canary: pickle.dumps(value(canary), protocol)


def packed(pack: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    return lambda canary: pack(pickle.dumps(system(canary)))


def objects(canary: Path) -> Any:
    return np.array([1, system(canary)], dtype=object)


def in_estimator(canary: Path) -> Any:
    model = LogisticRegression()
    model.extra_ = [{"deep": (system(canary),)}]
    return make_pipeline(StandardScaler(), model)


def in_transformer(canary: Path) -> Any:
    import os

    return FunctionTransformer(os.system)


def partial(canary: Path) -> Any:
    import functools
    import os

    return FunctionTransformer(functools.partial(os.system, touching(canary)))


def of(path: str, *args: Any) -> Callable[[Path], Any]:
    """A call of the function at path; "{}" in args is the canary."""

    def made(canary: Path) -> Calls:
        module, _, name = path.rpartition(".")
        function = getattr(__import__(module, fromlist=[name]), name)
        filled = [a.format(canary) if isinstance(a, str) else a for a in args]
        return Calls(function, *filled)

    return made


def lying_wrapper(canary: Path) -> bytes:
    """An old joblib wrapper names another file to `np.load` with pickles allowed."""
    body = stack_global("joblib.numpy_pickle_compat", "NDArrayWrapper") + b")\x81"
    return code(body + b"}" + text("filename") + text(str(canary)) + b"sb")


def endless_array(canary: Path) -> bytes:
    """A joblib array that claims 2**40 bytes and holds none."""
    file = io.BytesIO()
    joblib.dump(np.zeros(1000, dtype=np.int8), file)
    return file.getvalue().replace(b"M\xe8\x03", b"\x8a\x06\x00\x00\x00\x00\x00\x01", 1)


CORPUS: dict[str, Callable[[Path], bytes]] = {
    **{f"os.system by REDUCE, protocol {p}": pickled(system, p) for p in range(6)},
    "os.system by INST": inst,
    "os.system by OBJ": obj,
    "eval": evaluated("eval"),
    "exec": evaluated("exec"),
    "eval under its Python 2 name": python_2_names,
    "getattr": pickled(of("builtins.getattr", "x", "upper")),
    "__import__": pickled(of("builtins.__import__", "os")),
    "open": pickled(of("builtins.open", "{}", "w")),
    "importlib.import_module": pickled(of("importlib.import_module", "os")),
    "runpy.run_path": pickled(of("runpy.run_path", "{}")),
    "pickle.loads in a pickle": pickled(of("pickle.loads", b"cos\nsystem\n.")),
    "subprocess.Popen by NEWOBJ": newobj_popen,
    "subprocess.check_call": pickled(of("subprocess.check_call", "touch {}")),
    "shutil.copy": pickled(of("shutil.copy", "/dev/null", "{}")),
    "pathlib's write_text": pickled(of("pathlib.Path", "{}")),
    "operator.attrgetter": pickled(of("operator.attrgetter", "system")),
    "operator.methodcaller": pickled(of("operator.methodcaller", "touch")),
    "functools.partial": pickled(partial),
    "numpy.load with pickles": pickled(of("numpy.load", "{}", None, True)),
    "numpy.memmap, which truncates files": pickled(of("numpy.memmap", "{}", "u1", "w+", 0, 4)),
    "numpy.fromfile": pickled(of("numpy.fromfile", "/dev/null")),
    "numpy.save": pickled(of("numpy.save", "{}", 1)),
    "numpy.testing's runstring": pickled(
        of("numpy.testing._private.utils.runstring", "open('{}', 'w')", {})
    ),
    "joblib.load": pickled(of("joblib.load", "{}")),
    "joblib.Memory": pickled(of("joblib.Memory", "{}")),
    "sklearn.utils: a lazy import": pickled(of("sklearn.utils.fixes.parse_version", "1")),
    "sklearn.datasets.fetch_openml": pickled(of("sklearn.datasets.load_files", "{}")),
    "sklearn.externals": pickled(of("sklearn.externals._packaging.version.parse", "1")),
    "scipy's distributions, which exec": pickled(
        lambda canary: __import__("scipy.stats", fromlist=["norm"]).norm(0, 1)
    ),
    "a dotted name": dotted,
    "a change of a class": built_class,
    "a call of an estimator's class": called_estimator,
    "a persistent id": persistent,
    "joblib": joblib_of(system),
    "joblib, zlib": joblib_of(system, ("zlib", 3)),
    "joblib, gzip": joblib_of(system, ("gzip", 3)),
    "joblib, bz2": joblib_of(system, ("bz2", 3)),
    "joblib, xz": joblib_of(system, ("xz", 3)),
    "joblib, lzma": joblib_of(system, ("lzma", 3)),
    "pickle in zlib": packed(zlib.compress),
    "pickle in gzip": packed(gzip.compress),
    "pickle in bz2": packed(bz2.compress),
    "pickle in xz": packed(lzma.compress),
    "an array of objects": pickled(objects),
    "an array of objects in joblib": joblib_of(objects),
    "an array of objects in compressed joblib": joblib_of(objects, 3),
    "an estimator's attribute": pickled(in_estimator),
    "an estimator's attribute in joblib": joblib_of(in_estimator, 3),
    "FunctionTransformer of os.system": pickled(in_transformer),
    "joblib's old wrapper": lying_wrapper,
}
DAMAGED: dict[str, Callable[[Path], bytes]] = {  # refused as no model's pickle writes them
    "bytearray of a huge length": memory_by_bytes,
    "a dtype that hides pointers": hidden_pointers,
    "copyreg's extension registry": extension,
    "codecs.encode in another codec": pickled(lambda canary: Calls(codecs.encode, b"x", "zip")),
}


@pytest.mark.parametrize("make", CORPUS.values(), ids=CORPUS)
def test_refuses_without_running(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pkl"
    path.write_bytes(make(canary))
    canary.unlink(missing_ok=True)
    with pytest.raises(UntrustedModel):
        load_pickle(path)
    assert not canary.exists()


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED)
def test_refuses_what_no_model_writes(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(make(path))
    with pytest.raises(ModelLoadError):
        load_pickle(path)


@pytest.mark.parametrize(
    "name", ["os.system by REDUCE, protocol 0", "os.system by INST", "os.system by OBJ", "exec"]
)
def test_corpus_is_dangerous(name: str, tmp_path: Path) -> None:
    """Python's own unpickler does create the canary."""
    canary = tmp_path / "canary"
    pickle.loads(CORPUS[name](canary))
    assert canary.exists()


def test_refusal_names_the_global_the_flag_and_the_manifest_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(system(tmp_path / "canary")))
    with pytest.raises(UntrustedModel) as refused:
        load_pickle(path)
    assert str(refused.value) == (
        f"{path}: this pickle wants posix.system, which is not on the list of what models need, "
        "and a pickle can run any code. If you trust where it comes from, start the server with "
        "--trust-pickle (in a manifest: args: [--trust-pickle])"
    )


def test_trust_runs_it(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(system(canary)))
    assert load_pickle(path, trust=True) == 0
    assert canary.exists()


def test_array_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(endless_array(path))
    with pytest.raises(ModelLoadError):
        load_pickle(path)


def test_bomb_is_refused_by_what_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB of zeros in 64 kB, against a limit lowered to 1 MiB plus 200 bytes per byte."""
    monkeypatch.setattr("headrace.server.pickles.FREE_BYTES", 1 << 20)
    path = tmp_path / "model.joblib"
    joblib.dump(np.zeros(64 << 20, dtype=np.int8), path, compress=("gzip", 9))
    limit = (1 << 20) + 200 * path.stat().st_size
    with pytest.raises(ModelLoadError) as refused:
        load_pickle(path)
    assert str(refused.value) == (
        f"{path}: unpacks to more than {limit} bytes, which is out of proportion to its size or "
        "does not fit memory"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\x80\x04.", b"hello", b"\x1f\x8b\x08", b"x\x9c\x00", b"BZh9", b"]" * 9],
    ids=["nothing", "a cut opcode", "an empty stack", "text", "cut gzip", "zlib", "bz2", "no stop"],
)
def test_damage_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as refused:
        load_pickle(path)
    assert str(refused.value).startswith(f"{path}: not a pickle that can be read: ")
