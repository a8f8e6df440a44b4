"""The runtimes of our own: `headrace-<format>`, one per predictor (design §4).

The format versions are those that KServe's runtimes list (contract §4.6). The priority is above
every one of KServe's, so where both are installed a model without a named runtime gets ours.
"""

from headrace.controller.annotations import MODEL_MOUNT, SERVER_TYPE
from headrace.controller.api.inference_service import ObjectMeta
from headrace.controller.api.pod import PREDICTOR_CONTAINER, Container, PodSpec, Resources
from headrace.controller.api.serving_runtime import (
    CLUSTER_KIND,
    ServingRuntime,
    ServingRuntimeSpec,
    SupportedFormat,
)

OUR_SERVER_TYPE = "headrace"
IMAGE = "headrace/server:latest"
PRIORITY = 100
PROTOCOLS = ["v1", "v2", "grpc-v2"]
VERSIONS = {
    "custom": ("1",),  # a Python file with a Model; not a format of KServe's
    "lightgbm": ("3", "4"),
    "mlflow": ("1", "2"),
    "onnx": ("1",),
    "pytorch": ("1",),
    "sklearn": ("0", "1"),
    "xgboost": ("1", "2"),
}


def runtime_name(model_format: str) -> str:
    return f"headrace-{model_format}"


def _runtime(model_format: str, versions: tuple[str, ...]) -> ServingRuntime:
    container = Container(
        name=PREDICTOR_CONTAINER,
        image=IMAGE,
        args=[
            "--model_name={{.Name}}",
            f"--model_dir={MODEL_MOUNT}",
            "--http_port=8080",
            f"--framework={model_format}",
        ],
        resources=Resources(
            requests={"cpu": "1", "memory": "2Gi"}, limits={"cpu": "1", "memory": "2Gi"}
        ),
        securityContext={
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
    )
    offered = [
        SupportedFormat(name=model_format, version=version, auto_select=True, priority=PRIORITY)
        for version in versions
    ]
    return ServingRuntime(
        kind=CLUSTER_KIND,
        metadata=ObjectMeta(
            name=runtime_name(model_format), annotations={SERVER_TYPE: OUR_SERVER_TYPE}
        ),
        spec=ServingRuntimeSpec(
            supported_model_formats=offered,
            protocol_versions=PROTOCOLS,
            annotations={
                "prometheus.kserve.io/port": "8080",
                "prometheus.kserve.io/path": "/metrics",
            },
            pod=PodSpec(containers=[container]),
        ),
    )


BUILTIN = tuple(_runtime(model_format, versions) for model_format, versions in VERSIONS.items())
