"""`ModelRepository`: KServe's dictionary of models (contract §6.4), and how the server loads by it.

Users subclass it to load models by name from a folder. `RepositoryLoader` makes it a `Loader`:
what is registered at the start is served as it is, ready or not; a load request goes to the user's
`load(name)`.
"""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.server import batch_settings
from headrace.server.batch_settings import NOTHING_SAID, BatchWishes
from headrace.server.errors import ModelLoadError, ModelNotFound
from headrace.server.execution import QueueLimits
from headrace.server.model import Model
from headrace.server.model_servable import ModelServable
from headrace.server.repository import ServedModel
from headrace.server.settings import Isolation

MODEL_MOUNT_DIRS = "/mnt/models"


class ModelRepository:
    """Models by name; an alias is a second name of the same model."""

    def __init__(self, models_dir: str = MODEL_MOUNT_DIRS) -> None:
        self.models: dict[str, Model] = {}
        self.models_dir = models_dir

    def set_models_dir(self, models_dir: str) -> None:
        self.models_dir = models_dir

    def get_model(self, name: str) -> Model | None:
        return self.models.get(name)

    def get_models(self) -> dict[str, Model]:
        return self.models

    async def is_model_ready(self, name: str) -> bool:
        model = self.get_model(name)
        return False if model is None else bool(await model.healthy())

    def update(self, model: Model, name: str | None = None) -> None:
        """Register model under name, or its own."""
        self.models[name or model.name] = model

    def load(self, name: str) -> Any:
        """Override to make the model called name and `update` it; sync or async, true if ready."""

    def load_model(self, name: str) -> Any:
        """As `load`, of one sub-folder of models_dir."""

    def load_models(self) -> None:
        """`load_model` each sub-folder of models_dir."""
        for folder in sorted(Path(self.models_dir).iterdir()):
            if folder.is_dir():
                self.load_model(folder.name)

    def unload(self, name: str) -> None:
        """Stop the model called name and forget it. Raises KeyError if there is none."""
        if name not in self.models:
            raise KeyError(f"model with name {name} does not exist")
        self.models.pop(name).stop()


class RepositoryLoader:
    """Loads what models holds, or can load. batching: what the flags say of it."""

    def __init__(
        self,
        models: ModelRepository,
        limits: QueueLimits = QueueLimits(),
        batching: BatchWishes = NOTHING_SAID,
        isolation: Isolation = Isolation.AUTO,
    ) -> None:
        self._models = models
        self._limits = limits
        self._batching = batching
        self._isolation = isolation
        self._servables: dict[int, ModelServable] = {}  # by the model's id: aliases share one
        self._started: set[str] = set()
        self._known: dict[str, Model] = {}  # what was unloaded may be loaded again

    def names(self) -> Sequence[str]:
        names = {**self._models.get_models(), **self._known}
        if type(self._models).load is not ModelRepository.load:
            folder = Path(self._models.models_dir)
            found = sorted(folder.iterdir()) if folder.is_dir() else []
            names.update({each.name: None for each in found if each.is_dir()})  # type: ignore[misc]
        return list(names)

    async def load(self, name: str, parameters: Mapping[str, Any]) -> Sequence[ServedModel]:
        """At the start, what is registered; later, whatever the user's `load` makes of name.

        Raises ModelNotFound, or ModelLoadError where it is not ready after a load request.
        """
        model = self._models.get_model(name)
        if model is not None and name not in self._started:
            self._started.add(name)
            return [ServedModel(name, await self._servable(name, model))]
        was = model
        await self._load(name)
        model = self._models.get_model(name)
        if model is None and (model := self._known.get(name)) is not None:
            await asyncio.to_thread(model.load)
            self._models.update(model, name)
        if model is None:
            raise ModelNotFound(name)
        self._started.add(name)
        if model is was:
            self._servables.pop(id(model)).release()
        servable = await self._servable(name, model)
        if not await servable.is_ready():
            raise ModelLoadError(f"Model with name {name} is not ready after its load.")
        return [ServedModel(name, servable)]

    async def _load(self, name: str) -> None:
        try:
            # user code, and often minutes of it: off the loop
            loaded = await asyncio.to_thread(self._models.load, name)
            if inspect.isawaitable(loaded):
                await loaded
        except ModelLoadError:
            raise
        except Exception as err:
            raise ModelLoadError(
                f"Model with name {name} did not load: {type(err).__name__} : {err}"
            ) from err

    async def _servable(self, name: str, model: Model) -> ModelServable:
        servable = self._servables.get(id(model))
        if servable is None:
            policy = batch_settings.of_model(model, self._batching, {})
            servable = ModelServable(
                model,
                self._limits,
                on_stop=self._forget,
                policy=policy,
                isolation=self._isolation,
            )
            self._servables[id(model)] = servable
            await servable.start()
        self._known[name] = model
        return servable

    def _forget(self, model: Model) -> Any:
        """Stops model as KServe does, by the repository's `unload` where it still holds it."""
        self._servables.pop(id(model), None)
        held = [name for name, each in self._models.get_models().items() if each is model]
        for name in held:
            self._models.unload(name)
        return None if held else model.stop()
