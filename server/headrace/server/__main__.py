"""`python -m headrace.server`: what a KServe runtime manifest starts (contract §6.3).

python -m headrace.server --model_name iris --model_dir /mnt/models --http_port 8080
"""

import asyncio
import os
import sys
from pathlib import Path

from headrace.server.loading import ModelSource, SourceLoader
from headrace.server.repository import Repository
from headrace.server.serving import Server
from headrace.server.settings import Settings, SettingsError


def main() -> int:
    try:
        settings, _ = Settings.from_sources(sys.argv[1:], os.environ)
    except SettingsError as err:
        print(f"headrace.server: {err}", file=sys.stderr)
        return 2
    sources = {settings.model_name: [ModelSource(Path(settings.model_dir), settings.framework)]}
    return asyncio.run(_run(Server(settings, Repository(SourceLoader(sources)))))


async def _run(server: Server) -> int:
    await server.start()
    await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
