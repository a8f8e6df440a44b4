"""The compiled descriptors are those of the .proto files beside them, in a pool of our own."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from headrace.server.grpc import messages

FOLDER = Path(messages.__file__).parent
SOURCES = {
    "open_inference.binpb": ["open_inference.proto"],
    "health.binpb": ["health.proto"],
    "reflection.binpb": ["reflection.proto", "reflection_v1alpha.proto"],
}


@pytest.mark.parametrize("name", messages.DESCRIPTOR_SETS)
def test_the_descriptor_set_is_what_its_sources_compile_to(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", f"--descriptor_set_out={out}"]
    subprocess.run([*command, *SOURCES[name]], cwd=FOLDER, check=True)
    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    checked_in = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / name).read_bytes())
    assert checked_in == compiled


def test_the_readme_names_the_command_of_each_descriptor_set() -> None:
    readme = (FOLDER / "README.md").read_text()
    for name, sources in SOURCES.items():
        command = f"python -m grpc_tools.protoc -I . --descriptor_set_out={name}"
        assert f"{command} {' '.join(sources)}" in readme


@pytest.mark.parametrize(
    "symbol",
    ["inference.ServerLiveRequest", "inference.ModelConfig", "grpc.reflection.v1.ErrorResponse"],
)
def test_our_messages_are_not_in_the_default_pool(symbol: str) -> None:
    messages.message_class(symbol)
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(symbol)


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        (
            "ModelInferRequest",
            "model_name 1 model_version 2 id 3 parameters 4 inputs 5 outputs 6 "
            "raw_input_contents 7",
        ),
        (
            "ModelInferResponse",
            "model_name 1 model_version 2 id 3 parameters 4 outputs 5 raw_output_contents 6",
        ),
        (
            "InferParameter",
            "bool_param 1 int64_param 2 string_param 3 double_param 4 uint64_param 5",
        ),
        ("ModelStreamInferResponse", "error_message 1 infer_response 2"),
        ("RepositoryModelLoadRequest", "repository_name 1 model_name 2 parameters 3"),
        ("RepositoryModelLoadResponse", "model_name 1 isLoaded 2"),
        ("RepositoryModelUnloadResponse", "model_name 1 isUnloaded 2"),
        (
            "ModelInput",
            "name 1 data_type 2 dims 4 is_shape_tensor 6 allow_ragged_batch 7 optional 8",
        ),
        (
            "ModelInstanceGroup",
            "name 1 count 2 gpus 3 kind 4 profile 5 rate_limiter 6 passive 7 secondary_devices 8 "
            "host_policy 9",
        ),
        ("ModelRateLimiter", "resources 1 priority 2"),
        (
            "ModelQueuePolicy",
            "timeout_action 1 default_timeout_microseconds 2 allow_timeout_override 3 "
            "max_queue_size 4",
        ),
    ],
)
def test_field_numbers_are_the_contracts(message: str, numbers: str) -> None:
    fields = messages.message_class(f"inference.{message}").DESCRIPTOR.fields
    assert " ".join(f"{field.name} {field.number}" for field in fields) == numbers
