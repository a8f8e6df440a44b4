"""The one place that configures logging; everything else only asks for a logger.

JSON lines (a constant message, the figures as fields) or KServe's text. KServe's programs call
`configure_logging(args.log_config_file)` themselves, so that name and its rules are KServe's.
"""

import configparser
import json
import logging
import logging.config
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from headrace.server.settings import Settings, SettingsError

KSERVE_LOGGER_NAME = "kserve"
logger = logging.getLogger(KSERVE_LOGGER_NAME)

TEXT_FORMAT = (
    "%(asctime)s.%(msecs)03d %(process)s %(name)s %(levelname)s "
    "[%(filename)s:%(funcName)s():%(lineno)s] %(message)s"
)
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
# what reading a config file, and logging.config at what it says, raise
BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(configparser.Error, yaml.YAMLError),
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD and k not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """KServe's line, and the fields of `extra` behind it."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT, DATE_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        text = super().formatMessage(record)
        return text + "".join(f" {name}={value}" for name, value in fields.items())


def configure(settings: Settings) -> None:
    """Set up logging as settings say, unless they leave it to the program.

    Raises SettingsError for a level or a config file that cannot be used.
    """
    if not settings.configure_logging:
        return
    if settings.log_config_file:
        configure_logging(settings.log_config_file)
        return
    if settings.log_format not in ("json", "text"):
        raise SettingsError(f"--log_format {settings.log_format}: expected json or text")
    level = logging.getLevelName(settings.log_level.upper())
    if not isinstance(level, int):
        raise SettingsError(
            f"--log_level {settings.log_level}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def configure_logging(config: Mapping[str, Any] | str | None = None) -> None:
    """KServe's: a dict, or the path of a .json, .yaml, .yml or ini file; None keeps what is there.

    Raises SettingsError naming the file and what is wrong with it.
    """
    if config is None:
        if not logging.getLogger().handlers:
            configure(Settings(log_format="text"))
        return
    if isinstance(config, Mapping):
        logging.config.dictConfig(dict(config))
        return
    path = Path(config)
    try:
        text = path.read_text()  # fileConfig would take a missing file for an empty one
        if path.suffix in (".yaml", ".yml", ".json"):  # JSON is YAML too
            logging.config.dictConfig(yaml.safe_load(text))
        else:
            ini = configparser.ConfigParser()
            ini.read_string(text, str(path))
            logging.config.fileConfig(ini, disable_existing_loggers=False)
    except BROKEN as err:
        raise SettingsError(f"--log_config_file {path}: {type(err).__name__}: {err}") from err
