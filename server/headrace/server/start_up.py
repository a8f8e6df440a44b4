"""What a server loads at the start, from its settings: sources, threads, limits.

One model of --model_dir, several of --model, or a folder of --model_repository.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.server.batch_settings import BatchWishes
from headrace.server.devices import discover
from headrace.server.execution import QueueLimits
from headrace.server.folders import FolderLoader, scan
from headrace.server.headroom import Headroom
from headrace.server.loading import ModelSource, NamedPath, SourceLoader, parse_source
from headrace.server.memory import container_limit_bytes
from headrace.server.placement import Device, threads_each
from headrace.server.predictor import LoadOptions
from headrace.server.repository import Loader
from headrace.server.settings import TRUE, Settings, cpu_count


def loader(settings: Settings, env: Mapping[str, str]) -> Loader:
    """The loader settings describe. Raises ModelLoadError for a malformed --model."""

    def devices() -> Sequence[Device]:
        return discover(env)

    if settings.model_repository:
        root = Path(settings.model_repository)
        scan(root)  # a folder that is not there is told now
        return FolderLoader(
            root,
            template(settings, env, 1),
            devices,
            lambda instances: threads_per_instance(settings, instances, cpu_count()),
        )
    named = [parse_source(text) for text in settings.model]
    if not named:
        named = [NamedPath(settings.model_name, settings.framework, Path(settings.model_dir))]
    common = template(settings, env, len(named) * settings.instances)
    return SourceLoader(
        {each.name: [replace(common, path=each.path, framework=each.framework)] for each in named},
        devices,
    )


def headroom(settings: Settings) -> Headroom:
    """Each worker has its share of the limit: it loads what the others load."""
    limit = settings.memory_limit_bytes
    if limit is None:
        limit = container_limit_bytes()
    return Headroom(
        limit // settings.workers, settings.evict_models and bool(settings.model_repository)
    )


def template(settings: Settings, env: Mapping[str, str], instances: int) -> ModelSource:
    """What all models have in common; the path is still to be said. instances: of all of them."""
    return ModelSource(
        Path(),
        options=load_options(settings, env, instances),
        instances=settings.instances,
        limits=queue_limits(settings),
        isolation=settings.isolation,
        batching=batch_wishes(settings),
    )


def batch_wishes(settings: Settings) -> BatchWishes:
    return BatchWishes(
        settings.max_batch_size,
        settings.max_batch_delay_ms / 1e3,
        settings.target_latency_ms / 1e3,
    )


def load_options(settings: Settings, env: Mapping[str, str], instances: int) -> LoadOptions:
    """Options common to all models; CPU threads are divided so that none is promised twice."""
    return LoadOptions(
        threads=threads_per_instance(settings, instances, cpu_count()),
        trust_pickle=settings.trust_pickle,
        trust_code=settings.trust_code,
        predict_proba=env.get("PREDICT_PROBA", "").lower() in TRUE,
    )


def threads_per_instance(settings: Settings, instances: int, cpus: int) -> int:
    """What --nthread says, else the share of one of so many instances, in each worker."""
    return settings.nthread or threads_each(cpus, settings.workers, max(1, instances))


def queue_limits(settings: Settings) -> QueueLimits:
    return QueueLimits(settings.max_queue_requests, settings.max_queue_bytes)
