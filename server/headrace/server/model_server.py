"""`ModelServer`: how a KServe program serves its own models (data-plane contract §6.3).

    if __name__ == "__main__":
        model = MyModel(args.model_name)
        model.load()
        ModelServer().start([model])

`parser` holds KServe's flags, for programs that add their own to them; `args` is what the command
line, the environment and a settings file say. Both are made when first asked for: an import reads
no command line. What the constructor is told wins over all of them.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from headrace.server import predictor_config as process_predictor
from headrace.server.batch_settings import BatchWishes
from headrace.server.execution import QueueLimits
from headrace.server.hooks import is_overridden
from headrace.server.model import Model
from headrace.server.model_repository import ModelRepository, RepositoryLoader
from headrace.server.predict_io import strtobool
from headrace.server.predictor_config import PredictorConfig
from headrace.server.repository import Repository
from headrace.server.settings import PROTOCOLS, Settings, SettingsError

if TYPE_CHECKING:
    args: argparse.Namespace
    parser: argparse.ArgumentParser

# Only these: a program that takes `parser` as a parent adds --model_dir, --nthread, … itself
KSERVE_FLAGS = (
    "http_port",
    "grpc_port",
    "workers",
    "max_threads",
    "max_asyncio_workers",
    "enable_grpc",
    "enable_docs_url",
    "enable_latency_logging",
    "configure_logging",
    "log_config_file",
    "access_log_format",
    "event_loop",
    "timeout_keep_alive",
    "model_name",
    "predictor_host",
    "protocol",
    "predictor_protocol",
    "predictor_use_ssl",
    "predictor_request_timeout_seconds",
    "predictor_request_retries",
    "enable_predictor_health_check",
    "grpc_max_send_message_length",
    "grpc_max_receive_message_length",
    "ssl_certfile",
    "ssl_keyfile",
)


class ModelServer:
    """Serves models on every address. An argument left out is the command line's or its default."""

    def __init__(
        self,
        http_port: int | None = None,
        grpc_port: int | None = None,
        workers: int | None = None,
        max_threads: int | None = None,
        max_asyncio_workers: int | None = None,
        registered_models: ModelRepository | None = None,
        enable_grpc: bool | None = None,
        enable_docs_url: bool | None = None,
        enable_latency_logging: bool | None = None,
        access_log_format: str | None = None,
        event_loop: str | None = None,
        timeout_keep_alive: int | None = None,
        grace_period: float | None = None,
        predictor_config: PredictorConfig | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
    ) -> None:
        given = {
            "http_port": http_port,
            "grpc_port": grpc_port,
            "workers": workers,
            "max_threads": max_threads,
            "max_asyncio_workers": max_asyncio_workers,
            "enable_grpc": enable_grpc,
            "enable_docs_url": enable_docs_url,
            "enable_latency_logging": enable_latency_logging,
            "access_log_format": access_log_format,
            "event_loop": event_loop,
            "timeout_keep_alive": timeout_keep_alive,
            "grace_period": grace_period,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
        }
        told = {name: value for name, value in given.items() if value is not None}
        self.settings = msgspec.structs.replace(command_line(), **told)
        self.registered_models = registered_models or ModelRepository()
        config = predictor_config or to_predictor_config(self.settings)
        if config is not None:
            process_predictor.set_of_process(config)

    def start(self, models: Sequence[Model]) -> None:
        """Serve models until a signal ends the process. Blocks.

        A model whose `ready` is False is served too, and answers 503 until it is ready. Models may
        also come from `registered_models`, whose `load` answers load requests.
        """
        for model in models:
            self.register_model(model)
            if is_overridden(model.start):  # the default would call a model ready that is not
                model.start()
        # not at the top: the transport and both edges come with it
        from headrace.server import workers
        from headrace.server.logging import configure

        configure(self.settings)
        code = workers.run(self.settings, self._repository)
        if code:
            raise SystemExit(code)

    async def stop(self, sig: int | None = None) -> None:
        """Drain and end this process's server, as the signal sig would; SIGTERM if none is said."""
        os.kill(os.getpid(), sig or signal.SIGTERM)

    def register_model(self, model: Model, name: str | None = None) -> None:
        """Serve model, also under name. Raises ValueError for a model without a name."""
        if not model.name:
            raise ValueError("Failed to register model, model.name must be provided.")
        self.registered_models.update(model, name)

    def _repository(self, settings: Settings) -> Repository:
        limits = QueueLimits(settings.max_queue_requests, settings.max_queue_bytes)
        wishes = BatchWishes(
            settings.max_batch_size,
            settings.max_batch_delay_ms / 1e3,
            settings.target_latency_ms / 1e3,
        )
        return Repository(
            RepositoryLoader(self.registered_models, limits, wishes, settings.isolation)
        )


def to_predictor_config(settings: Settings) -> PredictorConfig | None:
    """The predictor that settings name; None where they name none."""
    if not settings.predictor_host:
        return None
    return PredictorConfig(
        settings.predictor_host,
        settings.predictor_protocol,
        settings.predictor_use_ssl,
        settings.predictor_request_timeout_seconds,
        settings.predictor_request_retries,
        settings.enable_predictor_health_check,
        settings.forward_headers,
    )


@cache
def command_line() -> Settings:
    """This process's settings; unknown flags are somebody else's. Exits 2 on a bad one."""
    try:
        settings, _ = Settings.from_sources(sys.argv[1:], os.environ)
    except SettingsError as err:
        print(f"{sys.argv[0]}: {err}", file=sys.stderr)
        raise SystemExit(2) from err
    return settings


def kserve_parser() -> argparse.ArgumentParser:
    """KServe's flags with types and defaults, in both spellings, for use as a parent."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    hints = get_type_hints(Settings)
    texts = get_type_hints(Settings, include_extras=True)
    defaults = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
    for name in KSERVE_FLAGS:
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        text = texts[name].__metadata__[0].description
        options: dict[str, Any] = {"default": defaults[name], "dest": name, "help": text}
        if hints[name] is bool:
            options |= {"type": strtobool, "nargs": "?", "const": True}
        elif hints[name] in (int, int | None):
            options["type"] = int
        if name in ("protocol", "predictor_protocol"):
            options["choices"] = PROTOCOLS
        flags.add_argument(*spellings, **options)
    return flags


@cache
def _parser() -> argparse.ArgumentParser:
    return kserve_parser()


@cache
def _args() -> argparse.Namespace:
    return argparse.Namespace(**msgspec.structs.asdict(command_line()))


def __getattr__(name: str) -> Any:
    if name == "parser":
        return _parser()
    if name == "args":
        return _args()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
