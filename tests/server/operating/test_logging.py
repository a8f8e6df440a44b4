"""Log lines as JSON and as text, KServe's `configure_logging`, and config files that are broken."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.server.logging import JsonFormatter, TextFormatter, configure, configure_logging
from headrace.server.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[logging.Handler]]:
    """The root's handlers are put back, whatever a test configured."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield before
    root.handlers[:] = before


def logged(formatter: logging.Formatter, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.getLogger("test.log")
    log.propagate = False
    log.handlers = [handler]
    log.warning("model %s", "loaded", extra={"model": "m", "rows": 2}, exc_info=error)
    return stream.getvalue()


def test_a_json_line_has_the_fields() -> None:
    line = json.loads(logged(JsonFormatter()))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "test.log",
        "message": "model loaded",
        "model": "m",
        "rows": 2,
    }


def test_an_exception_stays_on_its_line() -> None:
    text = logged(JsonFormatter(), ValueError("no weights"))
    assert text.count("\n") == 1
    assert json.loads(text)["exception"] == "ValueError: no weights"


def test_text_is_kserves_line_and_the_fields() -> None:
    text = logged(TextFormatter())
    assert " test.log WARNING [test_logging.py:logged():" in text
    assert text.endswith("] model loaded model=m rows=2\n")


CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"own": {"class": "logging.StreamHandler", "level": "ERROR"}},
    "root": {"handlers": ["own"], "level": "ERROR"},
}
YAML = """
version: 1
disable_existing_loggers: false
handlers: {own: {class: logging.StreamHandler, level: ERROR}}
root: {handlers: [own], level: ERROR}
"""
INI = """
[loggers]
keys=root
[handlers]
keys=own
[formatters]
keys=
[logger_root]
level=ERROR
handlers=own
[handler_own]
class=StreamHandler
level=ERROR
args=()
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.json", json.dumps(CONFIG)),
        ("log.yaml", YAML),
        ("log.yml", YAML),
        ("log.ini", INI),
        ("log.conf", INI),
    ],
)
def test_config_files(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    configure(Settings(log_config_file=str(path)))
    assert [handler.level for handler in logging.getLogger().handlers] == [logging.ERROR]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.json", "[]", "ValueError: dictionary doesn't specify a version"),
        ("log.json", '{"root": {}}', "ValueError: dictionary doesn't specify a version"),
        (
            "log.ini",
            "level",
            "MissingSectionHeaderError: File contains no section headers.\n"
            "file: '{path}', line: 1\n'level'",
        ),
        ("log.ini", "[root]\n", "KeyError: 'formatters'"),
    ],
    ids=["no mapping", "no version", "no ini", "no loggers"],
)
def test_broken_config_files(name: str, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        configure_logging(str(path))
    assert str(caught.value) == f"--log_config_file {path}: {says.format(path=path)}"


def test_a_missing_config_file() -> None:
    with pytest.raises(SettingsError) as caught:
        configure_logging("/no/such.ini")
    assert str(caught.value) == (
        "--log_config_file /no/such.ini: FileNotFoundError: "
        "[Errno 2] No such file or directory: '/no/such.ini'"
    )


def test_none_keeps_the_handlers(handlers: list[logging.Handler]) -> None:
    configure_logging(None)
    assert logging.getLogger().handlers == handlers


def test_a_program_may_configure_logging_itself(handlers: list[logging.Handler]) -> None:
    configure(Settings(configure_logging=False, log_level="nonsense"))
    assert logging.getLogger().handlers == handlers


def test_a_level_there_is_not() -> None:
    with pytest.raises(SettingsError) as caught:
        configure(Settings(log_level="loud"))
    assert str(caught.value) == (
        "--log_level loud: expected DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
