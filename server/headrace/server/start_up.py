"""What a server loads at the start, from its settings: sources, threads, limits.

One model of --model_dir, several of --model, or a folder of --model_repository.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from headrace.server.execution import QueueLimits
from headrace.server.folders import FolderLoader, scan
from headrace.server.loading import ModelSource, NamedPath, SourceLoader, parse_source
from headrace.server.predictor import LoadOptions
from headrace.server.repository import Loader
from headrace.server.settings import TRUE, Settings, cpu_count


def loader(settings: Settings, env: Mapping[str, str]) -> Loader:
    """The loader settings describe. Raises ModelLoadError for a malformed --model."""
    if settings.model_repository:
        root = Path(settings.model_repository)
        names = list(scan(root))
        return FolderLoader(root, template(settings, env, models=max(1, len(names))))
    named = [parse_source(text) for text in settings.model]
    if not named:
        named = [NamedPath(settings.model_name, settings.framework, Path(settings.model_dir))]
    common = template(settings, env, models=len(named))
    return SourceLoader(
        {each.name: [replace(common, path=each.path, framework=each.framework)] for each in named}
    )


def template(settings: Settings, env: Mapping[str, str], models: int) -> ModelSource:
    """What all of so many models have in common; the path is still to be said."""
    return ModelSource(
        Path(),
        options=load_options(settings, env, models),
        instances=settings.instances,
        limits=queue_limits(settings),
        isolation=settings.isolation,
    )


def load_options(settings: Settings, env: Mapping[str, str], models: int) -> LoadOptions:
    """Options common to all models; CPU threads are divided so that none is promised twice."""
    return LoadOptions(
        threads=settings.nthread or threads_per_instance(settings, models, cpu_count()),
        trust_pickle=settings.trust_pickle,
        trust_code=settings.trust_code,
        predict_proba=env.get("PREDICT_PROBA", "").lower() in TRUE,
    )


def threads_per_instance(settings: Settings, models: int, cpus: int) -> int:
    """CPU threads of one instance when all instances of all models and workers run at once."""
    return max(1, cpus // (models * settings.instances * settings.workers))


def queue_limits(settings: Settings) -> QueueLimits:
    return QueueLimits(settings.max_queue_requests, settings.max_queue_bytes)
