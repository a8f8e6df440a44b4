"""Which format a path has, which file is loaded, and what is said when neither is clear."""

import asyncio
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.server import LoadOptions, ModelLoadError, UntrustedModel
from headrace.server.batch_settings import BatchWishes
from headrace.server.errors import ModelMissingError
from headrace.server.loading import (
    ModelSource,
    NamedPath,
    load_instances,
    load_servable,
    parse_source,
    placed,
)
from headrace.server.model_files import find_name, found_format
from headrace.server.model_servable import ModelServable
from headrace.server.placement import Device, Group, Kind
from headrace.server.servable import TensorServable, instance_group
from headrace.server.start_up import threads_per_instance
from headrace.server.storage.download import PARTIAL, SOURCE_MARK
from tests.serving import settings

KNOWN = "known are .bst, .joblib, .json, .onnx, .pickle, .pkl, .pt, .pt2, .pth, .py, .ubj"
PLAIN = "class Twice:\n    inputs = outputs = ()\n    def predict(self, inputs): return inputs\n"


def folder(path: Path, **files: str | bytes) -> Path:
    """path with files in it; `__` of a name is its dot."""
    for name, content in files.items():
        raw = content.encode() if isinstance(content, str) else content
        (path / name.replace("__", ".")).write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("files", "framework"),
    [
        pytest.param({"model__onnx": ""}, "onnx", id="a .onnx is ONNX"),
        pytest.param({"model__joblib": ""}, "sklearn", id="a .joblib is scikit-learn"),
        pytest.param({"model__pkl": ""}, "sklearn", id="a .pkl is scikit-learn"),
        pytest.param({"model__pickle": ""}, "sklearn", id="a .pickle is scikit-learn"),
        pytest.param({"model__pt": ""}, "pytorch", id="a .pt is PyTorch"),
        pytest.param({"model__pt2": ""}, "pytorch", id="a .pt2 is PyTorch"),
        pytest.param({"model__pth": ""}, "pytorch", id="a .pth is PyTorch"),
        pytest.param({"model__ubj": ""}, "xgboost", id="a .ubj is XGBoost"),
        pytest.param({"MODEL__ONNX": ""}, "onnx", id="the case of an extension is free"),
        pytest.param({"model__bst": "tree\nversion=v4"}, "lightgbm", id="a .bst of trees"),
        pytest.param({"model__bst": b"{L\x00"}, "xgboost", id="any other .bst is XGBoost"),
        pytest.param({"model__json": '{"learner": {}}'}, "xgboost", id="a .json with a learner"),
        pytest.param(
            {"model__onnx": "", "config__json": "{}", "README__md": ""},
            "onnx",
            id="a .json without a learner claims nothing",
        ),
        pytest.param(
            {"model__joblib": "", "model-settings__json": '{"name": "m"}'},
            "sklearn",
            id="model-settings.json claims nothing",
        ),
        pytest.param({"MLmodel": "", "model__pkl": ""}, "mlflow", id="MLmodel speaks for all"),
        pytest.param({"model__py": "", "w__pt": ""}, "custom", id="model.py speaks for all"),
    ],
)
def test_guessing(files: dict[str, str | bytes], framework: str, tmp_path: Path) -> None:
    assert find_name(folder(tmp_path, **files)) == framework


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        pytest.param(
            {"model__onnx": "", "model__joblib": ""},
            ModelLoadError,
            "{}: could be onnx, sklearn; say which with --framework, or as name=format:path",
            id="two formats",
        ),
        pytest.param(
            {"MLmodel": "", "model__py": ""},
            ModelLoadError,
            "{}: could be custom, mlflow; say which with --framework, or as name=format:path",
            id="two formats of folders",
        ),
        pytest.param(
            {"README__md": ""},
            ModelMissingError,
            f"Missing model under path {{}}; {KNOWN} and folders with an MLmodel",
            id="no format",
        ),
        pytest.param(
            {"model__json": '{"a": 1}'},
            ModelMissingError,
            f"Missing model under path {{}}; {KNOWN} and folders with an MLmodel",
            id="a .json of something else",
        ),
        pytest.param(
            {"model__json": "{"},
            ModelMissingError,
            f"Missing model under path {{}}; {KNOWN} and folders with an MLmodel",
            id="a .json that is none",
        ),
    ],
)
def test_guessing_refuses(
    files: dict[str, str | bytes], kind: type[ModelLoadError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as refused:
        found_format(folder(tmp_path, **files))
    assert str(refused.value) == said.format(tmp_path)


@pytest.mark.parametrize("framework", [None, "sklearn"])
def test_a_path_that_is_not_there(framework: str | None, tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError) as refused:
        found_format(tmp_path / "m", framework)
    assert str(refused.value) == f"Missing model under path {tmp_path / 'm'}"


def test_a_framework_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as refused:
        found_format(tmp_path, "paddle")
    assert str(refused.value) == (
        "--framework paddle: no such predictor; installed: "
        "custom, echo, lightgbm, mlflow, onnx, pytorch, sklearn, xgboost"
    )


def test_the_one_file_of_a_named_framework(tmp_path: Path) -> None:
    folder(tmp_path, model__joblib="", other__onnx="")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "model.joblib").touch()
    for framework, name in [("sklearn", "model.joblib"), ("onnx", "other.onnx")]:
        found, path = found_format(tmp_path, framework)
        assert (found.name, path) == (framework, tmp_path / name)


def test_a_file_named_itself_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    assert found_format(tmp_path / "weights", "onnx")[1] == tmp_path / "weights"


def test_several_files_are_kserves_refusal(tmp_path: Path) -> None:
    folder(tmp_path, a__joblib="", b__pkl="")
    with pytest.raises(ModelLoadError) as refused:
        found_format(tmp_path)
    files = [str(tmp_path / "a.joblib"), str(tmp_path / "b.pkl")]
    assert str(refused.value) == (
        f"More than one model file is detected, Only one is allowed within model_dir: {files}"
    )


def test_no_file_is_kserves_refusal(tmp_path: Path) -> None:
    folder(tmp_path, model__onnx="")
    with pytest.raises(ModelMissingError) as refused:
        found_format(tmp_path, "sklearn")
    assert str(refused.value) == f"Missing model under path {tmp_path}"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("iris=/m/iris", NamedPath("iris", None, Path("/m/iris"))),
        ("iris=sklearn:/m/iris", NamedPath("iris", "sklearn", Path("/m/iris"))),
        ("iris=./a.onnx", NamedPath("iris", None, Path("a.onnx"))),
        ("iris=onnx:a=b.onnx", NamedPath("iris", "onnx", Path("a=b.onnx"))),
        ("iris=/m/a:b", NamedPath("iris", None, Path("/m/a:b"))),
        ("iris=onnx:a:b", NamedPath("iris", "onnx", Path("a:b"))),
        ("iris=onnx:", NamedPath("iris", None, Path("onnx:"))),
    ],
)
def test_parse_source(text: str, read: NamedPath) -> None:
    assert parse_source(text) == read


@pytest.mark.parametrize("text", ["", "iris", "iris=", "=/m/iris", "/m/iris"])
def test_parse_source_says_what_to_type(text: str) -> None:
    with pytest.raises(ModelLoadError) as refused:
        parse_source(text)
    assert str(refused.value) == f"--model {text}: expected name=path or name=format:path"


def test_a_broken_off_download_is_not_served(tmp_path: Path) -> None:
    folder(tmp_path, model__onnx="")
    (tmp_path / f"{PARTIAL}abc").mkdir()
    with pytest.raises(ModelLoadError) as refused:
        found_format(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: the download into this folder was broken off; "
        "run headrace pull again, it goes on where it stopped"
    )


def mark(path: Path) -> None:
    path.joinpath(SOURCE_MARK).write_text("https://models.example/m\n")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda path: path, id="the mark lies beside the code"),
        pytest.param(lambda path: path.parent, id="the mark lies above"),
    ],
)
def test_downloaded_code_needs_trust(place: Callable[[Path], Path], tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.mkdir()
    folder(path, model__py=PLAIN)
    assert len(load_instances("m", ModelSource(path))) == 1  # one's own code runs
    mark(place(path))
    with pytest.raises(UntrustedModel) as refused:
        load_instances("m", ModelSource(path))
    assert str(refused.value) == (
        f"{path / 'model.py'}: code that came with a downloaded model runs only with --trust-code "
        "(in a manifest: args: [--trust-code])"
    )
    assert load_instances("m", ModelSource(path, options=LoadOptions(trust_code=True)))


def test_each_instance_is_loaded_by_itself(tmp_path: Path) -> None:
    folder(tmp_path, model__py=PLAIN)
    one, two = load_instances("m", ModelSource(tmp_path, instances=2))
    assert one is not two


NOTING = """
class Model:
    inputs = outputs = ()
    def __init__(self, folder):
        self.folder = folder
        (folder / f"made-{id(self)}").touch()
    def predict(self, inputs): return inputs
    def close(self): (self.folder / f"closed-{id(self)}").touch()
def load(path, options): return Model(path)
"""


def test_passive_instances_are_loaded_closed_and_never_asked(tmp_path: Path) -> None:
    folder(tmp_path, model__py=NOTING)
    spare = Group("spare", 2, Kind.CPU, is_passive=True)
    source = ModelSource(tmp_path, groups=(Group(count=1, kind=Kind.CPU), spare))

    async def load_and_stop() -> int:
        servable = await load_servable("m", source)
        assert isinstance(servable, TensorServable)
        await servable.stop()
        return len(servable.executor.instances)

    assert asyncio.run(load_and_stop()) == 1
    assert len(list(tmp_path.glob("made-*"))) == len(list(tmp_path.glob("closed-*"))) == 3


GREEDY = """
import numpy as np
from headrace.server import Datatype, Tensor, TensorSpec
class Model:
    inputs = outputs = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    def __init__(self):
        self.weights = np.ones(16 << 20, np.uint8)
    def predict(self, inputs):
        held = np.ones(64 << 20, np.uint8) if len(inputs[0].array) == 64 else None
        return [Tensor("x", inputs[0].array * 2)]
"""


def test_the_peak_is_that_of_the_largest_batch_which_a_flag_allows(tmp_path: Path) -> None:
    folder(tmp_path, model__py=GREEDY)

    def peak_bytes(rows: int) -> int:
        source = ModelSource(tmp_path, batching=BatchWishes(rows))
        return asyncio.run(load_servable("m", source)).memory.peak_bytes

    assert peak_bytes(64) - peak_bytes(8) > 48 << 20


REUSED = """
import ctypes
import numpy as np
from headrace.server.memory import Growth

libc = ctypes.CDLL(None)
libc.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD: keep what is freed, as a server does
libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
freed = np.ones(16 << 20, np.uint8)
del freed
with Growth() as growth:
    weights = np.ones(16 << 20, np.uint8)
print(growth.bytes >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_load_counts_though_its_memory_was_kept_from_before() -> None:
    done = subprocess.run([sys.executable, "-c", REUSED], capture_output=True, check=True)
    assert int(done.stdout) >= 15


def test_the_configuration_tells_the_instances_that_run(tmp_path: Path) -> None:
    folder(tmp_path, model__py=GREEDY)
    servable = asyncio.run(load_servable("m", ModelSource(tmp_path, instances=3)))
    told = [{"name": "m_0", "kind": "KIND_CPU", "count": 3, "gpus": []}]
    assert instance_group("m", servable) == told


def test_a_users_model_runs_as_many_calls_as_it_has_active_instances(tmp_path: Path) -> None:
    folder(tmp_path, model__py="from headrace.server import Model\nclass M(Model): pass\n")
    spare = Group(kind=Kind.CPU, is_passive=True)
    source = ModelSource(tmp_path, groups=(Group(count=3, kind=Kind.CPU), spare))
    servable = asyncio.run(load_servable("m", source))
    assert isinstance(servable, ModelServable)
    assert len(servable.executor.instances) == 3


def test_a_gpu_that_is_not_there_names_the_model(tmp_path: Path) -> None:
    folder(tmp_path, model__py=PLAIN)
    source = ModelSource(tmp_path, "echo", groups=(Group("g", kind=Kind.GPU),))
    with pytest.raises(ModelLoadError) as refused:
        asyncio.run(load_servable("m", source))
    assert str(refused.value) == (
        "model m: instance_group 'g': kind KIND_GPU, but this framework runs on the CPU only; "
        "use KIND_CPU"
    )


def test_the_gpus_are_looked_at_only_where_one_may_be_used(tmp_path: Path) -> None:
    def devices() -> list[Device]:
        raise AssertionError("asked")

    placed("m", ModelSource(folder(tmp_path, model__joblib="")), devices)


@pytest.mark.parametrize(
    ("free", "devices"),
    [
        pytest.param(100, ["cuda:0"], id="the weights fit"),
        pytest.param(99, ["cpu"], id="they do not: on the CPU, and the log says why"),
    ],
)
def test_a_gpu_must_hold_the_models_files(free: int, devices: list[str], tmp_path: Path) -> None:
    source = ModelSource(folder(tmp_path, model__onnx=bytes(100)))
    gpu = Device(0, "GPU-0", "Test", 1000, free, 0)
    found = placed("m", source, lambda: [gpu]).placements
    assert [each.torch_name for each in found] == devices


def test_a_failure_of_the_models_code_keeps_class_and_text(tmp_path: Path) -> None:
    folder(tmp_path, model__py="raise KeyError('weights')\n")
    with pytest.raises(ModelLoadError) as refused:
        load_instances("m", ModelSource(tmp_path))
    assert str(refused.value) == f"model m: custom cannot load {tmp_path}: KeyError: 'weights'"


@pytest.mark.parametrize(
    ("nthread", "workers", "instances", "threads"),
    [
        pytest.param(None, 1, 1, 8, id="one instance has them all"),
        pytest.param(None, 2, 2, 2, id="workers and instances share them"),
        pytest.param(None, 1, 0, 8, id="an empty folder"),
        pytest.param(None, 4, 9, 1, id="no instance has less than one"),
        pytest.param(3, 4, 9, 3, id="--nthread wins"),
    ],
)
def test_threads_are_promised_once(
    nthread: int | None, workers: int, instances: int, threads: int
) -> None:
    given = settings(nthread=nthread, workers=workers)
    assert threads_per_instance(given, instances, 8) == threads


MISSING = """
import json, sys
from pathlib import Path
blocked, framework, path = sys.argv[1:]
sys.modules[blocked] = None
from headrace.server import LoadOptions, ModelLoadError
from headrace.server.loading import ModelSource, load_instances
try:
    load_instances("m", ModelSource(Path(path), framework, options=LoadOptions(trust_code=True)))
except ModelLoadError as err:
    print(json.dumps(str(err)))
"""


@pytest.mark.parametrize(
    ("module", "framework", "file", "said"),
    [
        ("onnxruntime", "onnx", "m.onnx", "ONNX models need onnxruntime"),
        ("sklearn", "sklearn", "m.joblib", "scikit-learn models need scikit-learn"),
        ("xgboost", "xgboost", "m.ubj", "XGBoost models need xgboost"),
        ("lightgbm", "lightgbm", "m.bst", "LightGBM models need lightgbm"),
        ("torch", "torch", "m.pt", "PyTorch models need torch"),
        ("mlflow", "mlflow", "MLmodel", "the flavour python_function needs mlflow"),
    ],
)
def test_a_missing_framework_names_its_extra(
    module: str, framework: str, file: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text("flavors: {python_function: {}}")
    name = {"torch": "pytorch"}.get(framework, framework)
    told = subprocess.run(
        [sys.executable, "-c", MISSING, module, name, str(tmp_path)],
        stdout=subprocess.PIPE,
        check=True,
    )
    extra = framework
    assert json.loads(told.stdout) == f"{said}: pip install 'headrace[{extra}]'"
