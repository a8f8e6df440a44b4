"""Starts the real server for tests, in this process on free loopback ports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from headrace.server.execution import Executor, Mode
from headrace.server.metrics import InferenceMetrics
from headrace.server.predictor import Predictor
from headrace.server.repository import Loader, Repository, ServedModel
from headrace.server.servable import TensorServable
from headrace.server.serving import Server
from headrace.server.settings import Settings


def settings(**given: Any) -> Settings:
    """Settings of a test server: loopback, free ports, no drain delay."""
    merged: dict[str, Any] = {
        "host": "127.0.0.1",
        "http_port": 0,
        "grpc_port": 0,
        "drain_delay": 0.0,
        "grace_period": 5.0,
        **given,
    }
    return Settings(**merged)


def served(name: str, predictor: Predictor, mode: Mode = Mode.INLINE) -> ServedModel:
    """predictor as a served model, one instance."""
    return ServedModel(name, TensorServable(Executor(name, [predictor], mode=mode), "test"))


@asynccontextmanager
async def running(
    *models: ServedModel, loader: Loader | None = None, **given: Any
) -> AsyncIterator[Server]:
    """A started server of models, in this process; stopped at the end. given: Settings."""
    repository = Repository(loader)
    for model in models:
        repository.add(model)
    server = Server(settings(**given), repository, InferenceMetrics(CollectorRegistry()))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
