"""What a storage URI means, and what is refused with which words."""

import pytest

from headrace.server.storage.uri import (
    ACCEPTED,
    ELSEWHERE,
    Kind,
    Location,
    UnsupportedUri,
    parse,
    without_secrets,
)


@pytest.mark.parametrize(
    ("uri", "kind", "bucket", "path"),
    [
        ("/mnt/models", Kind.LOCAL, "", "/mnt/models"),
        ("models/iris.joblib", Kind.LOCAL, "", "models/iris.joblib"),
        ("file:///mnt/a%20b", Kind.LOCAL, "", "/mnt/a b"),
        ("file://localhost/mnt/a", Kind.LOCAL, "", "/mnt/a"),
        ("s3://bucket", Kind.S3, "bucket", ""),
        ("s3://bucket/a/b/", Kind.S3, "bucket", "a/b"),
        ("gs://bucket/a", Kind.GS, "bucket", "a"),
        ("https://acct.blob.core.windows.net/c/a/b", Kind.AZURE, "c", "a/b"),
        ("https://acct.blob.core.windows.net/c", Kind.AZURE, "c", ""),
        ("hf://acme/tiny", Kind.HUB, "acme/tiny", ""),
        ("models:/iris/3", Kind.MLFLOW, "iris", ""),
        ("models:/iris@best", Kind.MLFLOW, "iris", ""),
        ("https://h.example/a/m.tar.gz?x=1", Kind.WEB, "", "m.tar.gz"),
        ("http://h.example:81/m.onnx", Kind.WEB, "", "m.onnx"),
        ("https://h.example/team/repo.git", Kind.GIT, "", ""),
    ],
)
def test_parse(uri: str, kind: Kind, bucket: str, path: str) -> None:
    location = parse(uri)
    assert (location.kind, location.bucket, location.path) == (kind, bucket, path)


def test_parse_keeps_account_and_revision() -> None:
    assert parse("https://acct.blob.core.windows.net/c/a").account == "acct"
    assert parse("hf://acme/tiny:v2").revision == "v2"
    assert parse("models:/iris/3").revision == "3"


@pytest.mark.parametrize("scheme", sorted(ELSEWHERE))
def test_a_scheme_that_works_elsewhere_says_where(scheme: str) -> None:
    with pytest.raises(UnsupportedUri) as caught:
        parse(f"{scheme}://x/y")
    expected = f"{scheme}://x/y: {scheme}:// is {ELSEWHERE[scheme]}; here: {ACCEPTED}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", f"the storage URI is empty; expected {ACCEPTED}"),
        ("ftp://h/x", f"ftp://h/x: ftp:// is not supported; expected {ACCEPTED}"),
        ("s3:///x", "s3:///x: there is no bucket; expected s3://bucket/prefix"),
        ("hf://tiny", "hf://tiny: expected hf://owner/model or hf://owner/model:revision"),
        ("models:/iris", "models:/iris: expected models:/name/version or models:/name@alias"),
        ("https://h.example", "https://h.example: expected a host and the path of a file"),
        (
            "http://h.example/r.git",
            "http://h.example/r.git: git repositories are read over https only",
        ),
        (
            "file://mnt/models",
            "file://mnt/models: a file URI names no host; write file:///mnt/models "
            "for that absolute path",
        ),
        (
            "https://a.file.core.windows.net/s/x",
            "https://a.file.core.windows.net/s/x: Azure Files shares are read by KServe's storage "
            f"initializer image: they work in a cluster that uses it; here: {ACCEPTED}",
        ),
    ],
)
def test_refused(uri: str, message: str) -> None:
    with pytest.raises(UnsupportedUri) as caught:
        parse(uri)
    assert str(caught.value) == message


def test_a_shown_uri_holds_no_password_and_no_token() -> None:
    assert without_secrets("https://me:pw@h.example/x?sig=secret") == "https://***@h.example/x?…"
    assert Location(Kind.S3, "s3://bucket/a").shown == "s3://bucket/a"
