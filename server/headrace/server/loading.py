"""From a `ModelSource` to a `Servable`: where instances go, how they are loaded, what runs them.

`headrace serve PATH` guesses the format from the files (model_files.py); `name=format:path` and
--framework say it. Loading happens in a thread; nothing here runs on the event loop's time.
"""

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from headrace.server import batch_settings, isolation, memory
from headrace.server.admission import estimate
from headrace.server.batch_record import BatchRecord
from headrace.server.batch_settings import BatchWishes
from headrace.server.batch_trial import Trial, try_batches
from headrace.server.errors import ModelLoadError, ModelNotFound, ServingError
from headrace.server.execution import (
    ALWAYS_INLINE,
    Executor,
    InlineLimits,
    Mode,
    QueueLimits,
)
from headrace.server.isolation_messages import Load
from headrace.server.memory import Usage
from headrace.server.model import Model
from headrace.server.model_files import file_bytes, find_name, found_format
from headrace.server.model_servable import ModelServable
from headrace.server.placement import Device, GpuUse, Group, Kind, Placement, count, place
from headrace.server.predictor import (
    LoadOptions,
    Predictor,
)
from headrace.server.repository import DEFAULT_VERSION, ServedModel
from headrace.server.servable import Servable, TensorServable
from headrace.server.settings import Isolation
from headrace.server.storage import is_downloaded
from headrace.server.warm_up import excess_bytes, inline_limits, warm_up, warm_up_hooks

log = logging.getLogger(__name__)

Devices = Callable[[], Sequence[Device]]  # the GPUs there are, and their free memory now
_WITH_FORMAT = re.compile(r"(?P<framework>[a-z][a-z0-9_]*):(?P<path>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model of the command line or of a folder: what to load, and how.

    instances: how many, where groups, its config's instance_group, do not say. placements: where
    each one runs, once that is decided.
    """

    path: Path
    framework: str | None = None  # None: the files say
    version: str = DEFAULT_VERSION
    options: LoadOptions = field(default_factory=LoadOptions)
    instances: int = 1
    groups: tuple[Group, ...] = ()
    placements: tuple[Placement, ...] = ()
    limits: QueueLimits = field(default_factory=QueueLimits)
    isolation: Isolation = Isolation.AUTO
    config: Mapping[str, Any] = field(default_factory=dict)  # Triton's ModelConfig keys
    batching: BatchWishes = field(default_factory=BatchWishes)

    @property
    def wanted(self) -> tuple[Group, ...]:
        return self.groups or (Group(count=self.instances, is_spread=True),)


@dataclass(frozen=True, slots=True)
class NamedPath:
    """What `name=format:path` says; framework None: the files say."""

    name: str
    framework: str | None
    path: Path


def parse_source(text: str) -> NamedPath:
    """Read `name=path` or `name=format:path`. Raises ModelLoadError saying what to type."""
    name, _, rest = text.partition("=")
    if not name or not rest:
        raise ModelLoadError(f"--model {text}: expected name=path or name=format:path")
    shaped = _WITH_FORMAT.fullmatch(rest)
    if shaped is None:
        return NamedPath(name, None, Path(rest))
    return NamedPath(name, shaped["framework"], Path(shaped["path"]))


def no_gpus() -> Sequence[Device]:
    """Of a server that runs on CPUs."""
    return ()


class SourceLoader:
    """The loader of a fixed set of named sources."""

    def __init__(
        self, sources: Mapping[str, Sequence[ModelSource]], devices: Devices = no_gpus
    ) -> None:
        self._sources = dict(sources)
        self._devices = devices

    def names(self) -> Sequence[str]:
        return list(self._sources)

    def estimated_bytes(self, name: str, parameters: Mapping[str, Any]) -> int:
        return sum(estimated_bytes(each) for each in self._sources.get(name, ()))

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        """Raises ModelNotFound, ModelLoadError; `config` and `file:…` need a folder repository."""
        if name not in self._sources:
            raise ModelNotFound(name)
        if parameters:
            raise ModelLoadError(
                f"model {name} was named on the command line, so its load takes no "
                f"{', '.join(sorted(parameters))}; serve a folder with --model_repository for that"
            )
        return [await load_served(name, source, self._devices) for source in self._sources[name]]


def estimated_bytes(source: ModelSource) -> int:
    """What source may need, by its files; before anybody has loaded it."""
    return estimate(file_bytes(source.path), count(source.wanted, 0))


async def load_served(name: str, source: ModelSource, devices: Devices = no_gpus) -> ServedModel:
    """source as a served model. Raises as `load_servable`."""
    return ServedModel(
        name, await load_servable(name, source, devices), source.version, source.config
    )


async def load_servable(name: str, source: ModelSource, devices: Devices = no_gpus) -> Servable:
    """Load source off the loop. Raises ModelLoadError with the reason."""
    loading = asyncio.create_task(asyncio.to_thread(_load_ready, name, source, devices))
    try:
        loaded = await asyncio.shield(loading)
    except asyncio.CancelledError:  # the thread goes on; what it loads is not wanted any more
        loading.add_done_callback(_discard)
        raise
    first = loaded.instances[0]
    if isinstance(first, Model):
        shared = batch_settings.of_model(first, source.batching, source.config)
        user = ModelServable(
            first,
            source.limits,
            loaded.concurrency,
            policy=shared,
            isolation=source.isolation,
        )
        await user.start()
        await warm_up_hooks(user, name, source.config, source.path)
        if user.batcher is not None:
            user.batcher.record = BatchRecord()  # nobody asked for those
        servable: Servable = user
    else:
        inline = ALWAYS_INLINE
        if source.isolation is Isolation.AUTO:
            is_inline = loaded.mode is Mode.INLINE
            inline = inline_limits(first) if is_inline else InlineLimits()
        executor = Executor(name, loaded.predictors, source.limits, loaded.mode, inline)
        platform = getattr(first, "platform", "") or find_name(source.path, source.framework)
        trial = loaded.trial
        policy = batch_settings.policy(source.batching, source.config, trial.may_batch)
        servable = TensorServable(executor, platform, loaded.passive, policy, trial.latency)
    servable.memory = loaded.memory
    if isinstance(servable, TensorServable | ModelServable):
        servable.placements = tuple(loaded.placements)
    used = loaded.memory
    log.info(
        "model loaded",
        extra={
            "model": name,
            "memory_bytes": used.cpu_bytes,
            "peak_memory_bytes": used.peak_bytes,
            "gpu_memory_bytes": dict(used.gpu_bytes),
        },
    )
    return servable


@dataclass(frozen=True, slots=True)
class _Loaded:
    """instances: those that answer. concurrency: how many calls a user's Model runs at once."""

    instances: Sequence[Predictor | Model]
    mode: Mode
    memory: Usage
    passive: Sequence[Predictor] = ()
    concurrency: int = 1
    trial: Trial = field(default_factory=lambda: Trial("not tried"))
    placements: Sequence[Placement] = (Placement(),)

    @property
    def predictors(self) -> list[Predictor]:
        return [each for each in self.instances if not isinstance(each, Model)]


def _discard(loading: asyncio.Task[_Loaded]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loaded = loading.result()
        for each in (*loaded.instances, *loaded.passive):
            if isinstance(each, isolation.IsolatedPredictor):
                each.close()


def _load_ready(name: str, source: ModelSource, devices: Devices) -> _Loaded:
    """Load and warm up, and measure both. Blocks."""
    source = placed(name, source, devices)
    if source.isolation is Isolation.PROCESS:
        isolated = _load_isolated(name, source, devices)
        if isolated is not None:
            return isolated
    growth, excess, before = memory.Growth(), 0, _gpus_of(source, devices)
    with growth:
        instances = load_instances(name, source)
        predictors = [each for each in instances if not isinstance(each, Model)]
        mode, trial = Mode.THREAD, Trial("not tried")
        if predictors:
            measured = warm_up(name, predictors, source.config, source.path)
            mode = {Isolation.INLINE: Mode.INLINE, Isolation.AUTO: measured}.get(
                source.isolation, Mode.THREAD
            )
            trial = try_batches(name, predictors[0])
            policy = batch_settings.policy(source.batching, source.config, trial.may_batch)
            most = batch_settings.largest_rows(policy, trial.latency)
            excess = excess_bytes(name, predictors, most)
    peak = growth.bytes + excess if growth.bytes else 0
    used = Usage(growth.bytes, peak, _taken(before, _gpus_of(source, devices)))
    active = sum(not each.is_passive for each in source.placements)
    if not predictors:  # a user's Model: one object, however many run in it
        return _Loaded(instances, mode, used, concurrency=active, placements=source.placements)
    found = _Loaded(*_split(predictors, source.placements, mode, used))
    return replace(found, trial=trial, placements=source.placements)


def _split(
    predictors: Sequence[Predictor], placements: Sequence[Placement], mode: Mode, used: Usage
) -> tuple[Sequence[Predictor], Mode, Usage, Sequence[Predictor]]:
    """What `_Loaded` takes: those that answer, and the passive ones."""
    pairs = list(zip(predictors, placements, strict=True))
    active = [predictor for predictor, placement in pairs if not placement.is_passive]
    passive = [predictor for predictor, placement in pairs if placement.is_passive]
    return active, mode, used, passive


def _gpus_of(source: ModelSource, devices: Devices) -> list[Device]:
    """The GPUs that source is placed on, as they are now."""
    used = {each.device.index for each in source.placements if each.device.is_gpu}
    return [device for device in devices() if device.index in used] if used else []


def _taken(before: Sequence[Device], after: Sequence[Device]) -> dict[int, int]:
    """GPU memory that went between two looks, by index; another load may have taken of it too."""
    free = {device.index: device.free_bytes for device in after}
    return {
        each.index: max(0, each.free_bytes - free[each.index])
        for each in before
        if each.index in free
    }


def placed(name: str, source: ModelSource, devices: Devices = no_gpus) -> ModelSource:
    """source with a placement for every instance. Raises ModelLoadError."""
    if source.placements:
        return source
    use = found_format(source.path, source.framework)[0].gpu
    wants_gpu = any(
        group.kind is Kind.GPU or (group.kind is Kind.AUTO and use is GpuUse.AUTO)
        for group in source.wanted
    )
    gpus = devices() if wants_gpu else ()
    try:
        plan = place(
            source.wanted,
            gpus,
            use,
            file_bytes(source.path) if gpus else 0,  # the least a GPU must hold of it
            has_processes=source.isolation is Isolation.PROCESS,
        )
    except ModelLoadError as err:
        raise ModelLoadError(f"model {name}: {err}") from err
    for note in plan.notes:
        log.warning("not placed as asked", extra={"model": name, "why": note})
    used = sorted({each.device.index for each in plan.placements if each.device.is_gpu})
    if used:
        log.info("model placed", extra={"model": name, "gpus": used})
    return replace(source, placements=plan.placements)


def _load_isolated(name: str, source: ModelSource, devices: Devices) -> _Loaded | None:
    """source in children; None, and a warning, for a user's `Model`."""
    before = _gpus_of(source, devices)
    loads = [_child_load(name, source, each) for each in source.placements]
    predictors = isolation.start(loads)
    told = [each.wait_loaded() for each in predictors]
    if any(each.is_model for each in told):
        isolation.close_all(predictors)
        log.warning("a Model runs in the server's own process", extra={"model": name})
        return None
    used = Usage(
        sum(each.memory.cpu_bytes for each in told),
        sum(each.memory.peak_bytes for each in told),
        _taken(before, _gpus_of(source, devices)),
    )
    found = _Loaded(*_split(predictors, source.placements, Mode.THREAD, used))
    trial = try_batches(name, found.predictors[0])
    return replace(found, trial=trial, placements=source.placements)


def _child_load(name: str, source: ModelSource, placement: Placement) -> Load:
    """What the child of one instance is told. It sees no GPU but its own, which is its first."""
    device = placement.device
    visible = None
    if device.is_gpu:
        visible = device.uuid or str(device.ordinal)
        placement = replace(placement, device=replace(device, ordinal=0))
    alone = replace(source, placements=(placement,), isolation=Isolation.AUTO)
    return Load(name, encode_source(alone), sys.path, source.options.threads, visible)


def encode_source(source: ModelSource) -> bytes:
    """source for a process of our own; `decode_source` undoes it."""
    return msgspec.msgpack.encode(source, enc_hook=str)


def decode_source(encoded: bytes) -> ModelSource:
    return msgspec.msgpack.decode(
        encoded, type=ModelSource, dec_hook=lambda kind, value: kind(value)
    )


def load_instances(name: str, source: ModelSource) -> list[Predictor | Model]:
    """One instance per placement; a user's `Model` is one object, however many run in it.

    Raises ModelLoadError; what a framework raised keeps its class and text in the message.
    """
    model_format, path = found_format(source.path, source.framework)
    downloaded = source.options.is_downloaded or is_downloaded(path)
    options = replace(source.options, model_name=name, is_downloaded=downloaded)
    instances: list[Predictor | Model] = []
    for placement in source.placements or (Placement(),) * source.instances:
        try:
            loaded = model_format.load(path, replace(options, device=placement.torch_name))
        except ServingError:
            raise
        except Exception as err:  # each framework has a family of its own
            raise ModelLoadError(
                f"model {name}: {model_format.name} cannot load {path}: {type(err).__name__}: {err}"
            ) from err
        if isinstance(loaded, Model):
            return [loaded]
        if not isinstance(loaded, Predictor):
            raise ModelLoadError(
                f"model {name}: {path}: {type(loaded).__name__} is neither a headrace.server.Model "
                "nor has it inputs, outputs and predict"
            )
        instances.append(loaded)
    return instances
