"""Rules about where models come from: storageUri, storageUris, confidential (7, 8, 9)."""

import re
from posixpath import commonpath

from headrace.controller.api.inference_service import (
    Confidential,
    InferenceService,
    Predictor,
    StorageUri,
)
from headrace.controller.errors import Denied

RESOURCE_ID = re.compile(r"kbs:///[a-zA-Z0-9_.-]+/[a-zA-Z0-9_.-]+/[a-zA-Z0-9_.-]+")


def check(isvc: InferenceService) -> list[str]:
    """Warnings. Raises Denied."""
    predictor = isvc.spec.predictor
    frameworks = predictor.frameworks().values()
    if predictor.storage_uris and any(block.storage_uri is not None for block in frameworks):
        raise Denied("Setting both StorageURI and StorageURIs is not supported.")
    for component in isvc.spec.components().values():
        _check_mounts(component.storage_uris or [])
    return _check_confidential(predictor)


def _check_mounts(uris: list[StorageUri]) -> None:
    for each in uris:
        path = each.mount_path
        if not each.uri:
            raise Denied("storage uri cannot be empty")
        if not path.rstrip("/"):
            raise Denied("storage path cannot be empty")
        if not path.startswith("/"):
            raise Denied(f"storage path must be absolute: {path}")
        if ".." in path.split("/"):
            raise Denied(f"storage path cannot contain '..' for security reasons: {path}")
    paths = [each.mount_path for each in uris if not each.uri.startswith("pvc://")]
    if len(paths) > 1 and common_parent(paths) == "/":
        raise Denied(
            f"storage paths must have a common parent directory. Current paths: "
            f"[{' '.join(paths)}] have no common parent beyond root"
        )


def common_parent(paths: list[str]) -> str:
    """The deepest folder that holds every one of paths."""
    return commonpath(paths)


def _check_confidential(predictor: Predictor) -> list[str]:
    for block in predictor.frameworks().values():
        confidential: Confidential | None = block.confidential
        if confidential is None or not confidential.enabled:
            continue
        uri = block.storage_uri
        if not uri:
            raise Denied("confidential model serving requires storageUri to be set")
        found = confidential.resource_id
        if found and not RESOURCE_ID.fullmatch(found):
            raise Denied(
                f'spec.predictor.confidential.resourceId: Invalid value: "{found}": must be in '
                "the format kbs:///<repo>/<type>/<tag>"
            )
        if uri.startswith("oci"):
            return [
                "confidential has no effect with OCI URIs; OCI image decryption is handled by the "
                "container runtime via runtimeClassName"
            ]
        if uri.startswith("pvc://"):
            return ["confidential has no effect with PVC URIs; nothing is downloaded from a claim"]
    return []
