"""Rules about `spec.canary[]` (21, 22)."""

from headrace.controller.annotations import DEPLOYMENT_MODE
from headrace.controller.api.inference_service import Canary, InferenceService
from headrace.controller.api.pod import env_value
from headrace.controller.config import Mode
from headrace.controller.errors import Denied
from headrace.controller.validation.components import EXACTLY_ONE, implementations


def check(isvc: InferenceService, mode: Mode) -> None:
    canaries = isvc.spec.canary
    if not canaries:
        return
    if mode is not Mode.STANDARD or DEPLOYMENT_MODE not in isvc.metadata.annotations:
        raise Denied("canary is only supported in Standard deployment mode")
    stable = isvc.spec.predictor
    has_storage_env = bool(stable.containers) and (
        env_value(stable.containers[0], "STORAGE_URI") is not None
    )
    if not stable.frameworks() and not has_storage_env:
        raise Denied(
            "canary requires a stable predictor with a model (multi-model serving is not "
            "supported with canary)"
        )
    seen: set[str] = set()
    for i, canary in enumerate(canaries):
        name = canary.predictor.name
        if not name:
            raise Denied(f"canary[{i}] predictor.name is required")
        if name in seen:
            raise Denied(f'canary predictor.name "{name}" is duplicated')
        seen.add(name)
        if name == stable.name:
            raise Denied(f'canary predictor.name "{name}" conflicts with stable predictor name')
        _check_one(canary, 1 if stable.min_replicas is None else stable.min_replicas)
    total = sum(canary.traffic_percent for canary in canaries)
    if total > 100:
        raise Denied(f"sum of canary trafficPercent values ({total}) must be <= 100")
    if stable.canary_traffic_percent is not None:
        raise Denied(
            "canaryTrafficPercent and spec.canary cannot be used together; remove one of them"
        )


def _check_one(canary: Canary, stable_min_replicas: int) -> None:
    predictor, name = canary.predictor, canary.predictor.name
    if not 0 <= canary.traffic_percent <= 100:
        raise Denied(
            f'canary "{name}" trafficPercent must be between 0 and 100, got '
            f"{canary.traffic_percent}"
        )
    if implementations(predictor) != 1:
        raise Denied(f'canary "{name}" predictor: {EXACTLY_ONE["predictor"]}')
    if predictor.worker_spec is not None:
        raise Denied(
            f'canary "{name}" must not set workerSpec (multi-node is not yet supported for canary)'
        )
    for field, is_set in (
        ("maxReplicas", bool(predictor.max_replicas)),
        ("scaleTarget", predictor.scale_target is not None),
        ("scaleMetric", predictor.scale_metric is not None),
        ("autoScaling", predictor.auto_scaling is not None),
    ):
        if is_set:
            raise Denied(f'canary "{name}" must not set {field} (canary uses fixed replicas)')
    if predictor.min_replicas is not None and predictor.min_replicas > stable_min_replicas:
        raise Denied(
            f'canary "{name}" minReplicas ({predictor.min_replicas}) must not exceed stable '
            f"predictor minReplicas ({stable_min_replicas})"
        )
