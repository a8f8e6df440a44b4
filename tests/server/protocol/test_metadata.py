"""Metadata, configuration and repository bodies: the contract, §2.1 and §4.1 to §4.3."""

from typing import Any

import pytest

from headrace.server.errors import InvalidInput
from headrace.server.protocol import metadata
from headrace.server.protocol.limits import ParseLimits
from headrace.server.tensor import Datatype, TensorSpec

LIMITS = ParseLimits()
X = TensorSpec("x", Datatype.FP32, (-1, 2))
T = TensorSpec("t", Datatype.BYTES, (-1, 1), is_optional=True)


def test_server_metadata_lists_both_spellings() -> None:
    answer = metadata.server_metadata("0.1.0")
    assert (answer["name"], answer["version"]) == ("headrace", "0.1.0")
    assert {"model_repository_extension", "model_repository", "binary_tensor_data"} <= set(
        answer["extensions"]
    )
    assert "sequence" not in answer["extensions"]


def test_model_metadata() -> None:
    assert metadata.model_metadata("m", ["1", "2"], "python", [X], [T]) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "python",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "t", "datatype": "BYTES", "shape": [-1, 1]}],
    }


def test_model_config_of_a_model_that_was_given_none() -> None:
    assert metadata.model_config("m", "onnx_onnxruntime", [X, T], [X], {}) == {
        "name": "m",
        "platform": "onnx_onnxruntime",
        "backend": "onnx_onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2], "optional": False},
            {"name": "t", "data_type": "TYPE_STRING", "dims": [-1, 1], "optional": True},
        ],
        "output": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        "default_model_filename": "",
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
    }


def test_what_a_model_was_given_wins_and_dims_leave_out_the_batch() -> None:
    config = metadata.model_config(
        "m", "p", [X], [], {"max_batch_size": 8, "dynamic_batching": {}}, is_decoupled=True
    )
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [2]
    assert config["dynamic_batching"] == {}
    assert config["model_transaction_policy"] == {"decoupled": True}


@pytest.mark.parametrize("datatype", [d for d in Datatype if d is not Datatype.BYTES])
def test_datatypes_as_a_config_spells_them(datatype: Datatype) -> None:
    assert metadata.triton_type(datatype) == f"TYPE_{datatype.value}"


def test_statistics_are_wrapped() -> None:
    assert metadata.model_stats([{"name": "m"}]) == {"model_stats": [{"name": "m"}]}


@pytest.mark.parametrize(
    ("body", "ready"),
    [(b"", False), (b" \n", False), (b"{}", False), (b'{"ready":true}', True), (b'{"x":1}', False)],
)
def test_index_bodies(body: bytes, ready: bool) -> None:
    assert metadata.wants_ready_only(body, LIMITS) is ready


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"{}", {}, id="no parameters"),
        pytest.param(b'{"parameters":null}', {}, id="null"),
        pytest.param(
            b'{"parameters":{"config":"{}","file:1/model.onnx":"YQ=="}}',
            {"config": "{}", "file:1/model.onnx": "YQ=="},
            id="tritonclient's load",
        ),
        pytest.param(
            b'{"parameters":{"unload_dependents":true}}', {"unload_dependents": True}, id="unload"
        ),
    ],
)
def test_load_bodies(body: bytes, parameters: dict[str, Any]) -> None:
    assert metadata.repository_parameters(body, LIMITS) == parameters


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"[]", "request body: expected an object, got an array", id="no object"),
        pytest.param(
            b'{"parameters":1}',
            "request body: 'parameters' must be an object, got a number",
            id="parameters are no object",
        ),
        pytest.param(
            b"{",
            "request body: not valid JSON: unexpected end of data: line 1 column 2 (char 1)",
            id="no JSON",
        ),
    ],
)
def test_load_bodies_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        metadata.repository_parameters(body, LIMITS)
    assert str(caught.value) == sentence


def test_an_index_body_wants_a_boolean() -> None:
    with pytest.raises(InvalidInput) as caught:
        metadata.wants_ready_only(b'{"ready":"yes"}', LIMITS)
    assert str(caught.value) == "request body: 'ready' must be a boolean, got a string"
