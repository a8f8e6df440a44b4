"""Every knob of the server: type, unit, default. Only shells hand it argv and the environment.

A flag wins over the environment (HEADRACE_SERVER_<NAME>), the environment over a settings file
(--settings_file, YAML or JSON), the file over the default. Flags are spelled with `_` or `-`.
KServe's flags keep KServe's names and defaults (data-plane contract §6.3), its variables theirs.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

import msgspec
import yaml

PREFIX = "HEADRACE_SERVER_"
TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
COUNTED = frozenset({"workers", "instances", "nthread", "max_threads", "max_asyncio_workers"})
PORTS, MAX_PORT = frozenset({"http_port", "grpc_port"}), 65535
REPEATED = frozenset({"model"})
PROTOCOLS = ("v1", "v2", "grpc-v2")


class ReadyPolicy(StrEnum):
    ALL = "all"  # every start-up model answers
    ANY = "any"
    NONE = "none"  # ready as soon as it listens


class Listen(StrEnum):
    READY = "ready"  # open the ports when the start-up models are loaded
    NOW = "now"  # at once; 503 until they are


class Isolation(StrEnum):
    AUTO = "auto"  # measured warm-up decides inline or thread
    INLINE = "inline"
    THREAD = "thread"
    PROCESS = "process"  # one child per instance


class SettingsError(ValueError):
    """A setting that cannot be used; the text names it, its source, and what was expected."""


def doc(text: str) -> Any:
    return msgspec.Meta(description=text)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    # KServe's
    http_port: Annotated[int, doc("HTTP port (8443 with TLS files and no port given); 0: any")] = (
        8080
    )
    grpc_port: Annotated[int, doc("gRPC port; 0: any free one")] = 8081
    workers: Annotated[int, doc("worker processes on one port")] = 1
    max_threads: Annotated[int, doc("threads of the gRPC pool (accepted; not used)")] = 4
    max_asyncio_workers: Annotated[int | None, doc("threads of the loop's default pool")] = None
    enable_grpc: Annotated[bool, doc("serve gRPC")] = True
    enable_docs_url: Annotated[bool, doc("serve /docs")] = False
    enable_latency_logging: Annotated[bool, doc("one line of stage times per request")] = False
    configure_logging: Annotated[bool, doc("set up logging; false leaves it to the program")] = True
    log_config_file: Annotated[str | None, doc("logging config: .json, .yaml, .yml or ini")] = None
    access_log_format: Annotated[str | None, doc("access log, a %-format; off when unset")] = None
    event_loop: Annotated[str, doc("auto, asyncio or uvloop")] = "auto"
    timeout_keep_alive: Annotated[int, doc("seconds an idle HTTP connection stays open")] = 65
    model_name: Annotated[str, doc("name the model is served under")] = "model"
    model_dir: Annotated[str, doc("folder (or model file) to load")] = "/mnt/models"
    predictor_host: Annotated[str | None, doc("host[:port] a transformer forwards to")] = None
    protocol: Annotated[str, doc("deprecated spelling of --predictor_protocol")] = "v1"
    predictor_protocol: Annotated[str, doc("v1, v2 or grpc-v2, spoken to --predictor_host")] = "v1"
    predictor_use_ssl: Annotated[bool, doc("TLS to --predictor_host")] = False
    predictor_request_timeout_seconds: Annotated[int, doc("whole forwarded request, s")] = 600
    predictor_request_retries: Annotated[int, doc("retries of a refused forward")] = 0
    enable_predictor_health_check: Annotated[bool, doc("readiness asks the predictor too")] = False
    grpc_max_send_message_length: Annotated[int | None, doc("bytes; default unlimited")] = None
    grpc_max_receive_message_length: Annotated[
        int | None, doc("bytes; default --max_body_bytes")
    ] = None
    ssl_certfile: Annotated[str | None, doc("TLS certificate; env KSERVE_TLS_CERT_FILE")] = None
    ssl_keyfile: Annotated[str | None, doc("TLS key; env KSERVE_TLS_KEY_FILE")] = None
    ssl_ca_certs: Annotated[
        str | None, doc("CA file: clients must show a certificate that it signed, HTTP and gRPC")
    ] = None
    ce_source: Annotated[str | None, doc("source of answered CloudEvents; env CE_SOURCE")] = None
    ce_type: Annotated[str | None, doc("type of answered CloudEvents; env CE_TYPE")] = None
    ce_merge: Annotated[bool, doc("answer with the request's attributes; env CE_MERGE")] = False
    # Ours: what to load and what it may do
    model: Annotated[
        tuple[str, ...], doc("name=path or name=format:path, repeatable; instead of --model_dir")
    ] = ()
    host: Annotated[
        str, doc("address to bind, or unix:/path for one socket; empty: every address")
    ] = ""
    framework: Annotated[str | None, doc("predictor to load with; default: the files say")] = None
    model_repository: Annotated[
        str | None, doc("folder of models, one sub-folder each (Triton's or MLServer's layout)")
    ] = None
    nthread: Annotated[int | None, doc("CPU threads per model instance; default: divided")] = None
    instances: Annotated[int, doc("instances per model, each running one call at a time")] = 1
    isolation: Annotated[Isolation, doc("where models run: auto, inline, thread, process")] = (
        Isolation.AUTO
    )
    memory_limit_bytes: Annotated[
        int | None,
        doc("memory all workers may use; 0: no limit; default: the container's limit, if any"),
    ] = None
    evict_models: Annotated[
        bool, doc("unload idle models of --model_repository where a load needs their memory")
    ] = False
    max_batch_size: Annotated[
        int | None,
        doc("rows of a batch; 0 or 1: none; default: what pays where safe, no custom Model"),
    ] = None
    max_batch_delay_ms: Annotated[
        float, doc("milliseconds a request may wait for company; 0: only while instances are busy")
    ] = 0.0
    target_latency_ms: Annotated[
        float, doc("answer within so many milliseconds, refuse what cannot be; 0: no target")
    ] = 0.0
    trust_pickle: Annotated[bool, doc("load pickles without the allow list: runs any code")] = False
    trust_code: Annotated[bool, doc("run Python code that came with a downloaded model")] = False
    allow_repository: Annotated[
        bool | None, doc("open load/unload over the network; default: only on loopback")
    ] = None
    allow_file_upload: Annotated[bool, doc("accept `file:` parameters of a load request")] = False
    # Ours: operation
    listen: Annotated[Listen, doc("ready: open ports when models are loaded; now: at once")] = (
        Listen.READY
    )
    ready_policy: Annotated[ReadyPolicy, doc("all, any or none of the models make it ready")] = (
        ReadyPolicy.ALL
    )
    grace_period: Annotated[float, doc("seconds from SIGTERM to the end, drain included")] = 28.0
    drain_delay: Annotated[float, doc("seconds to go on serving after SIGTERM")] = 5.0
    request_timeout: Annotated[float, doc("seconds a request may take; 0: no limit")] = 0.0
    max_concurrency: Annotated[int, doc("requests in flight over gRPC; 0: no limit")] = 0
    metrics_triton: Annotated[bool, doc("expose the nv_inference_* metrics too")] = True
    compress_min_bytes: Annotated[
        int | None, doc("compress answers from this size for clients that merely advertise gzip")
    ] = None
    lenient_shapes: Annotated[bool, doc("accept ragged JSON data whose total count fits")] = False
    forward_headers: Annotated[
        tuple[str, ...], doc("more request headers a transformer passes on, comma-separated")
    ] = ()
    log_format: Annotated[str, doc("json or text")] = "json"
    log_level: Annotated[str, doc("INFO, DEBUG, …; env KSERVE_LOGLEVEL")] = "INFO"
    ready_file: Annotated[
        str | None, doc("written when the ports are open: JSON of pid, http and grpc port")
    ] = None
    settings_file: Annotated[str | None, doc("YAML or JSON file of these settings")] = None
    # Ours: limits, 0 = none (contract §8)
    max_body_bytes: Annotated[int, doc("request body, also after decompression")] = 1 << 30
    max_receiving_bytes: Annotated[
        int | None,
        doc(
            "requests that come in or are read, per worker; default: half its memory "
            "limit, if it has one"
        ),
    ] = None
    max_header_bytes: Annotated[int, doc("all request headers")] = 64 << 10
    max_headers: Annotated[int, doc("number of request headers")] = 100
    header_timeout_s: Annotated[float, doc("seconds to receive the headers")] = 10.0
    body_idle_timeout_s: Annotated[float, doc("seconds between two pieces of a body")] = 30.0
    write_idle_timeout_s: Annotated[
        float, doc("seconds in which a client takes nothing of its answer")
    ] = 60.0
    max_json_depth: Annotated[int, doc("nesting of a JSON body")] = 64
    max_queue_requests: Annotated[int, doc("requests waiting per model")] = 1024
    max_queue_bytes: Annotated[int, doc("bytes waiting per model")] = 1 << 30

    @classmethod
    def from_sources(
        cls, argv: Sequence[str], env: Mapping[str, str], **defaults: Any
    ) -> tuple[Self, list[str]]:
        """Settings from flags, environment, file, defaults, in that order; and what was unknown.

        defaults: this program's own, below the file. Raises SettingsError naming the bad setting.
        """
        known, unknown = parser().parse_known_args(list(argv))
        flags = {name: value for name, value in vars(known).items() if value is not None}
        given = from_env(env)
        path = flags.get("settings_file", given.get("settings_file"))
        file = read_file(Path(path)) if path else {}
        merged = {**defaults, **file, **given, **flags}
        if "protocol" in merged and "predictor_protocol" not in merged:
            merged["predictor_protocol"] = merged["protocol"]
        try:
            settings = msgspec.convert(
                {k: _plain(k, v) for k, v in merged.items()}, cls, strict=False
            )
        except msgspec.ValidationError as err:
            raise SettingsError(f"bad setting: {err}; see --help for the names") from err
        settings = msgspec.structs.replace(settings, **_implied(settings, merged))
        _check_bounds(settings)
        if settings.host.startswith("unix:") and settings.workers > 1:
            raise SettingsError(
                f"--host {settings.host}: a Unix socket has one listener, --workers "
                f"{settings.workers} needs a port; drop one of them"
            )
        for name in ("protocol", "predictor_protocol"):
            if getattr(settings, name) not in PROTOCOLS:
                raise SettingsError(
                    f"--{name} {getattr(settings, name)}: expected one of {', '.join(PROTOCOLS)}"
                )
        return settings, unknown


def _check_bounds(settings: Settings) -> None:
    """Raises SettingsError for a number that is none of a port, a count, a time or a limit."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name.startswith("grpc_max_"):  # gRPC's own -1 is no limit
            continue
        least = 1 if name in COUNTED else 0
        most = MAX_PORT if name in PORTS else None
        if value < least or (most is not None and value > most):
            wanted = f"{least} to {most}" if most is not None else f"{least} or more"
            raise SettingsError(f"--{name} {value}: expected {wanted}")


def _implied(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on other settings."""
    if settings.ssl_certfile and "http_port" not in given:
        return {"http_port": 8443}
    return {}


def from_env(env: Mapping[str, str]) -> dict[str, Any]:
    """HEADRACE_SERVER_HTTP_PORT=9000 sets http_port; KServe's own variables below them."""
    found: dict[str, Any] = {}
    for name, field in (
        ("KSERVE_TLS_CERT_FILE", "ssl_certfile"),
        ("KSERVE_TLS_KEY_FILE", "ssl_keyfile"),
        ("KSERVE_LOGLEVEL", "log_level"),
        ("CE_SOURCE", "ce_source"),
        ("CE_TYPE", "ce_type"),
        ("CE_MERGE", "ce_merge"),
    ):
        if env.get(name):
            found[field] = env[name]
    for name, value in env.items():
        # kubelet injects <SERVICE>_PORT=tcp://… for a Service called headrace-server
        if name.startswith(PREFIX) and not value.startswith("tcp://"):
            field = name.removeprefix(PREFIX).lower()
            if field.startswith(("port_", "service_")):
                continue
            if field not in Settings.__struct_fields__:
                raise SettingsError(f"environment {name}: there is no setting {field!r}")
            found[field] = value
    return found


def read_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as err:
        raise SettingsError(f"--settings_file {path}: {err}") from err
    if not isinstance(content, dict):
        raise SettingsError(f"--settings_file {path}: expected a mapping of settings")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def parser(shown: Mapping[str, str] | None = None) -> argparse.ArgumentParser:
    """All flags, both spellings, none with a default: absent ones stay None. `add_help` is off, so
    programs use it with `ArgumentParser(parents=[parser()])` as KServe's users do.

    shown: what help says of a default where a program has its own.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    hints = get_type_hints(Settings, include_extras=True)
    for name, default in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True):
        spellings = [f"--{name}"]
        if "_" in name:
            spellings.append(f"--{name.replace('_', '-')}")
        kind, text = _kind_and_help(hints[name])
        extra: dict[str, Any] = {}
        if kind is bool:
            extra = {"nargs": "?", "const": "true"}
        elif name in REPEATED:
            extra = {"action": "append"}
        flags.add_argument(
            *spellings,
            default=None,
            help=f"{text} (default: {(shown or {}).get(name, default)})".replace("%", "%%"),
            **extra,
        )
    return flags


def _kind_and_help(hint: Any) -> tuple[Any, str]:
    kind, meta = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    options = [option for option in get_args(kind) if option is not type(None)]
    if get_origin(kind) is not tuple and options:
        kind = options[0]
    return kind, str(meta.description) if meta else ""


_BOOLEANS = frozenset(
    name
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if _kind_and_help(hint)[0] is bool
)


def _plain(name: str, value: Any) -> Any:
    """A setting's text in the form msgspec converts: booleans in all of KServe's spellings."""
    if not isinstance(value, str):
        return value
    if name in _BOOLEANS:
        word = value.lower()
        if word not in TRUE | FALSE:
            raise SettingsError(
                f"--{name} {value!r}: expected one of {', '.join(sorted(TRUE | FALSE))}"
            )
        return word in TRUE
    if name in REPEATED:
        return [value]
    if name == "forward_headers":
        return [part.strip().lower() for part in value.split(",") if part.strip()]
    return value


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0))
