"""The command itself: what it imports, what its help says, what it answers to a slip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEADRACE = [sys.executable, "-m", "headrace.cli"]


def headrace(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HEADRACE, *words], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


def test_help_imports_no_subcommand_and_nothing_heavy() -> None:
    """So that `headrace --help` answers at once: nothing outside the standard library."""
    code = (
        "import sys; before = set(sys.modules); import headrace.cli.__main__ as cli;"
        "cli.main(['--help']);"
        "print([m for m in set(sys.modules) - before if not m.startswith('headrace')"
        " and m.split('.')[0] not in sys.stdlib_module_names],"
        "sorted(m for m in sys.modules if m.startswith('headrace')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last == "[] ['headrace', 'headrace.cli', 'headrace.cli.__main__']"


@pytest.mark.parametrize("command", ["serve", "pull", "version"])
def test_every_command_has_an_example_in_its_help(command: str) -> None:
    done = headrace(command, "--help")
    assert done.returncode == 0
    assert f"headrace {command}" in done.stdout.partition("example")[2]
    assert f"\n  {command} " in headrace("--help").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["sevre"],
            "headrace: there is no command 'sevre'; did you mean `headrace serve`?",
            id="a slip",
        ),
        pytest.param(
            ["bake"],
            "headrace: there is no command 'bake'; see `headrace --help`",
            id="nothing like it",
        ),
        pytest.param(
            ["serve"],
            "headrace serve: error: nothing to serve; type `headrace serve -f FILE` or `headrace "
            "serve PATH`",
            id="nothing to serve",
        ),
        pytest.param(
            ["serve", "-f", "a.yaml", "b"],
            "headrace serve: error: -f and a path (b) together; serve one or the other",
            id="both kinds",
        ),
        pytest.param(
            ["serve", "no/such.onnx"],
            "headrace serve: there is no file or folder no/such.onnx; give the path of a model",
            id="no such model",
        ),
        pytest.param(
            ["serve", "iris=s3://a/b"],
            "headrace serve: s3://a/b is not on this machine; type `headrace pull s3://a/b "
            "./model`, then `headrace serve iris=./model`",
            id="a remote model",
        ),
        pytest.param(
            ["pull", "s3://a/b"],
            "headrace pull: error: s3://a/b has no folder; type `headrace pull s3://a/b DIR`",
            id="no folder to pull into",
        ),
    ],
)
def test_what_is_typed_wrong(words: list[str], said: str) -> None:
    done = headrace(*words)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (2, said)


def test_version() -> None:
    done = headrace("version")
    assert done.stdout.startswith("headrace 0.")
    assert headrace("--version").stdout == done.stdout


def test_pull_links_a_local_model_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.bst").write_text("tree")
    target = tmp_path / "here"
    done = headrace("pull", f"file://{tmp_path}/m", str(target))
    assert (done.returncode, done.stdout) == (0, f"{target}\n")
    assert (target / "model.bst").read_text() == "tree"


def test_pull_says_what_it_cannot_read() -> None:
    done = headrace("pull", "pvc://claim/m", "here")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "headrace pull: pvc://claim/m: pvc:// is a volume that Kubernetes mounts: it works in a "
        "cluster; give the mounted path here; here: file://"
    )
