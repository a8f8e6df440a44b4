"""Every kind of URI against a real server of its kind: the same tree of files comes down."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from adlfs import AzureBlobFileSystem
from gcsfs.core import GCSFileSystem
from mlflow import MlflowClient

from headrace.server.storage import Options, StorageError, download
from headrace.server.storage.download import SOURCE_MARK
from tests.storage import servers
from tests.storage.hub_server import hub

FILES = {
    "iris/model.joblib": b"model" * 1000,
    "iris/deep/er/labels.txt": b"setosa\n",
    "iris2/other.bin": b"not ours",
}
BELOW = {"model.joblib": FILES["iris/model.joblib"], "deep/er/labels.txt": b"setosa\n"}
AZURITE_ACCOUNT = "devstoreaccount1"
# the account key that Azurite documents for its only account
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@pytest.fixture(scope="module")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.s3(tmp_path_factory.mktemp("s3")) as url:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="k",
            aws_secret_access_key="s",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="models")
        for name, content in FILES.items():
            client.put_object(Bucket="models", Key=name, Body=content)
        client.put_object(Bucket="models", Key="iris/", Body=b"")  # what consoles make of folders
        upload = client.create_multipart_upload(Bucket="models", Key="parts/model.bst")
        part = client.upload_part(
            Bucket="models",
            Key="parts/model.bst",
            PartNumber=1,
            UploadId=upload["UploadId"],
            Body=b"p" * 10,
        )
        client.complete_multipart_upload(
            Bucket="models",
            Key="parts/model.bst",
            UploadId=upload["UploadId"],
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        )
        yield url


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with servers.gcs(tmp_path) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        system = GCSFileSystem(token="anon", skip_instance_cache=True)
        system.mkdir("models")
        for name, content in FILES.items():
            system.pipe_file(f"models/{name}", content)
        yield


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with servers.azure(tmp_path) as url:
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};"
            f"AccountKey={AZURITE_KEY};BlobEndpoint={url}/{AZURITE_ACCOUNT};"
        )
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        system = AzureBlobFileSystem(
            account_name=AZURITE_ACCOUNT, connection_string=connection, skip_instance_cache=True
        )
        system.mkdir("models")
        for name, content in FILES.items():
            system.pipe_file(f"models/{name}", content)
        yield


def tree(folder: Path) -> dict[str, bytes]:
    """All files below folder by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SOURCE_MARK
    }


def pull(uri: str, folder: Path) -> dict[str, bytes]:
    return tree(download(uri, folder / "model", Options.from_env(os.environ)))


@pytest.mark.usefixtures("s3")
class TestS3:
    def test_a_prefix_keeps_its_tree_and_takes_no_neighbour(self, tmp_path: Path) -> None:
        assert pull("s3://models/iris", tmp_path) == BELOW

    def test_a_trailing_slash_changes_nothing(self, tmp_path: Path) -> None:
        assert pull("s3://models/iris/", tmp_path) == BELOW

    def test_one_object_lands_under_its_own_name(self, tmp_path: Path) -> None:
        expected = {"model.joblib": BELOW["model.joblib"]}
        assert pull("s3://models/iris/model.joblib", tmp_path) == expected

    def test_a_whole_bucket(self, tmp_path: Path) -> None:
        assert pull("s3://models", tmp_path) == {**FILES, "parts/model.bst": b"p" * 10}

    def test_an_object_in_parts_has_no_md5_and_still_comes(self, tmp_path: Path) -> None:
        assert pull("s3://models/parts", tmp_path) == {"model.bst": b"p" * 10}

    def test_a_path_that_matches_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError) as caught:
            pull("s3://models/nothing", tmp_path)
        assert str(caught.value) == (
            "s3://models/nothing: nothing is there; check the bucket and the path ('nothing')"
        )

    def test_a_bucket_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError) as caught:
            pull("s3://absent/x", tmp_path)
        assert str(caught.value).startswith("s3://absent/x: ")

    def test_kserve_variables_reach_the_endpoint(
        self, tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setenv("S3_ENDPOINT", s3_url.removeprefix("http://"))
        monkeypatch.setenv("S3_USE_HTTPS", "0")
        assert pull("s3://models/iris", tmp_path) == BELOW

    def test_patterns_choose_among_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", '["*.joblib", "*.txt"]')
        monkeypatch.setenv("STORAGE_IGNORE_PATTERNS", "deep/*")
        assert pull("s3://models/iris", tmp_path) == {"model.joblib": BELOW["model.joblib"]}

    def test_patterns_that_leave_nothing_are_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STORAGE_ALLOW_PATTERNS", "*.onnx")
        with pytest.raises(StorageError) as caught:
            pull("s3://models/iris", tmp_path)
        assert str(caught.value) == (
            "s3://models/iris: none of 2 files is left by STORAGE_ALLOW_PATTERNS ['*.onnx'] "
            "and STORAGE_IGNORE_PATTERNS []"
        )


@pytest.mark.usefixtures("gcs")
def test_google_cloud_storage(tmp_path: Path) -> None:
    assert pull("gs://models/iris", tmp_path) == BELOW


@pytest.mark.usefixtures("azure")
def test_azure_blob(tmp_path: Path) -> None:
    uri = f"https://{AZURITE_ACCOUNT}.blob.core.windows.net/models/iris"
    assert pull(uri, tmp_path) == BELOW


class TestHub:
    FILES = {"config.json": b"{}", "weights/model.safetensors": b"w" * 5000}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def served(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with hub("acme/tiny", self.FILES, frozenset({"weights/model.safetensors"})) as url:
            monkeypatch.setenv("HF_ENDPOINT", url)
            yield

    @pytest.mark.parametrize("uri", ["hf://acme/tiny", "hf://acme/tiny:v1"])
    def test_every_file_of_a_revision(self, uri: str, tmp_path: Path) -> None:
        assert pull(uri, tmp_path) == self.FILES

    def test_an_unknown_model_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError) as caught:
            pull("hf://acme/absent", tmp_path)
        assert str(caught.value).startswith("hf://acme/absent: cannot be listed: ")


def test_mlflow_registry_by_version_and_by_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.mlflow(tmp_path) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(url)
        run = client.create_run(client.create_experiment("e"))
        source = tmp_path / "MLmodel"
        source.write_text("flavors: {}\n")
        client.log_artifact(run.info.run_id, str(source), "model")
        client.create_registered_model("iris")
        client.create_model_version("iris", f"{run.info.artifact_uri}/model", run.info.run_id)
        client.set_registered_model_alias("iris", "champion", "1")
        for i, uri in enumerate(["models:/iris/1", "models:/iris@champion"]):
            pulled = pull(uri, tmp_path / str(i))
            pulled.pop("registered_model_meta")  # MLflow's own note
            assert pulled == {"MLmodel": b"flavors: {}\n"}
        with pytest.raises(StorageError) as caught:
            pull("models:/absent/1", tmp_path / "c")
        assert str(caught.value).startswith("models:/absent/1: did not arrive: ")


def test_the_hub_stand_in_names_content_as_git_does() -> None:
    empty = hashlib.sha1(b"blob 0\0", usedforsecurity=False).hexdigest()
    assert empty == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
