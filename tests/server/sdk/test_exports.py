"""What `headrace.server` exports, and what importing it costs."""

import subprocess
import sys

import pytest

import headrace.server

# Data-plane contract §6, the names under "In:", flat
KSERVE_NAMES = {
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InferenceVerb",
    "InvalidInput",
    "Model",
    "ModelMissingError",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRepository",
    "ModelServer",
    "NoModelReady",
    "PredictorConfig",
    "PredictorProtocol",
    "RequestedOutput",
    "ServerNotLive",
    "ServerNotReady",
    "UnsupportedProtocol",
    "WorkersShouldBeLessThanMaxWorkersError",
    "args",
    "cpu_count",
    "errors",
    "generate_uuid",
    "get_predict_input",
    "get_predict_response",
    "model_server",
    "parser",
    "strtobool",
    "to_headers",
}


def test_all_is_sorted_and_every_name_is_there() -> None:
    exported = headrace.server.__all__
    assert exported == sorted(exported)
    assert [name for name in exported if not hasattr(headrace.server, name)] == []


def test_every_name_of_kserves_that_user_code_knows_is_exported() -> None:
    assert set(headrace.server.__all__) >= KSERVE_NAMES


def test_the_errors_are_also_in_a_module_of_their_own() -> None:
    names = [name for name in KSERVE_NAMES if name.endswith("Error") or "NotReady" in name]
    assert all(hasattr(headrace.server.errors, name) for name in names)


@pytest.mark.parametrize("flag", ["--http_port=9001", "--http-port=9001"])
def test_args_are_read_when_first_asked_for_and_unknown_flags_are_left_alone(flag: str) -> None:
    program = (
        "import sys, headrace.server\n"
        f"sys.argv = ['program', {flag!r}, '--my_own', '1']\n"
        "from headrace.server import args, model_server\n"
        "print(args.http_port, args.model_name, model_server.args is args)\n"
    )
    assert run(program) == "9001 model True\n"


def test_parser_is_a_parent_for_a_program_with_flags_of_its_own() -> None:
    program = (
        "import argparse, headrace.server\n"
        "flags = argparse.ArgumentParser(parents=[headrace.server.model_server.parser])\n"
        "flags.add_argument('--model_dir', required=True)\n"
        "flags.add_argument('--nthread', type=int)\n"
        "known, _ = flags.parse_known_args(['--model_dir', 'x', '--workers', '2',"
        " '--enable_docs_url', '--enable_grpc', 'no'])\n"
        "print(known.model_dir, known.workers, known.enable_docs_url, known.enable_grpc,"
        " known.http_port, known.predictor_protocol)\n"
    )
    assert run(program) == "x 2 True False 8080 v1\n"


def test_importing_it_loads_no_server_and_no_framework() -> None:
    heavy = ["tornado", "grpc", "aiohttp", "pandas", "google.protobuf"]
    program = f"import sys, headrace.server; print([m for m in {heavy} if m in sys.modules])"
    assert run(program) == "[]\n"


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
