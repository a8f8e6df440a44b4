"""The `headrace` command: finds the subcommand and hands it argv and the environment."""

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

COMMANDS = {  # module of headrace.cli, and its line of help
    "serve": "run models or InferenceService manifests on this machine, in the foreground",
    "pull": "download a model from a storage URI into a folder",
    "version": "print the version",
}
HELP = f"""usage: headrace COMMAND [options]

Serve machine learning models: the same manifests and protocols from a laptop to a cluster.

commands:
{chr(10).join(f"  {name:<9}{text}" for name, text in COMMANDS.items())}

example:
  headrace serve -f iris.yaml
  headrace serve digits=./digits.onnx

`headrace COMMAND --help` says more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for what failed, 2 for what was typed wrong, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    name, *rest = words
    name = "version" if name == "--version" else name
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean `headrace {near[0]}`?" if near else "see `headrace --help`"
        print(f"headrace: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"headrace.cli.{name}")
    try:
        return int(command.main(rest, os.environ))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
