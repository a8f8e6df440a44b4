"""ConfigMap `inferenceservice-config`: the keys that admission reads (contract §10).

Each value of the ConfigMap is a JSON string. Defaults are those of the shipped ConfigMap.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from headrace.controller.errors import Denied


class Mode(StrEnum):
    KNATIVE = "Knative"
    STANDARD = "Standard"
    MODEL_MESH = "ModelMesh"


OLD_NAMES = {"Serverless": Mode.KNATIVE, "RawDeployment": Mode.STANDARD}
UNKNOWN_MODE = "invalid deployment mode. Supported modes are Knative, Standard and ModelMesh"


def mode_named(name: str) -> Mode:
    """Raises Denied for a name that is none, old names included."""
    if name in OLD_NAMES:
        return OLD_NAMES[name]
    try:
        return Mode(name)
    except ValueError:
        raise Denied(UNKNOWN_MODE) from None


class ComponentResources(msgspec.Struct, frozen=True, rename="camel"):
    """For containers of custom components that name none."""

    cpu_limit: str = "1"
    memory_limit: str = "2Gi"
    cpu_request: str = "1"
    memory_request: str = "2Gi"


class ArtImage(msgspec.Struct, frozen=True, rename="camel"):
    image: str = "kserve/art-explainer"
    default_image_version: str = "latest"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    default_mode: Mode | None = None  # None: no `deploy` key, which means Knative
    resources: ComponentResources | None = ComponentResources()  # None: none are filled in
    art: ArtImage = ArtImage()
    auto_mount_service_account_token: bool = True
    gpu_resource_types: tuple[str, ...] = ()

    @classmethod
    def from_config_map(cls, data: Mapping[str, str]) -> "Config":
        """Raises Denied for what blocks every InferenceService; unknown keys are others' affair."""
        deploy = _json(data, "deploy")
        mode = None
        if deploy is not None:
            if not deploy.get("defaultDeploymentMode"):
                raise Denied("invalid deploy config, defaultDeploymentMode is required")
            mode = mode_named(deploy["defaultDeploymentMode"])
        service = _json(data, "inferenceService")
        security = _json(data, "security") or {}
        multi_node = _json(data, "multiNode") or {}
        return cls(
            default_mode=mode,
            resources=None
            if service is None
            else _typed(service.get("resource", {}), ComponentResources, "inferenceService"),
            art=_typed((_json(data, "explainers") or {}).get("art", {}), ArtImage, "explainers"),
            auto_mount_service_account_token=security.get("autoMountServiceAccountToken", True),
            gpu_resource_types=tuple(multi_node.get("customGPUResourceTypeList") or ()),
        )


def _json(data: Mapping[str, str], key: str) -> dict[str, Any] | None:
    if key not in data:
        return None
    try:
        return msgspec.json.decode(data[key], type=dict[str, Any])
    except msgspec.DecodeError as err:
        raise Denied(f"invalid {key} config: {err}") from err


def _typed(value: Any, kind: Any, key: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as err:
        raise Denied(f"invalid {key} config: {err}") from err
