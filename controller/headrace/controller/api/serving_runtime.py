"""ServingRuntime and ClusterServingRuntime v1alpha1 (control-plane contract §4.1)."""

from typing import Annotated

import msgspec

from headrace.controller.api.inference_service import INLINE, ObjectMeta, Part, WorkerSpec
from headrace.controller.api.pod import Container, Open, PodSpec

API_VERSION = "serving.kserve.io/v1alpha1"
CLUSTER_KIND = "ClusterServingRuntime"
KINDS = ("ServingRuntime", CLUSTER_KIND)


class SupportedFormat(Part, frozen=True):
    name: str = ""
    version: str | None = None
    auto_select: bool | None = None
    priority: int | None = None


class ServingRuntimeSpec(Part, frozen=True):
    supported_model_formats: list[SupportedFormat] = msgspec.field(default_factory=list)
    multi_model: bool | None = None
    disabled: bool | None = None
    protocol_versions: list[str] = msgspec.field(default_factory=list)  # none: all
    worker_spec: WorkerSpec | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    # ModelMesh's, accepted and ignored
    grpc_endpoint: str | None = None
    grpc_data_endpoint: str | None = None
    http_data_endpoint: str | None = None
    replicas: int | None = None
    storage_helper: Open | None = None
    built_in_adapter: Open | None = None
    pod: Annotated[PodSpec, INLINE] = msgspec.field(default_factory=PodSpec)

    @property
    def containers(self) -> list[Container]:
        return self.pod.get("containers", [])


class ServingRuntime(Part, frozen=True):
    api_version: str = msgspec.field(default_factory=lambda: API_VERSION)
    kind: str = "ServingRuntime"
    metadata: ObjectMeta = ObjectMeta()
    spec: ServingRuntimeSpec = ServingRuntimeSpec()

    @property
    def is_cluster(self) -> bool:
        return self.kind == CLUSTER_KIND
