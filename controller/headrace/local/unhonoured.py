"""What a manifest asks that one process tree of this machine cannot give, a line each."""

from headrace.controller.api.inference_service import Component, InferenceService


def unhonoured(isvc: InferenceService) -> list[str]:
    """Sentences for a person; [] where everything is as in a cluster."""
    notes: list[str] = []
    for key, component in isvc.spec.components().items():
        notes += [f"{key}: {note}" for note in _of(component)]
        if key != "predictor" and component.batcher is not None:
            notes.append(f"{key}: batcher: only the predictor's requests are batched")
    if isvc.spec.canary:
        names = ", ".join(each.predictor.name for each in isvc.spec.canary)
        notes.append(f"canary: {names} not run here, all traffic goes to the stable predictor")
    return notes


def _of(component: Component) -> list[str]:
    found: list[tuple[bool, str]] = [
        (
            component.min_replicas not in (None, 1),
            f"minReplicas {component.min_replicas}: one replica runs here",
        ),
        (
            (component.max_replicas or 0) > 1,
            f"maxReplicas {component.max_replicas}: one replica runs here",
        ),
        (
            component.scale_target is not None
            or component.scale_metric is not None
            or component.auto_scaling is not None,
            "autoscaling: one replica runs here, whatever the load",
        ),
        (
            component.canary_traffic_percent not in (None, 100),
            f"canaryTrafficPercent {component.canary_traffic_percent}: there is no earlier "
            "revision here, all traffic goes to this one",
        ),
        (component.logger is not None, "logger: payloads are not sent anywhere from here"),
        (
            component.container_concurrency is not None,
            "containerConcurrency: not limited in front of the replica here",
        ),
        (component.timeout is not None, "timeout: not enforced in front of the replica here"),
        (
            bool(component.pod.get("initContainers")),
            "initContainers: not run here",
        ),
        (bool(component.pod.get("volumes")), "volumes: nothing is mounted here"),
    ]
    return [note for is_asked, note in found if is_asked]
