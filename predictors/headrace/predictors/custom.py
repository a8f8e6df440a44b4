"""A user's own code: a Python file with a `headrace.server.Model`, or a class that predicts.

    model.py   class Iris(Model): …            one subclass of Model, or
               class Iris: inputs, outputs, predict(inputs)     one plain predictor, or
               def load(path, options): …      a function that returns either

The file is the one given, else `model.py` of the folder, else its only .py file. A class is made
with the model's name, as KServe does, and the folder too where it takes a second argument; a Model
also finds the folder as `self.model_dir`, and its `load` is called. From a download it needs
--trust-code.
"""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.server import (
    GpuUse,
    LoadOptions,
    Model,
    ModelLoadError,
    Predictor,
    PredictorFormat,
    UntrustedModel,
)

LOAD = "load"


def load(path: Path, options: LoadOptions) -> Predictor | Model:
    """Raises UntrustedModel for downloaded code, ModelLoadError for a file that holds no model."""
    file = code_file(path)
    if options.is_downloaded and not options.trust_code:
        raise UntrustedModel(
            f"{file}: code that came with a downloaded model runs only with --trust-code "
            "(in a manifest: args: [--trust-code])"
        )
    module = _run(file, options.model_name)
    folder = file.parent
    if callable(getattr(module, LOAD, None)):
        loaded = module.load(folder, options)
    else:
        loaded = _made(_class_of(module, file), options.model_name, folder)
    if isinstance(loaded, Model):
        if not hasattr(loaded, "model_dir"):
            vars(loaded)["model_dir"] = str(folder)
        loaded.load()
    elif not isinstance(loaded, Predictor):
        raise ModelLoadError(
            f"{file}: a {type(loaded).__name__} is neither a headrace.server.Model "
            "nor has it inputs, outputs and predict"
        )
    return loaded


def code_file(path: Path) -> Path:
    """Raises ModelLoadError for a folder with no code, or with several files of it."""
    if path.is_file():
        return path
    if (path / "model.py").is_file():
        return path / "model.py"
    files = sorted(path.glob("*.py"))
    if len(files) != 1:
        found = [file.name for file in files] or "none"
        raise ModelLoadError(f"{path}: expected model.py or one Python file, found {found}")
    return files[0]


def _run(file: Path, model_name: str) -> ModuleType:
    """file as a module of its own name, so that models do not share globals; it may import its
    neighbours."""
    spec = importlib.util.spec_from_file_location(f"headrace_model_{model_name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec.loader.exec_module(module)
    return module


def _class_of(module: ModuleType, file: Path) -> Any:
    own = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
    ]
    models = [each for each in own if issubclass(each, Model)]
    found = models or [each for each in own if callable(getattr(each, "predict", None))]
    if len(found) != 1:
        names = [each.__name__ for each in found] or "none"
        raise ModelLoadError(
            f"{file}: expected one subclass of headrace.server.Model (or one class with predict, "
            f"or a function {LOAD}(path, options)), found {names}"
        )
    return found[0]


def _made(made_by: Any, model_name: str, folder: Path) -> Any:
    """KServe's models take their name, many the folder too; plain predictors take neither."""
    parameters = [
        each
        for each in inspect.signature(made_by).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.name != "return_response_headers"
    ]
    if not issubclass(made_by, Model):
        return made_by(*[str(folder)][: len(parameters)])
    has_own_constructor = made_by.__init__ is not Model.__init__
    wanted = [model_name, str(folder)] if has_own_constructor else [model_name]
    return made_by(*wanted[: len(parameters)])


FORMAT = PredictorFormat(
    "custom",
    load,
    (".py",),
    claims=lambda path: (path / "model.py").is_file(),
    wants_folder=True,
    gpu=GpuUse.ASKED,
)
