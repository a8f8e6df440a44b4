"""Rules about an update: the mode stays (U1), a renamed predictor is a new model (U2)."""

from collections.abc import Hashable

from headrace.controller.annotations import DEPLOYMENT_MODE
from headrace.controller.api.inference_service import InferenceService, Predictor
from headrace.controller.errors import Denied


def check(old: InferenceService, new: InferenceService) -> None:
    recorded = old.status.get("deploymentMode")
    mode = new.metadata.annotations.get(DEPLOYMENT_MODE)  # none: nothing is compared
    if recorded and mode and recorded != mode:
        raise Denied(
            f"update rejected: deploymentMode cannot be changed from '{recorded}' to '{mode}'"
        )
    before, after = old.spec.predictor, new.spec.predictor
    if before.name != after.name and _location(before) == _location(after):
        raise Denied("predictor.name change requires a model change (e.g. storageUri)")


def _location(predictor: Predictor) -> Hashable:
    """Where the model lies; no other change counts (errata 28)."""
    blocks = [
        (block.storage_uri, block.storage.path if block.storage else None)
        for block in predictor.frameworks().values()
    ]
    uris = [(each.uri, each.mount_path) for each in predictor.storage_uris or []]
    return (tuple(blocks), tuple(uris))
