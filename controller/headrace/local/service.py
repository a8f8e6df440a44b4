"""An InferenceService as the processes that serve it on this machine, wired as on a cluster. Pure.

    client ─▶ transformer ─▶ predictor          client ─▶ explainer ─▶ predictor

The entry component (the transformer, else the predictor) gets the service's own ports, the others
free ones. Each process is a container of the pod that the component would have in a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from msgspec.structs import replace

from headrace.controller.annotations import MODEL_MOUNT, TARGET_LATENCY_MS
from headrace.controller.api.inference_service import Component, InferenceService
from headrace.controller.api.pod import (
    PREDICTOR_CONTAINER,
    TRANSFORMER_CONTAINER,
    Container,
    PodSpec,
    env_value,
    named,
)
from headrace.controller.api.serving_runtime import ServingRuntime
from headrace.controller.component_pods import (
    custom_predictor_pod,
    explainer_pod,
    transformer_pod,
)
from headrace.controller.config import Config
from headrace.controller.defaulting import is_custom
from headrace.controller.runtimes.builtin import BUILTIN
from headrace.controller.runtimes.kserve_names import with_local_runtime
from headrace.controller.runtimes.merge import merge
from headrace.controller.runtimes.selection import select_runtime
from headrace.local.entry_points import CannotRun, is_python, local
from headrace.local.ports import Ports

GRPC = "grpc-v2"
PROTOCOL_FLAGS = ("--predictor_protocol", "--predictor-protocol", "--protocol")


@dataclass(frozen=True, slots=True)
class Source:
    """A model to download: uri, and where the pod would see it."""

    uri: str
    path: str = MODEL_MOUNT


@dataclass(frozen=True, slots=True)
class Replica:
    """One process: what it is called, what it runs, where it listens, which models it reads."""

    name: str  # <service>-<component>
    component: str
    container: Container
    host: str
    http_port: int
    grpc_port: int
    sources: tuple[Source, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalService:
    """replicas: in the order to start them in; the last but the explainer answers clients."""

    name: str
    protocol: str
    replicas: tuple[Replica, ...]
    notes: tuple[str, ...]

    @property
    def entry(self) -> Replica:
        return next(each for each in reversed(self.replicas) if each.component != "explainer")


def local_service(
    isvc: InferenceService,
    runtimes: Sequence[ServingRuntime],
    config: Config,
    ports: Ports,
    entry_ports: tuple[int, int],
    host: str,
) -> LocalService:
    """isvc: defaulted and valid. runtimes: the manifests' own; ours are added.

    Raises InvalidPredictor where no runtime fits, CannotRun for what needs a container engine.
    """
    spec, name = isvc.spec, isvc.metadata.name
    pod, protocol = _predictor_pod(isvc, runtimes)
    collocated = named(pod.get("containers", []), TRANSFORMER_CONTAINER)
    has_transformer = spec.transformer is not None or collocated is not None
    predictor_ports = (ports.free(), ports.free()) if has_transformer else entry_ports
    predictor = _replica(
        isvc, "predictor", _main(pod), predictor_ports, host, _predictor_sources(isvc)
    )
    replicas = [predictor]
    notes = _helper_notes("predictor", pod)
    if collocated is not None:
        flags = _with_flags(collocated, {"--predictor_host": _host_for(collocated, predictor)})
        middle = entry_ports if spec.transformer is None else (ports.free(), ports.free())
        replicas.append(_replica(isvc, "transformer", flags, middle, host, predictor.sources))
    if spec.transformer is not None:
        behind = replicas[-1]
        given = spec.transformer.containers[0]
        made = transformer_pod(isvc, _host_for(given, behind))
        sources = _component_sources(spec.transformer, _main(made))
        container = _without_storage_env(_main(made))
        replicas.append(_replica(isvc, "transformer", container, entry_ports, host, sources))
        notes += _helper_notes("transformer", made)
    if spec.explainer is not None:
        if spec.explainer.art is not None:
            raise CannotRun(
                f"{name}: spec.explainer.art needs the image {config.art.image}, which cannot run "
                "here; use a custom explainer, e.g. command: [python, -m, "
                "headrace.transformers.permutation_importance]"
            )
        first = spec.explainer.containers[0]
        made = explainer_pod(isvc, _host_for(first, predictor))
        pair = (ports.free(), ports.free())
        sources = _component_sources(spec.explainer, _main(made))
        container = _without_storage_env(_main(made))
        replicas.append(_replica(isvc, "explainer", container, pair, host, sources))
        notes += _helper_notes("explainer", made)
    return LocalService(name, protocol, tuple(replicas), tuple(notes))


def _predictor_pod(
    isvc: InferenceService, runtimes: Sequence[ServingRuntime]
) -> tuple[PodSpec, str]:
    predictor = isvc.spec.predictor
    if predictor.model is None:
        pod = custom_predictor_pod(isvc)
        return pod, env_value(_main(pod), "PROTOCOL") or "v1"
    model = predictor.model
    own = {each.metadata.name for each in runtimes}
    if model.runtime not in own:
        model = with_local_runtime(model)
        isvc = replace(isvc, spec=replace(isvc.spec, predictor=replace(predictor, model=model)))
    runtime = select_runtime(model, [*runtimes, *BUILTIN])
    served = merge(isvc, runtime)
    return served.pod, served.protocol


def _predictor_sources(isvc: InferenceService) -> tuple[Source, ...]:
    predictor = isvc.spec.predictor
    model = predictor.model
    if model is not None and not predictor.storage_uris:
        uri = model.storage_uri if model.storage_uri is not None else _from_storage_spec(isvc)
        if uri is None:
            raise CannotRun(
                f"{isvc.metadata.name}: spec.predictor.model has no storageUri, so there is "
                "nothing to serve here; add one (multi-model serving needs a cluster)"
            )
        return (Source(uri),)
    if is_custom(predictor):
        return _component_sources(predictor, predictor.containers[0])
    return _component_sources(predictor, Container())


def _component_sources(component: Component, main: Container) -> tuple[Source, ...]:
    if component.storage_uris:
        return tuple(Source(each.uri, each.mount_path) for each in component.storage_uris)
    uri = env_value(main, "STORAGE_URI")
    return (Source(uri),) if uri else ()


def _from_storage_spec(isvc: InferenceService) -> str | None:
    """A `storage` block whose parameters say all; its Secret is not on this machine."""
    model = isvc.spec.predictor.model
    storage = model.storage if model is not None else None
    if storage is None:
        return None
    parameters = storage.parameters or {}
    kind, bucket = parameters.get("type"), parameters.get("bucket")
    if kind != "s3" or not bucket:
        raise CannotRun(
            f"{isvc.metadata.name}: spec.predictor.model.storage names a Secret, which is not on "
            "this machine; write storageUri: s3://bucket/path and set the credentials in the "
            "environment (AWS_ACCESS_KEY_ID, …)"
        )
    return f"s3://{bucket}/{(storage.path or '').lstrip('/')}"


def _main(pod: PodSpec) -> Container:
    containers = pod.get("containers", [])
    return named(containers, PREDICTOR_CONTAINER) or containers[0]


def _host_for(container: Container, predictor: Replica) -> str:
    """host:port of the predictor, the gRPC port where the container wants to speak gRPC."""
    port = predictor.grpc_port if _speaks_grpc(container) else predictor.http_port
    return f"{predictor.host}:{port}"


def _speaks_grpc(container: Container) -> bool:
    words = [part for arg in container.get("args", []) for part in arg.split("=", 1)]
    return any(flag in PROTOCOL_FLAGS and value == GRPC for flag, value in pairwise(words))


def _replica(
    isvc: InferenceService,
    component: str,
    container: Container,
    ports: tuple[int, int],
    host: str,
    sources: tuple[Source, ...],
) -> Replica:
    http_port, grpc_port = ports
    runnable = local(_without_storage_env(container), isvc.metadata.name)
    if is_python(runnable):  # KServe programs take these; the last of a flag counts
        wanted = {"--http_port": str(http_port), "--grpc_port": str(grpc_port)}
        runnable = _with_flags(runnable, wanted)
    env = {
        "PORT": str(http_port),
        "HEADRACE_SERVER_HOST": host,
        "HEADRACE_SERVER_HTTP_PORT": str(http_port),
        "HEADRACE_SERVER_GRPC_PORT": str(grpc_port),
        "HEADRACE_SERVER_DRAIN_DELAY": "0",  # no endpoint list has to hear of it first
    }
    if component == "predictor":
        env |= batching(isvc)
    name = f"{isvc.metadata.name}-{component}"
    return Replica(name, component, runnable, host, http_port, grpc_port, sources, env)


def batching(isvc: InferenceService) -> dict[str, str]:
    """`batcher` and our annotation as variables of our server: what its args say wins.

    maxBatchSize is KServe's 32 where the block leaves it out; maxLatency is no wait then.
    """
    found: dict[str, str] = {}
    block = isvc.spec.predictor.batcher
    if block is not None:
        rows = 32 if block.max_batch_size is None else block.max_batch_size
        found["HEADRACE_SERVER_MAX_BATCH_SIZE"] = str(rows)
        if block.max_latency is not None:
            found["HEADRACE_SERVER_MAX_BATCH_DELAY_MS"] = str(block.max_latency)
    target = isvc.metadata.annotations.get(TARGET_LATENCY_MS)
    if target is not None:
        found["HEADRACE_SERVER_TARGET_LATENCY_MS"] = target
    return found


def _with_flags(container: Container, flags: Mapping[str, str]) -> Container:
    found = Container(**container)
    found["args"] = [
        *container.get("args", []),
        *(word for flag, value in flags.items() for word in (flag, value)),
    ]
    return found


def _without_storage_env(container: Container) -> Container:
    """STORAGE_URI says where the model is, as in a pod after its download."""
    found = Container(**container)
    if env_value(container, "STORAGE_URI") is not None:
        found["env"] = [
            {"name": "STORAGE_URI", "value": MODEL_MOUNT}
            if variable.get("name") == "STORAGE_URI"
            else variable
            for variable in container.get("env", [])
        ]
    return found


def _helper_notes(component: str, pod: PodSpec) -> list[str]:
    main = _main(pod)
    return [
        f"{component}: container {each.get('name', '')} is a helper and is not run here"
        for each in pod.get("containers", [])
        if each is not main and each.get("name") != TRANSFORMER_CONTAINER
    ]
