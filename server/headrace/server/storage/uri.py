"""What a storage URI means (control-plane contract §7.1): a pure reading, no network.

file:///a, /a, a   http(s)://host/path   s3://bucket/prefix   gs://bucket/prefix
https://ACCOUNT.blob.core.windows.net/CONTAINER/path   hf://owner/model[:revision]
models:/name/version-or-alias (mlflow)   https://host/repository.git
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.server.errors import InvalidInput

ACCEPTED = (
    "file://, an absolute or relative path, http://, https://, s3://, gs://, "
    "https://<account>.blob.core.windows.net/, hf://, models:/ and https://….git"
)
# Known to KServe, but not something a process can fetch by itself: where each one works.
ELSEWHERE = {
    "pvc": "a volume that Kubernetes mounts: it works in a cluster; give the mounted path here",
    "oci": "an image that the container runtime mounts: it works in a cluster",
    "oci+native": "an image that the container runtime mounts: it works in a cluster",
    "oci+fetch": "an image that KServe's storage initializer fetches: it works in a cluster",
    "hdfs": "read by KServe's storage initializer image: it works in a cluster that uses it",
    "webhdfs": "read by KServe's storage initializer image: it works in a cluster that uses it",
    "modelscope": "read by KServe's storage initializer image: it works in a cluster that uses it",
}
_AZURE_BLOB = re.compile(r"https://(?P<account>[^./]+)\.blob\.core\.windows\.net/(?P<path>.+)")
_AZURE_FILE = re.compile(r"https://[^./]+\.file\.core\.windows\.net/")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")


class UnsupportedUri(InvalidInput):
    """A URI we cannot read; the text says which we can, or where this one works."""


class Kind(StrEnum):
    LOCAL = "local"
    WEB = "web"
    S3 = "s3"
    GS = "gs"
    AZURE = "azure"
    HUB = "hf"
    MLFLOW = "mlflow"
    GIT = "git"


@dataclass(frozen=True, slots=True)
class Location:
    """bucket: bucket, container, `owner/model`, or model name. path: below it, no leading slash."""

    kind: Kind
    uri: str
    bucket: str = ""
    path: str = ""
    account: str = ""  # Azure's
    revision: str = ""  # Hugging Face's

    @property
    def shown(self) -> str:
        """The URI without the password or query a log must not hold."""
        return without_secrets(self.uri)


def parse(uri: str) -> Location:
    """Raises UnsupportedUri naming what came, and what is accepted or where it works."""
    if not uri:
        raise UnsupportedUri(f"the storage URI is empty; expected {ACCEPTED}")
    found = _SCHEME.match(uri)
    scheme = found["scheme"].lower() if found else ""
    if scheme == "":
        return Location(Kind.LOCAL, uri, path=uri)
    if scheme in ELSEWHERE:
        raise UnsupportedUri(f"{uri}: {scheme}:// is {ELSEWHERE[scheme]}; here: {ACCEPTED}")
    match scheme:
        case "file":
            return Location(Kind.LOCAL, uri, path=_file_path(uri))
        case "s3" | "gs":
            bucket, path = _bucket_and_path(uri, f"{scheme}://bucket/prefix")
            return Location(Kind(scheme), uri, bucket, path)
        case "hf":
            return _hub(uri)
        case "models":
            return _mlflow(uri)
        case "http" | "https":
            return _web(uri)
    raise UnsupportedUri(f"{uri}: {scheme}:// is not supported; expected {ACCEPTED}")


def without_secrets(uri: str) -> str:
    """uri with a password replaced and its query cut (signed URLs carry tokens there)."""
    parts = urlsplit(uri)
    host = parts.netloc
    if "@" in host:
        host = f"***@{host.rpartition('@')[2]}"
    query = "?…" if parts.query else ""
    if not parts.netloc:
        return uri
    return f"{parts.scheme}://{host}{parts.path}{query}"


def _file_path(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise UnsupportedUri(
            f"{uri}: a file URI names no host; write file:///{parts.netloc}{parts.path} "
            "for that absolute path"
        )
    return unquote(parts.path)


def _bucket_and_path(uri: str, expected: str) -> tuple[str, str]:
    bucket, _, path = uri.partition("://")[2].partition("/")
    if not bucket:
        raise UnsupportedUri(f"{uri}: there is no bucket; expected {expected}")
    return bucket, path.strip("/")


def _hub(uri: str) -> Location:
    repository, _, revision = uri.removeprefix("hf://").partition(":")
    parts = repository.split("/")
    if len(parts) != 2 or not all(parts):
        raise UnsupportedUri(f"{uri}: expected hf://owner/model or hf://owner/model:revision")
    return Location(Kind.HUB, uri, repository, revision=revision)


def _mlflow(uri: str) -> Location:
    name, _, version = uri.partition(":")[2].lstrip("/").rpartition("/")
    if not name and "@" in version:
        name, _, version = version.rpartition("@")
    if not name or not version:
        raise UnsupportedUri(f"{uri}: expected models:/name/version or models:/name@alias")
    return Location(Kind.MLFLOW, uri, name, revision=version)


def _web(uri: str) -> Location:
    if _AZURE_FILE.match(uri):
        raise UnsupportedUri(
            f"{without_secrets(uri)}: Azure Files shares are read by KServe's storage initializer "
            f"image: they work in a cluster that uses it; here: {ACCEPTED}"
        )
    azure = _AZURE_BLOB.match(uri)
    if azure:
        container, _, path = azure["path"].partition("/")
        return Location(Kind.AZURE, uri, container, path.strip("/"), account=azure["account"])
    parts = urlsplit(uri)
    if not parts.hostname or not Path(parts.path).name:
        raise UnsupportedUri(f"{without_secrets(uri)}: expected a host and the path of a file")
    if parts.scheme == "https" and parts.path.endswith(".git"):
        return Location(Kind.GIT, uri)
    if parts.path.endswith(".git"):
        raise UnsupportedUri(f"{without_secrets(uri)}: git repositories are read over https only")
    return Location(Kind.WEB, uri, path=unquote(Path(parts.path).name))
