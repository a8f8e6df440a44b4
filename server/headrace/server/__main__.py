"""`python -m headrace.server`: what a KServe runtime manifest starts (contract §6.3)."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from headrace.server import settings as settings_module
from headrace.server import start_up, workers
from headrace.server.errors import ModelLoadError
from headrace.server.logging import configure
from headrace.server.model_server import to_predictor_config
from headrace.server.predictor_config import set_of_process
from headrace.server.repository import Repository
from headrace.server.settings import Settings, SettingsError

EXAMPLE = """example:
  python -m headrace.server --model_name iris --model_dir /mnt/models --http_port 8080
  python -m headrace.server --model digits=onnx:./digits.onnx --model iris=./iris.joblib"""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """The server's exit code: 0 after a drain, 1 if it could not start, 2 for a bad setting."""
    argparse.ArgumentParser(
        prog="python -m headrace.server",
        description="Serve models over V1, the Open Inference Protocol (REST and gRPC).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[settings_module.parser()],
        allow_abbrev=False,
    ).parse_known_args(argv)
    try:
        settings, unknown = Settings.from_sources(argv, env)
        configure(settings)
        set_of_process(to_predictor_config(settings))
        start_up.loader(settings, env)  # a malformed --model is told here, before any fork
    except (SettingsError, ModelLoadError) as err:
        print(f"headrace.server: {err}", file=sys.stderr)
        return 2
    if unknown:  # KServe's servers ignore them too, and runtimes rely on that
        print(f"headrace.server: ignored: {' '.join(unknown)}", file=sys.stderr)
    return workers.run(
        settings,
        lambda each: Repository(start_up.loader(each, env), headroom=start_up.headroom(each)),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
