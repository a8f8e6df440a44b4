"""InferenceService v1beta1 (control-plane contract §2).

Names are the manifest's in snake_case. A field typed `T | None` tells unset from zero, as a Go
pointer does; a field made by a factory is written even when it is zero, as KServe writes it.
PodSpec and Container are inlined in the manifest, and are one field here (`pod`, `container`).
"""

from typing import Annotated, Any

import msgspec

from headrace.controller.api.pod import Container, Open, PodSpec

INLINE = msgspec.Meta(extra={"inline": True})

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"

# The legacy blocks in the order in which defaulting looks for them (§2.6 step 2).
LEGACY_FRAMEWORKS = (
    *("sklearn", "tensorflow", "xgboost", "pytorch", "triton"),
    *("onnx", "huggingface", "pmml", "lightgbm", "paddle"),
)


class Part(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", dict=False
):
    """A piece of a manifest: camelCase outside, what has its default left out."""


class ObjectMeta(Part, frozen=True):
    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[Open] = []
    managed_fields: list[Open] = []
    generation: int | None = None
    resource_version: str | None = None
    uid: str | None = None
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    self_link: str | None = None


class ModelFormat(Part, frozen=True):
    name: str = msgspec.field(default_factory=str)
    version: str | None = None


class StorageSpec(Part, frozen=True):
    path: str | None = None
    schema_path: str | None = None
    key: str | None = None
    parameters: dict[str, str] | None = None


class Confidential(Part, frozen=True):
    enabled: bool = msgspec.field(default_factory=bool)
    resource_id: str | None = None


class StorageUri(Part, frozen=True):
    uri: str = msgspec.field(default_factory=str)
    mount_path: str = msgspec.field(default_factory=lambda: "/mnt/models")


class Framework(Part, frozen=True):
    """PredictorExtensionSpec: a legacy framework block, and what `model` adds to."""

    storage_uri: str | None = None
    runtime_version: str | None = None
    protocol_version: str | None = None
    storage: StorageSpec | None = None
    confidential: Confidential | None = None
    container: Annotated[Container, INLINE] = msgspec.field(default_factory=Container)


class Model(Framework, frozen=True):
    model_format: ModelFormat = msgspec.field(default_factory=lambda: ModelFormat())
    runtime: str | None = None


class MetricTarget(Part, frozen=True):
    type: str = ""
    value: str | int | None = None
    average_value: str | int | None = None
    average_utilization: int | None = None

    def __post_init__(self) -> None:
        """Quantities are stored as text, whatever the manifest wrote."""
        for name in ("value", "average_value"):
            if isinstance(getattr(self, name), int):
                msgspec.structs.force_setattr(self, name, str(getattr(self, name)))


class ResourceMetric(Part, frozen=True):
    name: str = ""
    target: MetricTarget = MetricTarget()


class ExternalMetric(Part, frozen=True):
    metric: Open = {}
    authentication_ref: Open | None = None
    target: MetricTarget = MetricTarget()


class PodMetric(Part, frozen=True):
    metric: Open = {}
    target: MetricTarget = MetricTarget()


class MetricSpec(Part, frozen=True):
    type: str = msgspec.field(default_factory=str)
    resource: ResourceMetric | None = None
    external: ExternalMetric | None = None
    podmetric: PodMetric | None = None


class AutoScaling(Part, frozen=True):
    metrics: list[MetricSpec] | None = None
    behavior: Open | None = None


class LoggerStorage(Part, frozen=True):
    path: str | None = None
    parameters: dict[str, str] | None = None
    key: str | None = None
    service_account_name: str | None = None


class Logger(Part, frozen=True):
    url: str | None = None
    mode: str = ""
    metadata_headers: list[str] = []
    metadata_annotations: list[str] = []
    storage: LoggerStorage | None = None
    marshaller_url: str | None = None
    batch_size: int | None = None
    batch_interval: str | None = None


class Batcher(Part, frozen=True):
    max_batch_size: int | None = None
    max_latency: int | None = None  # ms
    timeout: int | None = None


class DeploymentStrategy(Part, frozen=True):
    type: str | None = None
    rolling_update: Open | None = None


class Component(Part, frozen=True):
    """What predictor, transformer and explainer share: ComponentExtensionSpec and a PodSpec."""

    min_replicas: int | None = None  # None behaves as 1
    max_replicas: int | None = None  # None and 0: no bound
    scale_target: int | None = None
    scale_metric: str | None = None
    scale_metric_type: str | None = None
    auto_scaling: AutoScaling | None = None
    container_concurrency: int | None = None
    timeout: int | None = None  # s
    canary_traffic_percent: int | None = None
    logger: Logger | None = None
    batcher: Batcher | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deployment_strategy: DeploymentStrategy | None = None
    storage_uris: list[StorageUri] | None = None
    pod: Annotated[PodSpec, INLINE] = msgspec.field(default_factory=PodSpec)

    @property
    def containers(self) -> list[Container]:
        return self.pod.get("containers", [])


class WorkerSpec(Part, frozen=True):
    pipeline_parallel_size: int | None = None
    tensor_parallel_size: int | None = None
    pod: Annotated[PodSpec, INLINE] = msgspec.field(default_factory=PodSpec)


class Predictor(Component, frozen=True):
    name: str = ""
    model: Model | None = None
    sklearn: Framework | None = None
    xgboost: Framework | None = None
    tensorflow: Framework | None = None
    pytorch: Framework | None = None
    triton: Framework | None = None
    onnx: Framework | None = None
    huggingface: Framework | None = None
    pmml: Framework | None = None
    lightgbm: Framework | None = None
    paddle: Framework | None = None
    storage_container_name: str | None = None
    worker_spec: WorkerSpec | None = None

    def frameworks(self) -> dict[str, Framework]:
        """The blocks that name a model, by their key: the legacy ones, then `model`."""
        blocks = {key: getattr(self, key) for key in (*LEGACY_FRAMEWORKS, "model")}
        return {key: block for key, block in blocks.items() if block is not None}


class Transformer(Component, frozen=True):
    pass


class Art(Part, frozen=True):
    type: str = msgspec.field(default_factory=str)
    storage_uri: str | None = None
    runtime_version: str | None = None
    config: dict[str, str] = {}
    storage: StorageSpec | None = None
    container: Annotated[Container, INLINE] = msgspec.field(default_factory=Container)


class Explainer(Component, frozen=True):
    art: Art | None = None


class Canary(Part, frozen=True):
    predictor: Predictor = msgspec.field(default_factory=lambda: Predictor())
    traffic_percent: int = msgspec.field(default_factory=int)


class InferenceServiceSpec(Part, frozen=True):
    predictor: Predictor = msgspec.field(default_factory=lambda: Predictor())
    transformer: Transformer | None = None
    explainer: Explainer | None = None
    canary: list[Canary] = []

    def components(self) -> dict[str, Component]:
        """Those present, by their key, in KServe's order of defaulting."""
        present = {"transformer": self.transformer, "explainer": self.explainer}
        found: dict[str, Component] = {k: c for k, c in present.items() if c is not None}
        return {**found, "predictor": self.predictor}


class InferenceService(Part, frozen=True):
    api_version: str = msgspec.field(default_factory=lambda: API_VERSION)
    kind: str = msgspec.field(default_factory=lambda: KIND)
    metadata: ObjectMeta = ObjectMeta()
    spec: InferenceServiceSpec = msgspec.field(default_factory=lambda: InferenceServiceSpec())
    status: dict[str, Any] = {}
