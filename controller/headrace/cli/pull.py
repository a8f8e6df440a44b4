"""`headrace pull URI DIR`: download a model; what the storage-initializer container runs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.server.logging import configure
from headrace.server.settings import Settings
from headrace.server.storage import Options, StorageError, UnsupportedUri, download

EPILOG = """examples:
  headrace pull s3://bucket/models/iris ./iris
  headrace pull hf://owner/model:main ./model

Credentials come from the environment, under the names the stores' own tools use
(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_…, HF_TOKEN, …).
STORAGE_ALLOW_PATTERNS and STORAGE_IGNORE_PATTERNS choose files; HEADRACE_CACHE_DIR keeps them."""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="headrace pull",
        usage="headrace pull URI DIR [URI DIR …]",
        description="Download models from storage URIs into folders, whole or not at all.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="URI DIR", help="where from, where to")
    words = parser.parse_args(argv).words
    if len(words) % 2:
        parser.error(f"{words[-1]} has no folder; type `headrace pull {words[-1]} DIR`")
    configure(Settings(log_format="text"))  # progress is log lines where there is no terminal
    for uri, folder in zip(words[::2], words[1::2], strict=True):
        try:
            print(download(uri, Path(folder), Options.from_env(env)))
        except (StorageError, UnsupportedUri, OSError) as err:
            print(f"headrace pull: {err}", file=sys.stderr)
            return 1
    return 0
