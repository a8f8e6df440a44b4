"""Rules about containers: no PYTHONPATH (3), a collocated transformer has no storage (5)."""

from collections.abc import Iterator

from headrace.controller.api.inference_service import Explainer, InferenceService, Predictor
from headrace.controller.api.pod import (
    TRANSFORMER_CONTAINER,
    Container,
    PodSpec,
    env_value,
    named,
)
from headrace.controller.errors import Denied


def check_python_path(isvc: InferenceService) -> None:
    for container in _all_containers(isvc):
        if env_value(container, "PYTHONPATH") is not None:
            raise Denied(
                f'the InferenceService "{isvc.metadata.name}" is invalid: setting PYTHONPATH in '
                f'container "{container.get("name", "")}" is not allowed for security reasons'
            )


def check_collocation(predictor: Predictor) -> None:
    transformer = named(predictor.containers, TRANSFORMER_CONTAINER)
    if transformer is not None and env_value(transformer, "STORAGE_URI") is not None:
        raise Denied("storage uri should not be specified in transformer container")


def _all_containers(isvc: InferenceService) -> Iterator[Container]:
    spec = isvc.spec
    predictors = [spec.predictor, *(canary.predictor for canary in spec.canary)]
    for predictor in predictors:
        for framework in predictor.frameworks().values():
            yield framework.container
        yield from _of_pod(predictor.pod)
        if predictor.worker_spec is not None:
            yield from _of_pod(predictor.worker_spec.pod)
    if spec.transformer is not None:
        yield from _of_pod(spec.transformer.pod)
    if isinstance(spec.explainer, Explainer):
        yield from _of_pod(spec.explainer.pod)
        if spec.explainer.art is not None:
            yield spec.explainer.art.container


def _of_pod(pod: PodSpec) -> Iterator[Container]:
    yield from pod.get("containers", [])
    yield from pod.get("initContainers", [])
