"""S3, Google Cloud Storage and Azure Blob, through the fsspec family.

Each needs its extra (s3, gs, azure). The libraries' own environment variables work
(AWS_ENDPOINT_URL, STORAGE_EMULATOR_HOST, AZURE_STORAGE_CONNECTION_STRING, …), and so do the ones
KServe's credentials injection sets (control-plane contract §7.6).
"""

import importlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from headrace.server.storage.remote import Advance, Digest, RemoteFile, StorageError, check_path
from headrace.server.storage.uri import Kind, Location

TRUE = frozenset({"1", "true", "yes", "on"})


def listed(location: Location, env: Mapping[str, str]) -> list[RemoteFile]:
    """The object, or every object under the prefix. Raises StorageError if nothing matches."""
    system = _file_system(location, env)
    root = f"{location.bucket}/{location.path}".rstrip("/")
    try:
        found: dict[str, dict[str, Any]] = system.find(root, detail=True)
    except Exception as err:  # each library raises its own family; all mean: not listed
        raise StorageError(f"{location.uri}: cannot be listed: {explain(err)}") from err
    files = [
        _remote_file(system, location, path, root, details)
        for path, details in sorted(found.items())
        if details.get("type") == "file" and not path.endswith("/")
    ]
    if not files:
        raise StorageError(
            f"{location.uri}: nothing is there; check the bucket and the path"
            + (f" ({location.path!r})" if location.path else "")
        )
    return files


def explain(error: BaseException) -> str:
    """An exception in one line, with its class where the text alone says too little."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remote_file(
    system: Any, location: Location, path: str, root: str, details: Mapping[str, Any]
) -> RemoteFile:
    below = path.removeprefix(root).strip("/") or PurePosixPath(path).name

    def fetch(target: Path, advance: Advance) -> None:
        callback = _callback(advance)
        try:
            system.get_file(path, str(target), callback=callback)
        except Exception as err:  # as above
            raise StorageError(f"{location.uri}: {below} did not arrive: {explain(err)}") from err

    return RemoteFile(
        check_path(below, location.uri),
        fetch,
        details.get("size"),
        digest_of(location.kind, details),
        f"{path}|{details.get('ETag') or details.get('etag') or details.get('generation') or ''}",
        lambda: location.kind is Kind.S3 and _has_kms_key(system, path),
    )


def _has_kms_key(system: Any, path: str) -> bool:
    """True if S3 encrypted the object with a key of its own, so that its ETag is no MD5."""
    bucket, _, key = path.partition("/")
    head = system.call_s3("head_object", Bucket=bucket, Key=key)
    return bool(
        str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        or head.get("SSECustomerAlgorithm")
    )


def digest_of(kind: Kind, details: Mapping[str, Any]) -> Digest | None:
    """The digest a listing gives of an object's content, if it does.

    S3's ETag is the MD5 unless the object came in parts (a dash), or is encrypted with a KMS key
    (`_has_kms_key`).
    """
    match kind:
        case Kind.S3:
            etag = str(details.get("ETag", "")).strip('"')
            return Digest("md5", etag.lower()) if len(etag) == 32 else None
        case Kind.GS:
            text = details.get("md5Hash")
            return Digest.from_base64("md5", text) if text else None
        case Kind.AZURE:
            raw = (details.get("content_settings") or {}).get("content_md5")
            return Digest("md5", bytes(raw).hex()) if raw else None
    return None


def _file_system(location: Location, env: Mapping[str, str]) -> Any:
    match location.kind:
        case Kind.S3:
            return _module("s3fs", "s3").S3FileSystem(**s3_options(env))
        case Kind.GS:
            # the package's default class asks a gRPC API for the bucket's kind first; this does not
            return _module("gcsfs.core", "gs").GCSFileSystem(
                skip_instance_cache=True, use_listings_cache=False
            )
        case _:
            return _module("adlfs", "azure").AzureBlobFileSystem(
                **azure_options(location.account, env)
            )


def s3_options(env: Mapping[str, str]) -> dict[str, Any]:
    """s3fs arguments from the environment KServe sets; AWS's own variables need none."""
    config: dict[str, Any] = {
        "connect_timeout": float(env.get("S3_CONNECT_TIMEOUT", "15")),
        "read_timeout": float(env.get("S3_READ_TIMEOUT", "30")),
        "retries": {"max_attempts": int(env.get("S3_MAX_ATTEMPTS", "3"))},
    }
    s3: dict[str, Any] = {}
    if env.get("S3_USER_VIRTUAL_BUCKET", "").lower() in TRUE:
        s3["addressing_style"] = "virtual"
    if env.get("S3_USE_ACCELERATE", "").lower() in TRUE:
        s3["use_accelerate_endpoint"] = True
    if s3:
        config["s3"] = s3
    client: dict[str, Any] = {}
    if env.get("S3_VERIFY_SSL", "1").lower() not in TRUE:
        client["verify"] = False
    elif env.get("AWS_CA_BUNDLE"):
        client["verify"] = env["AWS_CA_BUNDLE"]
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if not endpoint and env.get("S3_ENDPOINT"):
        scheme = "https" if env.get("S3_USE_HTTPS", "1").lower() in TRUE else "http"
        endpoint = f"{scheme}://{env['S3_ENDPOINT']}"
    return {
        "anon": env.get("awsAnonymousCredential", "").lower() in TRUE,
        "endpoint_url": endpoint or None,
        "client_kwargs": client,
        "config_kwargs": config,
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }


def azure_options(account: str, env: Mapping[str, str]) -> dict[str, Any]:
    """adlfs arguments: a connection string or key where there is one, else Azure's credentials."""
    options: dict[str, Any] = {
        "account_name": account,
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }
    if env.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {**options, "connection_string": env["AZURE_STORAGE_CONNECTION_STRING"]}
    key = env.get("AZURE_STORAGE_ACCOUNT_KEY") or env.get("AZURE_STORAGE_ACCESS_KEY")
    if key:
        return {**options, "account_key": key}
    if env.get("AZURE_STORAGE_SAS_TOKEN"):
        return {**options, "sas_token": env["AZURE_STORAGE_SAS_TOKEN"]}
    client = env.get("AZURE_CLIENT_ID") or env.get("AZ_CLIENT_ID")
    secret = env.get("AZURE_CLIENT_SECRET") or env.get("AZ_CLIENT_SECRET")
    tenant = env.get("AZURE_TENANT_ID") or env.get("AZ_TENANT_ID")
    if client and secret and tenant:
        return {**options, "client_id": client, "client_secret": secret, "tenant_id": tenant}
    return {**options, "anon": not client}  # a client id alone is a managed identity's


def _callback(advance: Advance) -> Any:
    callbacks = importlib.import_module("fsspec.callbacks")

    class Told(callbacks.Callback):  # type: ignore[name-defined]  # fsspec is an extra
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Told()


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise StorageError(
            f"reading from here needs {name.split('.')[0]}: pip install 'headrace[{extra}]'"
        ) from err
