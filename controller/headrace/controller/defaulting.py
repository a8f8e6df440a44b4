"""What the defaulting webhook fills in (contract §2.6): a pure function, idempotent."""

from typing import TypeVar

from msgspec.structs import asdict, replace

from headrace.controller.annotations import DEPLOYMENT_MODE, MODEL_FORMAT
from headrace.controller.api.inference_service import (
    LEGACY_FRAMEWORKS,
    Art,
    Component,
    Explainer,
    InferenceService,
    Model,
    ModelFormat,
    Predictor,
)
from headrace.controller.api.pod import PREDICTOR_CONTAINER, Container, PodSpec, Resources
from headrace.controller.config import ComponentResources, Config, Mode, mode_named

C = TypeVar("C", bound=Component)

V2_LEGACY = frozenset({"triton", "onnx", "huggingface"})
V2_FORMATS = frozenset({"triton", "vLLM"})


def default(isvc: InferenceService, config: Config) -> InferenceService:
    """isvc with KServe's defaults. Raises Denied for an unknown deployment mode.

    `spec.canary[]` is left as it came (KServe does the same), except for the mount token.
    """
    if isvc.metadata.annotations.get(DEPLOYMENT_MODE) != Mode.MODEL_MESH:
        isvc = _with_model_defaults(_with_converted_framework(isvc))
    isvc = _with_mode(isvc, config)
    spec = isvc.spec
    predictor, transformer, explainer = spec.predictor, spec.transformer, spec.explainer
    if is_custom(predictor):
        predictor = _with_main_container(predictor, config.resources, always_rename=False)
    if transformer is not None:
        transformer = _with_main_container(transformer, config.resources)
    if explainer is not None:
        explainer = _with_explainer_defaults(explainer, config)
    if not config.auto_mount_service_account_token:
        predictor = _without_token(predictor)
        transformer = transformer and _without_token(transformer)
        explainer = explainer and _without_token(explainer)
    spec = replace(spec, predictor=predictor, transformer=transformer, explainer=explainer)
    return replace(isvc, spec=spec)


def effective_mode(isvc: InferenceService, config: Config) -> Mode:
    """What the annotation says, else the ConfigMap, else Knative."""
    name = isvc.metadata.annotations.get(DEPLOYMENT_MODE)
    return mode_named(name) if name else config.default_mode or Mode.KNATIVE


def is_custom(predictor: Predictor) -> bool:
    return not predictor.frameworks() and bool(predictor.containers)


def _with_mode(isvc: InferenceService, config: Config) -> InferenceService:
    annotations = isvc.metadata.annotations
    if DEPLOYMENT_MODE in annotations:
        mode = mode_named(annotations[DEPLOYMENT_MODE])
    elif config.default_mode in (Mode.STANDARD, Mode.MODEL_MESH):
        mode = config.default_mode
    else:
        return isvc
    return _annotated(isvc, DEPLOYMENT_MODE, mode.value)


def _annotated(isvc: InferenceService, key: str, value: str) -> InferenceService:
    annotations = {**isvc.metadata.annotations, key: value}
    return replace(isvc, metadata=replace(isvc.metadata, annotations=annotations))


def _with_converted_framework(isvc: InferenceService) -> InferenceService:
    """The first legacy block becomes `model`, replacing one that is there (errata 13)."""
    predictor = isvc.spec.predictor
    for key in LEGACY_FRAMEWORKS:
        legacy = getattr(predictor, key)
        if legacy is not None:
            model = Model(**asdict(legacy), model_format=ModelFormat(name=key))
            if key in V2_LEGACY and not model.protocol_version:
                model = replace(model, protocol_version="v2")
            predictor = replace(predictor, **{key: None, "model": model})
            return replace(isvc, spec=replace(isvc.spec, predictor=predictor))
    return isvc


def _with_model_defaults(isvc: InferenceService) -> InferenceService:
    model = isvc.spec.predictor.model
    if model is None:
        return isvc
    name = model.model_format.name
    if MODEL_FORMAT not in isvc.metadata.annotations:
        isvc = _annotated(isvc, MODEL_FORMAT, name)
    if name in V2_FORMATS and not model.protocol_version:
        model = replace(model, protocol_version="v2")
    predictor = replace(isvc.spec.predictor, model=model)
    return replace(isvc, spec=replace(isvc.spec, predictor=predictor))


def _with_main_container(
    component: C, resources: ComponentResources | None, *, always_rename: bool = True
) -> C:
    containers = list(component.containers)
    if not containers:
        return component
    main = Container(**containers[0])
    if always_rename or len(containers) == 1 or not main.get("name"):
        main["name"] = PREDICTOR_CONTAINER
    main["resources"] = filled(main.get("resources", Resources()), resources)
    pod = PodSpec(**component.pod)
    pod["containers"] = [main, *containers[1:]]
    return replace(component, pod=pod)


def filled(given: Resources, defaults: ComponentResources | None) -> Resources:
    """Each of the four values on its own, as KServe does."""
    if defaults is None:
        return given
    found = Resources(**given)
    found["limits"] = {
        "cpu": defaults.cpu_limit,
        "memory": defaults.memory_limit,
        **given.get("limits", {}),
    }
    found["requests"] = {
        "cpu": defaults.cpu_request,
        "memory": defaults.memory_request,
        **given.get("requests", {}),
    }
    return found


def _with_explainer_defaults(explainer: Explainer, config: Config) -> Explainer:
    if explainer.art is None:
        return _with_main_container(explainer, config.resources)
    container = Container(**explainer.art.container)
    container["name"] = PREDICTOR_CONTAINER
    container["resources"] = filled(container.get("resources", Resources()), config.resources)
    version = explainer.art.runtime_version or config.art.default_image_version
    art: Art = replace(explainer.art, runtime_version=version, container=container)
    return replace(explainer, art=art)


def _without_token(component: C) -> C:
    if "automountServiceAccountToken" in component.pod:
        return component
    pod = PodSpec(**component.pod)
    pod["automountServiceAccountToken"] = False
    return replace(component, pod=pod)
