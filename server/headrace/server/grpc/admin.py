"""Operator calls of the inference service: repository, configuration, statistics, settings."""

from collections.abc import Mapping
from typing import Any

from headrace.server import doors
from headrace.server.control import Control
from headrace.server.dataplane import DataPlane
from headrace.server.errors import InvalidInput, Unsupported
from headrace.server.grpc.calls import UnaryCall
from headrace.server.grpc.messages import from_json, message_class
from headrace.server.settings import Settings

SHARED_MEMORY = tuple(
    f"{kind}SharedMemory{action}"
    for kind in ("System", "Cuda")
    for action in ("Status", "Register", "Unregister")
)


class Admin:
    """Every call goes through control, which reaches all workers."""

    def __init__(self, plane: DataPlane, control: Control, settings: Settings) -> None:
        self._plane = plane
        self._control = control
        self._settings = settings

    def calls(self) -> dict[str, UnaryCall]:
        """From the parsed request to the answer, by the RPC's name."""
        return {
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "TraceSetting": self.trace_setting,
            "LogSettings": self.log_settings,
            **dict.fromkeys(SHARED_MEMORY, self.shared_memory),
        }

    async def repository_index(self, request: Any) -> Any:
        rows = [entry.to_json() for entry in await self._control.index(request.ready)]
        return from_json("inference.RepositoryIndexResponse", {"models": rows})

    async def load(self, request: Any) -> Any:
        parameters = _values(request.parameters)
        doors.check_load(self._settings, parameters)
        name = _model_name(request)
        await self._control.load(name, parameters)
        reply = message_class("inference.RepositoryModelLoadResponse")
        return reply(model_name=name, isLoaded=True)

    async def unload(self, request: Any) -> Any:
        doors.check_repository(self._settings)
        name = _model_name(request)
        await self._control.unload(name)
        reply = message_class("inference.RepositoryModelUnloadResponse")
        return reply(model_name=name, isUnloaded=True)

    async def model_config(self, request: Any) -> Any:
        config = self._plane.model_config(request.name, request.version)
        return from_json("inference.ModelConfigResponse", {"config": config})

    async def model_statistics(self, request: Any) -> Any:
        rows = await self._control.statistics(request.name, request.version)
        return from_json("inference.ModelStatisticsResponse", {"model_stats": rows})

    async def trace_setting(self, request: Any) -> Any:
        """A setting without a value is reset, as Triton's clients mean it."""
        changes = {key: _trace_value(key, entry) for key, entry in request.settings.items()}
        found = await self._control.trace_settings(request.model_name or None, changes or None)
        reply = message_class("inference.TraceSettingResponse")()
        for key, value in found.items():
            values = [value] if isinstance(value, str) else value
            reply.settings[key].value.extend(str(each) for each in values)
        return reply

    async def log_settings(self, request: Any) -> Any:
        changes = _values(request.settings)
        found = await self._control.log_settings(changes or None)
        reply = message_class("inference.LogSettingsResponse")()
        for key, value in found.items():
            entry = reply.settings[key]
            if isinstance(value, bool):
                entry.bool_param = value
            elif isinstance(value, int):
                entry.uint32_param = value
            else:
                entry.string_param = str(value)
        return reply

    async def shared_memory(self, request: Any) -> Any:
        raise Unsupported("this server has no shared memory; send tensors in the request")


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a map of oneofs called parameter_choice; entries without one are left out."""
    chosen = {key: entry.WhichOneof("parameter_choice") for key, entry in fields.items()}
    return {key: getattr(fields[key], kind) for key, kind in chosen.items() if kind}


def _model_name(request: Any) -> str:
    """KServe's clients write the name where Triton's write the repository's (contract §3.7)."""
    name: str = request.model_name or request.repository_name
    if not name:
        raise InvalidInput("model_name: expected the name of a model, got nothing")
    return name


def _trace_value(key: str, entry: Any) -> Any:
    values = list(entry.value)
    if not values:
        return None
    return values if key == "trace_level" else values[0]
