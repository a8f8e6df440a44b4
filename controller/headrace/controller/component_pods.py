"""The pods of custom components: predictor, transformer, explainer (contract §2.8)."""

from collections.abc import Sequence

from headrace.controller.annotations import MODEL_MOUNT
from headrace.controller.api.inference_service import Component, Explainer, InferenceService
from headrace.controller.api.pod import PREDICTOR_CONTAINER, Container, PodSpec, named
from headrace.controller.config import ArtImage
from headrace.controller.runtimes.merge import with_service_name

HTTP_PORT = "8080"


def custom_predictor_pod(isvc: InferenceService) -> PodSpec:
    """The first container is the server, whatever it is called, unless a sibling has its name."""
    predictor = isvc.spec.predictor
    first, *others = predictor.containers
    main = Container(**first)
    if named(others, PREDICTOR_CONTAINER) is None:
        main["name"] = PREDICTOR_CONTAINER
    return _pod(predictor, [with_service_name(c, isvc.metadata.name) for c in [main, *others]])


def transformer_pod(isvc: InferenceService, predictor_host: str) -> PodSpec:
    """predictor_host: where the predictor listens. Flags that the user gave are left alone."""
    transformer = isvc.spec.transformer
    if transformer is None:
        raise ValueError(f"{isvc.metadata.name} has no transformer")
    first, *others = transformer.containers
    main = Container(**first)
    given = main.get("args", [])
    wanted = {
        "--model_name": isvc.metadata.name,
        "--predictor_host": predictor_host,
        "--http_port": HTTP_PORT,
        **_workers(transformer),
    }
    missing = {flag: value for flag, value in wanted.items() if not _has(given, flag)}
    main["args"] = [*given, *_flat(missing)]
    return _pod(transformer, [with_service_name(c, isvc.metadata.name) for c in [main, *others]])


def explainer_pod(
    isvc: InferenceService, predictor_host: str, image: ArtImage | None = None
) -> PodSpec:
    """Explainers are not told INFERENCE_SERVICE_NAME (errata 9). image: of ART explainers."""
    explainer = isvc.spec.explainer
    if explainer is None:
        raise ValueError(f"{isvc.metadata.name} has no explainer")
    if explainer.art is not None:
        return _pod(explainer, [_art(isvc, explainer, predictor_host, image or ArtImage())])
    first, *others = explainer.containers
    main = Container(**first)
    added = {
        "--model_name": isvc.metadata.name,
        "--predictor_host": predictor_host,
        "--http_port": HTTP_PORT,
        **_workers(explainer),
    }
    main["args"] = [*main.get("args", []), *_flat(added)]
    return _pod(explainer, [main, *others])


def _art(
    isvc: InferenceService, explainer: Explainer, predictor_host: str, image: ArtImage
) -> Container:
    art = explainer.art
    if art is None:
        raise ValueError(f"{isvc.metadata.name} has no ART explainer")
    container = Container(**art.container)
    config = {f"--{key}": art.config[key] for key in sorted(art.config)}
    flags = {
        "--model_name": isvc.metadata.name,
        "--http_port": HTTP_PORT,
        "--predictor_host": predictor_host,
        **_workers(explainer),
    }
    if art.storage_uri:
        flags["--storage_uri"] = MODEL_MOUNT
    args = [*_flat(flags), "--adversary_type", art.type, *_flat(config)]
    container["args"] = [*args, *container.get("args", [])]
    version = art.runtime_version or image.default_image_version
    container.setdefault("image", f"{image.image}:{version}")
    container["name"] = PREDICTOR_CONTAINER
    return container


def _workers(component: Component) -> dict[str, str]:
    count = component.container_concurrency
    return {} if count is None else {"--workers": str(count)}


def _has(args: Sequence[str], flag: str) -> bool:
    return any(each == flag or each.startswith(f"{flag}=") for each in args)


def _flat(flags: dict[str, str]) -> list[str]:
    return [each for pair in flags.items() for each in pair]


def _pod(component: Component, containers: list[Container]) -> PodSpec:
    pod = PodSpec(**component.pod)
    pod["containers"] = containers
    return pod
