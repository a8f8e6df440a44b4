"""Hugging Face models: `hf://owner/model[:revision]`, through huggingface_hub (extra `hf`).

HF_ENDPOINT, HF_TOKEN and the library's other variables work.
"""

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.server.storage.object_stores import explain
from headrace.server.storage.remote import Advance, Digest, RemoteFile, StorageError, check_path
from headrace.server.storage.uri import Location


def listed(location: Location, env: Mapping[str, str]) -> list[RemoteFile]:
    """Every file of the revision; all fetches are pinned to the commit it names now."""
    api = _hub().HfApi(endpoint=env.get("HF_ENDPOINT") or None, token=env.get("HF_TOKEN") or None)
    try:
        found = api.model_info(
            location.bucket, revision=location.revision or None, files_metadata=True
        )
    except Exception as err:  # the library's family of errors is wide; all mean: not listed
        raise StorageError(f"{location.uri}: cannot be listed: {explain(err)}") from err
    return [_remote_file(api, location, found.sha, each) for each in found.siblings or []]


def _remote_file(api: Any, location: Location, commit: str, sibling: Any) -> RemoteFile:
    def fetch(target: Path, advance: Advance) -> None:
        folder = target.parent / f".{target.name}.hub"
        try:
            fetched = api.hf_hub_download(
                location.bucket, sibling.rfilename, revision=commit, local_dir=str(folder)
            )
            shutil.move(fetched, target)
        except Exception as err:  # as above
            raise StorageError(
                f"{location.uri}: {sibling.rfilename} did not arrive: {explain(err)}"
            ) from err
        shutil.rmtree(folder, ignore_errors=True)
        advance(target.stat().st_size)

    return RemoteFile(
        check_path(sibling.rfilename, location.uri),
        fetch,
        sibling.size,
        _digest(sibling),
        f"{location.bucket}|{commit}|{sibling.rfilename}",
    )


def _digest(sibling: Any) -> Digest | None:
    if sibling.lfs is not None:
        return Digest("sha256", sibling.lfs.sha256)
    return Digest("git-blob", sibling.blob_id) if sibling.blob_id else None


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as err:
        raise StorageError("hf:// needs huggingface_hub: pip install 'headrace[hf]'") from err
