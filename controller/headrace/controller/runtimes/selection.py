"""Which runtime serves a model (contract §4.2): the one it names, or the best that supports it."""

from collections.abc import Iterable, Sequence

from headrace.controller.api.inference_service import Model, ModelFormat
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.errors import Failure, InvalidPredictor

PROTOCOL_RANK = {"v1": 0, "v2": 1, "grpc-v1": 2, "grpc-v2": 3}
UNKNOWN_RANK = len(PROTOCOL_RANK)


def select_runtime(
    model: Model, runtimes: Iterable[ServingRuntime], *, has_worker: bool = False
) -> ServingRuntime:
    """runtimes: those of the service's namespace, and the cluster's.

    has_worker: the predictor has a workerSpec. Raises InvalidPredictor.
    """
    namespaced: list[ServingRuntime] = []
    cluster: list[ServingRuntime] = []
    for runtime in runtimes:
        (cluster if runtime.is_cluster else namespaced).append(runtime)
    if model.runtime is not None:
        return _named(model, [*namespaced, *cluster])
    found = [
        *_supporting(model, namespaced, has_worker=has_worker),
        *_supporting(model, cluster, has_worker=has_worker),
    ]
    if not found:
        raise InvalidPredictor(
            Failure.NO_SUPPORTING_RUNTIME,
            f"no runtime found to support predictor with model type: {_shown(model.model_format)}",
            "No runtime found to support specified framework/version",
        )
    return found[0]


def protocol_of(model: Model, runtime: ServingRuntime) -> str:
    """What the predictor speaks: what the model says, else the runtime's simplest."""
    offered = runtime.spec.protocol_versions
    return model.protocol_version or min(offered, key=_rank, default="v1")


def _named(model: Model, runtimes: Sequence[ServingRuntime]) -> ServingRuntime:
    name = model.runtime
    runtime = next((each for each in runtimes if each.metadata.name == name), None)
    if runtime is None:
        raise InvalidPredictor(
            Failure.RUNTIME_NOT_RECOGNIZED,
            f"No ServingRuntimes or ClusterServingRuntimes with the name: {name}",
            "Waiting for runtime to become available",
        )
    if runtime.spec.disabled:
        raise InvalidPredictor(
            Failure.RUNTIME_DISABLED,
            f"specified runtime {name} is disabled",
            "Specified runtime is disabled",
        )
    offered = runtime.spec.protocol_versions
    if model.protocol_version and offered and model.protocol_version not in offered:
        raise InvalidPredictor(
            Failure.NO_SUPPORTING_RUNTIME,
            f"specified runtime {name} does not support specified protocol version",
            "Specified runtime does not support specified protocol version",
        )
    if not _supports_format(model.model_format, runtime, automatic=False):
        raise InvalidPredictor(
            Failure.NO_SUPPORTING_RUNTIME,
            f"specified runtime {name} does not support specified framework/version",
            "Specified runtime does not support specified framework/version",
        )
    return runtime


def _supporting(
    model: Model, runtimes: Iterable[ServingRuntime], *, has_worker: bool
) -> list[ServingRuntime]:
    """Those that may be chosen, best first."""
    protocol = model.protocol_version or "v1"
    ranked = sorted(runtimes, key=lambda each: each.metadata.name)
    ranked.sort(key=lambda each: each.metadata.creation_timestamp, reverse=True)  # newest first
    ranked.sort(key=_lowest_rank)
    found = [
        each
        for each in ranked
        if not each.spec.disabled
        and not each.spec.multi_model
        and _supports_format(model.model_format, each, automatic=True)
        and (not each.spec.protocol_versions or protocol in each.spec.protocol_versions)
        and (each.spec.worker_spec is not None) == has_worker
    ]
    found.sort(key=lambda each: -_priority(model.model_format.name, each))
    return found


def _supports_format(wanted: ModelFormat, runtime: ServingRuntime, *, automatic: bool) -> bool:
    return any(
        offered.name == wanted.name
        and (wanted.version is None or offered.version == wanted.version)
        and (offered.auto_select or not automatic)
        for offered in runtime.spec.supported_model_formats
    )


def _priority(name: str, runtime: ServingRuntime) -> int:
    """Of the first entry of that name; 0, below every priority, where it has none."""
    for offered in runtime.spec.supported_model_formats:
        if offered.name == name:
            return offered.priority or 0
    return 0


def _lowest_rank(runtime: ServingRuntime) -> int:
    return min(map(_rank, runtime.spec.protocol_versions), default=UNKNOWN_RANK)


def _rank(protocol: str) -> int:
    return PROTOCOL_RANK.get(protocol, UNKNOWN_RANK)


def _shown(wanted: ModelFormat) -> str:
    return f"{{{wanted.name} {wanted.version}}}" if wanted.version else f"{{{wanted.name}}}"
