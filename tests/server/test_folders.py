"""A folder of models: which names it holds, which versions are served, what is wrong with which."""

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.server.errors import InvalidInput, ModelLoadError, ModelMissingError, ModelNotFound
from headrace.server.folders import FolderLoader, inner_path, scan, sources_of
from headrace.server.loading import ModelSource
from headrace.server.model_config import ModelConfig, from_json, from_text
from headrace.server.placement import Group, Kind
from headrace.server.repository import ServedModel
from headrace.server.servable import TensorServable
from headrace.server.tensor import Datatype, TensorSpec

TEMPLATE = ModelSource(Path(), framework="echo")


def write(root: Path, *paths: str, **texts: str) -> Path:
    """Empty files at paths below root, and texts (a/b for a__b) with their content."""
    named = dict.fromkeys(paths, "") | {k.replace("__", "/"): v for k, v in texts.items()}
    for path, text in named.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def mlserver(name: str, version: str, implementation: str = "") -> str:
    settings: dict[str, object] = {"name": name, "parameters": {"version": version}}
    if implementation:
        settings["implementation"] = implementation
    return json.dumps(settings)


def load(root: Path, name: str, **parameters: object) -> Sequence[ServedModel]:
    return asyncio.run(FolderLoader(root, TEMPLATE).load(name, parameters))


def test_names(tmp_path: Path) -> None:
    """Every layout side by side; hidden entries and files of no format are nobody's."""
    write(
        tmp_path,
        "digits/1/model.onnx",
        "wine/model.joblib",
        ".git/config",
        "notes.md",
        "ours/blob.bin",
    )
    write(tmp_path / "group/a", **{"model-settings.json": mlserver("iris", "1")})
    write(tmp_path / "group/b", **{"model-settings.json": mlserver("tree", "1")})
    assert sorted(scan(tmp_path)) == ["digits", "iris", "ours", "tree", "wine"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        scan(tmp_path / "absent")
    assert str(caught.value) == f"--model_repository {tmp_path}/absent: there is no such folder"


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        pytest.param("", ["10"], id="no policy: the newest, by number and not by spelling"),
        pytest.param("version_policy { latest { num_versions: 2 } }", ["9", "10"], id="latest two"),
        pytest.param("version_policy { all { } }", ["2", "9", "10"], id="all"),
        pytest.param(
            "version_policy { specific { versions: 9 versions: 7 } }", ["9"], id="those that exist"
        ),
    ],
)
def test_versions_of_tritons_layout(policy: str, served: list[str], tmp_path: Path) -> None:
    write(tmp_path, *(f"m/{version}/blob" for version in ("2", "9", "10", "drafts")))
    write(tmp_path / "m", **{"config.pbtxt": f'name: "m"\n{policy}'})
    models = load(tmp_path, "m")
    assert [model.version for model in models] == served


def test_a_policy_that_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, "m/1/blob")
    write(tmp_path / "m", **{"config.pbtxt": "version_policy { specific { versions: 3 } }"})
    with pytest.raises(ModelMissingError) as caught:
        load(tmp_path, "m")
    assert str(caught.value) == (
        f"Missing model under path {tmp_path}/m; its version_policy leaves no version"
    )


CONFIG = """
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU } ]
default_model_filename: "net.onnx"
parameters { key: "k" value { string_value: "v" } }
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


def test_what_a_config_says() -> None:
    config = from_text(CONFIG, "at")
    assert config.framework == "onnx"
    assert config.max_batch_size == 8
    assert config.inputs == (TensorSpec("x", Datatype.FP32, (-1, 4)),)
    assert config.outputs == (TensorSpec("y", Datatype.BYTES, (-1, -1)),)
    assert config.groups == (Group(count=2, kind=Kind.CPU), Group(kind=Kind.CPU))
    assert config.file_name == "net.onnx"
    assert config.parameters == {"k": "v"}
    assert config.keys["dynamic_batching"] == {"max_queue_delay_microseconds": "100"}


def test_a_config_reaches_its_sources(tmp_path: Path) -> None:
    write(tmp_path, "m/1/net.onnx")
    write(tmp_path / "m", **{"config.pbtxt": CONFIG})
    ((source, config),) = sources_of("m", scan(tmp_path)["m"], TEMPLATE)
    assert source.path == tmp_path / "m/1/net.onnx"
    assert (source.framework, source.wanted) == ("onnx", config.groups)
    assert source.options.parameters == config.parameters


@pytest.mark.parametrize(
    ("group", "read"),
    [
        ("{ }", Group()),
        (
            '{ name: "g" count: 2 kind: KIND_GPU gpus: [0, 2] }',
            Group("g", 2, Kind.GPU, (0, 2)),
        ),
        ("{ kind: KIND_MODEL passive: true }", Group(kind=Kind.MODEL, is_passive=True)),
    ],
)
def test_instance_groups(group: str, read: Group) -> None:
    assert from_text(f"instance_group {group}", "at").groups == (read,)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            '{ name: "g" secondary_devices { kind: KIND_NVDLA device_id: 0 } }',
            "at: instance_group 'g': secondary_devices (NVDLA cores) are not served; "
            "leave them out",
        ),
        ("{ count: -1 }", "at: instance_group '': count -1: expected 1 to 1024"),
        ("{ count: 99999 }", "at: instance_group '': count 99999: expected 1 to 1024"),
        (
            "{ kind: 9 }",
            "at: instance_group '': kind 9: expected one of "
            "KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL",
        ),
    ],
)
def test_instance_groups_that_cannot_be(group: str, said: str) -> None:
    with pytest.raises(ModelLoadError) as refused:
        from_text(f"instance_group {group}", "at")
    assert str(refused.value) == said


def test_what_of_an_instance_group_is_ignored_is_said(caplog: pytest.LogCaptureFixture) -> None:
    text = """instance_group { name: "g" host_policy: "p" profile: "x"
        rate_limiter { resources { name: "R" count: 2 } priority: 2 } }"""
    assert from_text(text, "at").groups == (Group("g"),)
    told = [(each.__dict__["at"], each.__dict__["setting"]) for each in caplog.records]
    at = "at: instance_group 'g'"
    assert told == [(at, "rate_limiter"), (at, "profile"), (at, "host_policy")]


def test_that_ragged_batches_are_not_made_is_said(caplog: pytest.LogCaptureFixture) -> None:
    config = from_text(
        "max_batch_size: 8 "
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }',
        "at",
    )
    assert config.max_batch_size == 8
    [record] = caplog.records
    assert (record.message, vars(record)["at"]) == ("allow_ragged_batch ignored", "at: input 'x'")
    assert "run in batches of their own, unpadded" in vars(record)["instead"]


def test_an_unknown_field_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    config = from_text('name: "m" frobnicate: 3', "m/config.pbtxt")
    assert config.keys == {"name": "m"}
    assert [record.message for record in caplog.records] == ["model config has unknown fields"]


def test_a_broken_config_names_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, "m/1/blob")
    write(tmp_path / "m", **{"config.pbtxt": 'name: "m"\nmax_batch_size: "many"\n'})
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, "m")
    assert str(caught.value).startswith(f"{tmp_path}/m/config.pbtxt: 2:17 : ")


def test_dims_are_whole_where_there_is_no_batching() -> None:
    config = from_json('{"input": [{"name": "x", "dataType": "TYPE_INT64", "dims": [2]}]}', "at")
    assert config == ModelConfig(
        {"input": [{"name": "x", "data_type": "TYPE_INT64", "dims": ["2"]}]},
        inputs=(TensorSpec("x", Datatype.INT64, (2,)),),
    )


def test_declared_tensors_fill_in_for_a_file_that_knows_none(tmp_path: Path) -> None:
    write(tmp_path, "m/1/blob")
    text = 'max_batch_size: 2 input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]'
    write(tmp_path / "m", **{"config.pbtxt": text})
    (model,) = load(tmp_path, "m")
    assert model.servable.inputs == (TensorSpec("x", Datatype.FP32, (-1, 4)),)


THREADED = """
class Model:
    inputs = outputs = ()
    def __init__(self, threads): self.threads = threads
    def predict(self, inputs): return []
def load(path, options): return Model(options.threads)
"""


def test_threads_are_divided_among_all_instances_of_the_folder(tmp_path: Path) -> None:
    groups = {
        "a": "instance_group { count: 2 kind: KIND_CPU }",
        "b": "instance_group [{ kind: KIND_CPU }, { count: 7 kind: KIND_CPU passive: true }]",
        "c": "version_policy { all { } }",
        "d": "instance_group { count: -1 }",
    }
    for name, text in groups.items():
        write(tmp_path / name / "1", **{"model.py": THREADED})
        write(tmp_path / name, **{"config.pbtxt": text})
    write(tmp_path / "c" / "2", **{"model.py": THREADED})
    asked: list[int] = []

    def threads(instances: int) -> int:
        asked.append(instances)
        return 12 // instances

    template = ModelSource(Path(), "custom")
    loader = FolderLoader(tmp_path, template, threads=threads)
    (model,) = asyncio.run(loader.load("a", {}))
    assert isinstance(model.servable, TensorServable)
    instances: list[Any] = list(model.servable.executor.instances)
    assert [each.threads for each in instances] == [2, 2]
    assert asked == [6]  # 2 of a, 1 of b, both versions of c, 1 for d, which says nothing usable
    write(tmp_path / "a", **{"config.pbtxt": "instance_group { count: 8 kind: KIND_CPU }"})
    asyncio.run(loader.load("a", {}))
    assert asked == [6, 12]


def test_mlservers_versions_of_one_name(tmp_path: Path) -> None:
    for version in ("v0.1.0", "v0.2.0"):
        write(tmp_path / version, **{"model-settings.json": mlserver("iris", version)})
    assert [model.version for model in load(tmp_path, "iris")] == ["v0.1.0", "v0.2.0"]


def test_mlservers_implementation_names_our_predictor(tmp_path: Path) -> None:
    settings = {
        "name": "iris",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./iris.joblib"},
    }
    write(tmp_path / "iris", **{"model-settings.json": json.dumps(settings)})
    ((source, _),) = sources_of("iris", scan(tmp_path)["iris"], TEMPLATE)
    assert source.framework == "sklearn"
    assert source.path == tmp_path / "iris" / "./iris.joblib"


def test_an_implementation_we_do_not_have(tmp_path: Path) -> None:
    text = mlserver("iris", "1", "models.MyModel")
    write(tmp_path / "iris", **{"model-settings.json": text})
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, "iris")
    assert str(caught.value) == (
        f"{tmp_path}/iris/model-settings.json: implementation 'models.MyModel' is not served here; "
        "expected one of mlserver_sklearn.SKLearnModel, mlserver_xgboost.XGBoostModel, "
        "mlserver_lightgbm.LightGBMModel, mlserver_mlflow.MLflowRuntime"
    )


def test_broken_settings_are_their_models_error_alone(tmp_path: Path) -> None:
    write(tmp_path / "bad", **{"model-settings.json": '{"name": 3}'})
    write(tmp_path, "good/1/blob")
    assert [model.name for model in load(tmp_path, "good")] == ["good"]
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, "bad")
    assert str(caught.value) == (
        f"{tmp_path}/bad/model-settings.json: Expected `str | null`, got `int` - at `$.name`"
    )


def test_a_new_folder_appears(tmp_path: Path) -> None:
    loader = FolderLoader(tmp_path, TEMPLATE)
    assert list(loader.names()) == []
    with pytest.raises(ModelNotFound):
        asyncio.run(loader.load("m", {}))
    write(tmp_path, "m/1/blob")
    assert [model.name for model in asyncio.run(loader.load("m", {}))] == ["m"]
    assert list(loader.names()) == ["m"]


def test_a_config_of_the_request_wins_over_the_files(tmp_path: Path) -> None:
    write(tmp_path, "m/1/blob", "m/2/blob")
    write(tmp_path / "m", **{"config.pbtxt": "version_policy { all { } }"})
    config = json.dumps({"version_policy": {"specific": {"versions": [1]}}})
    assert [model.version for model in load(tmp_path, "m", config=config)] == ["1"]


def test_uploaded_files_are_served_and_forgotten(tmp_path: Path) -> None:
    write(tmp_path, "m/1/blob")
    loader = FolderLoader(tmp_path, TEMPLATE)
    upload = {"config": "{}", "file:7/blob": base64.b64encode(b"content").decode()}
    (model,) = asyncio.run(loader.load("m", upload))
    assert model.version == "7"
    (folder,) = loader._uploads.values()
    assert (folder / "7/blob").read_bytes() == b"content"
    asyncio.run(loader.load("m", {}))
    assert not folder.exists()


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ""])
def test_an_upload_stays_inside(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inner_path(path)
    assert str(caught.value) == (
        f"'file:{path}': expected a relative path such as file:1/model.onnx"
    )
