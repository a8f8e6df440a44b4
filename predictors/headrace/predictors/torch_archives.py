"""What a PyTorch archive may hold before torch opens it.

torch itself trusts both kinds: an exported program (.pt2) may carry pickles, a compiled library,
shape expressions that sympy evaluates as Python, and operators named by any path from `torch`
(`torch.os.system` is one); TorchScript can write and map files. These checks admit the archives
that `torch.export.save` and `torch.jit.save` write for plain models; torch then reads the
same bytes.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.server import UntrustedModel

MAX_JSON_BYTES = 256 << 20
_ENTRY = re.compile(  # below the archive's own folder
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|\.format/.*"
    r"|models/[\w-]+\.json|data/(weights|constants)/[\w-]+_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/[\w-]+\.pt"
)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.(?!from_file\b|save\b)\w+\.\w+")
_PYTHON = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|max|min|not|ite|sum|sqrt)|torch\._sym_sqrt"
    r"|torch\.ops\.higher_order\.(cond|while_loop|wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.<>=!&|~']*")
_SYMPY_WORDS = """
    Symbol Integer Float Rational Add Mul Pow Max Min Abs Mod PythonMod FloorDiv CleanDiv
    CeilDiv CeilToInt FloorToInt IntTrueDiv TruncToInt Where Eq Ne Lt Le Gt Ge And Or Not
    ceiling floor positive integer negative nonnegative finite real True False oo int_oo
"""
_SYMPY = frozenset(_SYMPY_WORDS.split())
_SYMBOL = re.compile(r"z?[suf]\d+|zuf\d+")
_NAME = re.compile(r"[\w.]*")
_NAMED = frozenset({"name", "as_name", "class_fqn", "graph_name"})
_TREE_TYPES = frozenset(
    {"builtins.tuple", "builtins.list", "builtins.dict", "builtins.NoneType"}
) | {
    "collections.OrderedDict",
    "collections.deque",
}
# Operators by which TorchScript leaves its sandbox, as its code text spells them.
_SCRIPT_ESCAPES = re.compile(
    r"\b(?:torch|aten|ops\.aten)\.(?:save|load|from_file|_save\w*)\s*\(|\bops\.(?:rpc|profiler)\b"
    r"|\b(?:aten|prim|profiler|rpc)::"
)


def check_exported(torch: Any, path: Path) -> None:
    """Raises UntrustedModel if an exported program could do more than compute."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in _names(archive, path):
                if not _ENTRY.fullmatch(name.partition("/")[2]):
                    raise _refused(path, f"it holds {name}")
            for name in archive.namelist():
                if name.endswith(".json"):
                    _check_json(path, name, _read_json(archive, name, path))
                elif name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except UntrustedModel:
        raise
    except Exception as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise _refused(path, f"it cannot be checked: {reason}") from err


def check_script(path: Path) -> None:
    """Raises UntrustedModel if TorchScript's code names an operator that touches files."""
    with zipfile.ZipFile(path) as archive:
        for name in _names(archive, path):
            if "/code/" in name and name.endswith(".py"):
                found = _SCRIPT_ESCAPES.search(archive.read(name).decode("utf-8", "replace"))
                if found:
                    raise _refused(path, f"{name} names {found[0]}")


def _names(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """Entry names, each once: of two, one reader may check the first and another read the last."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise _refused(path, "it holds two entries of one name")
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise _refused(path, f"it holds {name!r}")
    return names


def _read_json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    if archive.getinfo(name).file_size > MAX_JSON_BYTES:
        raise _refused(path, f"{name} is larger than {MAX_JSON_BYTES} bytes")
    return json.loads(archive.read(name))


def _check_json(path: Path, entry: str, content: Any) -> None:
    for key, value in _fields(content):
        if key in ("target", "as_operator"):
            # a placeholder's or an attribute's target is a plain name
            is_known = isinstance(value, str) and (
                _OPERATOR.fullmatch(value) or _PYTHON.fullmatch(value)
            )
            if not is_known:
                raise _refused(path, f"{entry} names the operator {value!r}")
        elif key == "expr_str" and not _is_arithmetic(value):
            raise _refused(path, f"{entry} holds the expression {value!r}")
        elif key in ("in_spec", "out_spec") and isinstance(value, str) and value:
            _check_tree(path, entry, value)
        elif key in _NAMED and isinstance(value, str) and not _NAME.fullmatch(value):
            raise _refused(path, f"{entry} holds the name {value!r}")
        elif key == "use_pickle" and value:
            raise _refused(path, f"{entry} says that a tensor is a pickle")
        elif key in ("as_custom_obj", "custom_obj_name") and value:
            raise _refused(path, f"{entry} holds a custom object")


def _fields(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value below content, except what torch only prints (metadata)."""
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if key != "metadata":
                    yield key, value
                    pending.append(value)
        elif isinstance(item, list):
            pending.extend(item)


def _is_arithmetic(text: Any) -> bool:
    """True if sympy, which evaluates text as Python, finds only numbers, symbols and arithmetic."""
    if not isinstance(text, str) or not _EXPRESSION.fullmatch(text) or "__" in text:
        return False
    if re.search(r"\.\s*[A-Za-z_]|[A-Za-z_)]\s*\.", text):  # an attribute
        return False
    return all(word in _SYMPY or _SYMBOL.fullmatch(word) for word in _WORD.findall(text))


def _check_tree(path: Path, entry: str, text: str) -> None:
    for key, value in _fields(json.loads(text)):
        if key == "type" and value is not None and value not in _TREE_TYPES:
            raise _refused(path, f"{entry} arranges values in {value!r}")


def _refused(path: Path, what: str) -> UntrustedModel:
    return UntrustedModel(
        f"{path}: {what}, which a plain model does not need and which could run code. If you trust "
        f"where it comes from, start the server with --trust-code "
        f"(in a manifest: args: [--trust-code])"
    )
