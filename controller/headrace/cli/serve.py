"""`headrace serve`: manifests with -f, else models by path; the flags are the server's."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from headrace.cli import serve_manifests, serve_models
from headrace.server.settings import FALSE, TRUE, SettingsError, parser

USAGE = (
    "headrace serve -f FILE|DIR|- [options]\n       headrace serve [NAME=][FORMAT:]PATH … [options]"
)
EPILOG = """examples:
  headrace serve -f iris.yaml                         an InferenceService, unchanged
  cat *.yaml | headrace serve -f -                    several of them
  headrace serve ./models                             a folder of models
  headrace serve digits=./digits.onnx iris=./iris.joblib
  headrace serve iris=sklearn:./model.pkl --http-port 9000 --workers 2

Binds to 127.0.0.1 unless --host says otherwise. Flags are those of `python -m headrace.server`,
with `_` or `-`; with -f they reach every component that is a Headrace server."""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    flags = parser(serve_models.DEFAULTS)
    command = argparse.ArgumentParser(
        prog="headrace serve",
        usage=USAGE,
        description="Serve models over V1, V2 (REST, binary) and gRPC, in the foreground.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags],
        allow_abbrev=False,
    )
    command.add_argument("models", nargs="*", metavar="[NAME=][FORMAT:]PATH", help="what to serve")
    command.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE|DIR|-",
        help="InferenceService manifests; may be given several times",
    )
    found = vars(command.parse_intermixed_args(_with_values(argv, flags)))
    models, files = found.pop("models"), found.pop("filename")
    given = {name: value for name, value in found.items() if value is not None}
    if files and models:
        command.error(f"-f and a path ({models[0]}) together; serve one or the other")
    try:
        if files:
            return serve_manifests.serve(files, given, env)
        if models or {"model", "model_repository", "model_dir"} & given.keys():
            return serve_models.serve(models, given, env)
    except SettingsError as err:
        print(f"headrace serve: {err}", file=sys.stderr)
        return 2
    return command.error("nothing to serve; type `headrace serve -f FILE` or `headrace serve PATH`")


def _with_values(argv: Sequence[str], flags: argparse.ArgumentParser) -> list[str]:
    """argv, a bare boolean flag with the value it means, so that it takes no path for one."""
    switches = {word for a in flags._actions if a.nargs == "?" for word in a.option_strings}
    found = list(argv)
    for i, word in enumerate(found):
        following = found[i + 1].lower() if i + 1 < len(found) else ""
        if word in switches and following not in TRUE | FALSE:
            found[i] = f"{word}=true"
    return found
