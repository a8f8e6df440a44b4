"""Where a setting may be given, which place wins, and what is said of one that cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from headrace.server.settings import Settings, SettingsError


def settings(*argv: str, env: dict[str, str] | None = None, **defaults: Any) -> Settings:
    return Settings.from_sources(argv, env or {}, **defaults)[0]


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("http_port: 3\n")
    file, env = ("--settings_file", str(path)), {"HEADRACE_SERVER_HTTP_PORT": "2"}
    assert settings("--http_port", "1", *file, env=env, http_port=4).http_port == 1
    assert settings(*file, env=env, http_port=4).http_port == 2
    assert settings(*file, http_port=4).http_port == 3
    assert settings(http_port=4).http_port == 4
    assert settings().http_port == 8080


@pytest.mark.parametrize("flag", ["--http_port", "--http-port"])
def test_both_spellings(flag: str) -> None:
    assert settings(flag, "9").http_port == 9


def test_a_file_may_use_either_spelling(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"grpc-port": 7, "enable_grpc": false}')
    read = settings(env={"HEADRACE_SERVER_SETTINGS_FILE": str(path)})
    assert (read.grpc_port, read.enable_grpc) == (7, False)


@pytest.mark.parametrize("word", ["y", "yes", "t", "true", "on", "1", "True", "YES"])
def test_words_for_true(word: str) -> None:
    assert settings("--enable_docs_url", word).enable_docs_url


@pytest.mark.parametrize("word", ["n", "no", "f", "false", "off", "0", "False", "NO"])
def test_words_for_false(word: str) -> None:
    assert not settings("--enable_grpc", word).enable_grpc


def test_a_bare_flag_is_true() -> None:
    assert settings("--enable_docs_url").enable_docs_url


def test_unknown_flags_are_the_programs_own() -> None:
    assert Settings.from_sources(["--mine", "1"], {})[1] == ["--mine", "1"]


@pytest.mark.parametrize(
    ("argv", "env", "says"),
    [
        pytest.param(
            (),
            {"HEADRACE_SERVER_HTP_PORT": "1"},
            "environment HEADRACE_SERVER_HTP_PORT: there is no setting 'htp_port'",
            id="an unknown variable",
        ),
        pytest.param(
            ("--enable_grpc", "maybe"),
            {},
            "--enable_grpc 'maybe': expected one of "
            "0, 1, f, false, n, no, off, on, t, true, y, yes",
            id="no boolean",
        ),
        pytest.param(
            ("--grpc_port", "many"),
            {},
            "bad setting: Expected `int`, got `str` - at `$.grpc_port`; see --help for the names",
            id="no number",
        ),
        pytest.param(
            ("--listen", "later"),
            {},
            "bad setting: Invalid enum value 'later' - at `$.listen`; see --help for the names",
            id="no choice",
        ),
        pytest.param(
            ("--predictor_protocol", "v3"),
            {},
            "--predictor_protocol v3: expected one of v1, v2, grpc-v2",
            id="no protocol",
        ),
        pytest.param(
            ("--settings_file", "/no/such.yaml"),
            {},
            "--settings_file /no/such.yaml: [Errno 2] No such file or directory: '/no/such.yaml'",
            id="no file",
        ),
    ],
)
def test_what_cannot_be_used(argv: tuple[str, ...], env: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(*argv, env=env)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- http_port", "--settings_file {path}: expected a mapping of settings"),
        (
            "htp_port: 1",
            "bad setting: Object contains unknown field `htp_port`; see --help for the names",
        ),
    ],
)
def test_files_that_cannot_be_used(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        settings("--settings_file", str(path))
    assert str(caught.value) == says.format(path=path)


@pytest.mark.parametrize(
    "name", ["HEADRACE_SERVER_HTTP_PORT", "HEADRACE_SERVER_PORT", "HEADRACE_SERVER_PORT_8080_TCP"]
)
def test_variables_that_kubernetes_makes_of_a_service_are_no_settings(name: str) -> None:
    assert settings(env={name: "tcp://10.0.0.1:8080"}).http_port == 8080


def test_kserves_variables() -> None:
    env = {"KSERVE_TLS_CERT_FILE": "c", "KSERVE_TLS_KEY_FILE": "k", "KSERVE_LOGLEVEL": "DEBUG"}
    read = settings(env=env)
    assert (read.ssl_certfile, read.ssl_keyfile, read.log_level) == ("c", "k", "DEBUG")
    assert settings(env={**env, "HEADRACE_SERVER_LOG_LEVEL": "ERROR"}).log_level == "ERROR"


def test_tls_files_move_the_http_port() -> None:
    assert settings("--ssl_certfile", "c").http_port == 8443
    assert settings("--ssl_certfile", "c", "--http_port", "8080").http_port == 8080


def test_protocol_is_another_name_of_predictor_protocol() -> None:
    assert settings("--protocol", "v2").predictor_protocol == "v2"
    assert settings("--protocol", "v2", "--predictor_protocol", "v1").predictor_protocol == "v1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--http_port", "70000"], "--http_port 70000: expected 0 to 65535"),
        (["--grpc-port", "-1"], "--grpc_port -1: expected 0 to 65535"),
        (["--workers", "0"], "--workers 0: expected 1 or more"),
        (["--instances", "0"], "--instances 0: expected 1 or more"),
        (["--nthread", "-3"], "--nthread -3: expected 1 or more"),
        (["--request_timeout", "-1"], "--request_timeout -1.0: expected 0 or more"),
    ],
)
def test_numbers_out_of_their_bounds(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_sources(flags, {})
    assert str(caught.value) == message


def test_grpc_message_lengths_may_be_unlimited() -> None:
    given, _ = Settings.from_sources(["--grpc_max_send_message_length", "-1"], {})
    assert given.grpc_max_send_message_length == -1
