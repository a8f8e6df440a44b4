"""What lies in a folder: which format a model's files have, and which of them is the model.

The rules (which extensions, exactly one file, the messages) are data-plane contract §6.4's.
"""

from pathlib import Path

from headrace.server.errors import ModelLoadError, ModelMissingError
from headrace.server.predictor import PredictorFormat, find_format, known_formats
from headrace.server.storage import unfinished

MLSERVER_SETTINGS = "model-settings.json"  # lies beside models whose own extension is .json


def found_format(path: Path, framework: str | None = None) -> tuple[PredictorFormat, Path]:
    """The format of what lies at path, and the file or folder to give it. framework None: the
    files say. Raises ModelLoadError."""
    if not path.exists():
        raise ModelMissingError(path)
    if path.is_dir() and unfinished(path):
        raise ModelLoadError(
            f"{path}: the download into this folder was broken off; "
            "run headrace pull again, it goes on where it stopped"
        )
    model_format = find_format(framework) if framework else guess(path)
    return model_format, path if model_format.wants_folder else model_file(path, model_format)


def find_name(path: Path, framework: str | None = None) -> str:
    """The name of that format."""
    return framework or guess(path).name


def model_file(path: Path, model_format: PredictorFormat) -> Path:
    """The one model file: path itself, or the only fitting file directly in folder path.

    Raises ModelMissingError, or ModelLoadError with KServe's sentence for several.
    """
    if path.is_file():
        return path
    found = model_files(path, model_format)
    if not found:
        raise ModelMissingError(path)
    if len(found) > 1:
        raise ModelLoadError(
            "More than one model file is detected, "
            f"Only one is allowed within model_dir: {[str(each) for each in found]}"
        )
    return found[0]


def model_files(folder: Path, model_format: PredictorFormat) -> list[Path]:
    """Files directly in folder with an extension of model_format, by name."""
    return sorted(
        each
        for each in folder.iterdir()
        if each.is_file()
        and each.suffix.lower() in model_format.extensions
        and each.name != MLSERVER_SETTINGS
    )


def guess(path: Path) -> PredictorFormat:
    """The only installed format that claims path, or a file directly in it.

    Raises ModelLoadError for none or several.
    """
    if not path.exists():
        raise ModelMissingError(path)
    formats: list[PredictorFormat] = [point.load() for point in known_formats().values()]
    claimed = [each for each in formats if _claims(each, path)]
    folders = [each for each in claimed if each.wants_folder]
    if folders:  # an MLmodel or a model.py speaks for all that lies beside it
        claimed = folders
    if len(claimed) == 1:
        return claimed[0]
    if not claimed:
        known = ", ".join(sorted(known_extensions()))
        raise ModelMissingError(path, f"known are {known} and folders with an MLmodel")
    names = ", ".join(sorted(each.name for each in claimed))
    raise ModelLoadError(
        f"{path}: could be {names}; say which with --framework, or as name=format:path"
    )


def _claims(model_format: PredictorFormat, path: Path) -> bool:
    claims = model_format.claims
    if claims is None:
        return False
    if model_format.wants_folder:
        return path.suffix.lower() in model_format.extensions if path.is_file() else claims(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return any(claims(each) for each in files if each.is_file())


def known_extensions() -> frozenset[str]:
    """Extensions of model files of every installed format, with the dot."""
    formats: list[PredictorFormat] = [point.load() for point in known_formats().values()]
    return frozenset(suffix for each in formats for suffix in each.extensions)


def file_bytes(path: Path) -> int:
    """Of the model's file, or of all files in its folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(each.stat().st_size for each in files if each.is_file())
