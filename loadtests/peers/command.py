"""The command line that every peer's serve.py takes."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arguments:
    """rest: what follows, for the server itself."""

    name: str
    http_port: int
    grpc_port: int
    workers: int
    rest: list[str]


def arguments() -> Arguments:
    options = argparse.ArgumentParser()
    options.add_argument("--name", default="bench")
    options.add_argument("--http_port", type=int, required=True)
    options.add_argument("--grpc_port", type=int, required=True)
    options.add_argument("--workers", type=int, default=1)
    given, rest = options.parse_known_args()
    return Arguments(given.name, given.http_port, given.grpc_port, given.workers, rest)
