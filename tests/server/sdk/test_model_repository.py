"""ModelRepository and ModelServer: what is registered, loaded, unloaded (contract §6.3, §6.4)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.server import Model, ModelLoadError, ModelNotFound, ModelRepository, ModelServer
from headrace.server.model_repository import RepositoryLoader
from headrace.server.repository import Repository
from headrace.server.request import Context


class Named(Model):
    def __init__(self, name: str, ready: bool = True) -> None:
        super().__init__(name)
        self.ready = ready
        self.loads = 0
        self.stops = 0

    def load(self) -> bool:
        self.loads += 1
        self.ready = True
        return True

    def stop(self) -> None:
        self.stops += 1
        super().stop()

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return {"predictions": []}


class Folders(ModelRepository):
    """Loads a Named for each sub-folder, as KServe's runtimes do."""

    def load(self, name: str) -> bool:
        if (Path(self.models_dir) / name / "broken").exists():
            raise ValueError("no such format")
        self.update(Named(name, (Path(self.models_dir) / name / "model").exists()))
        return True

    def load_model(self, name: str) -> bool:
        return self.load(name)


def test_a_repository_is_a_dictionary_of_models() -> None:
    models = ModelRepository()
    model = Named("a")
    models.update(model)
    models.update(model, "alias")
    assert models.get_models() == {"a": model, "alias": model}
    assert models.get_model("b") is None
    assert asyncio.run(models.is_model_ready("a")) is True
    assert asyncio.run(models.is_model_ready("b")) is False
    models.unload("a")
    assert (list(models.models), model.stops, model.ready) == (["alias"], 1, False)
    with pytest.raises(KeyError) as caught:
        models.unload("a")
    assert caught.value.args == ("model with name a does not exist",)


def test_load_models_loads_each_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    models = Folders(str(tmp_path))
    models.load_models()
    assert sorted(models.models) == ["a", "b"]


def test_what_is_registered_is_served_ready_or_not_without_a_load() -> None:
    async def main() -> tuple[list[str], list[bool]]:
        models = ModelRepository()
        one, other = Named("one"), Named("other", ready=False)
        models.update(one)
        models.update(other)
        repository = Repository(RepositoryLoader(models))
        names = list(repository.loader.names())
        for name in names:
            await repository.load(name)
        assert (one.loads, other.loads) == (0, 0)
        ready = [await model.servable.is_ready() for model in repository.all()]
        await repository.close()
        return names, ready

    assert asyncio.run(main()) == (["one", "other"], [True, False])


def test_unloaded_models_load_again() -> None:
    async def main() -> tuple[int, int]:
        models = ModelRepository()
        model = Named("m")
        models.update(model)
        repository = Repository(RepositoryLoader(models))
        await repository.load("m")
        await repository.unload("m")
        assert models.get_models() == {}
        await repository.load("m")
        assert await repository.find("m").servable.is_ready()
        return model.loads, model.stops

    assert asyncio.run(main()) == (1, 1)


def test_a_reload_of_the_same_model_does_not_stop_it() -> None:
    async def main() -> int:
        models = ModelRepository()
        model = Named("m")
        models.update(model)
        repository = Repository(RepositoryLoader(models))
        await repository.load("m")
        await repository.load("m")
        await asyncio.sleep(0)  # let the old one retire
        assert await repository.find("m").servable.is_ready()
        assert await repository.find("m").servable.predict({}, Context()) == {"predictions": []}
        return model.stops

    assert asyncio.run(main()) == 0


def test_a_load_request_goes_to_the_users_repository(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model").touch()

    async def main() -> list[bool]:
        models = Folders(str(tmp_path))
        repository = Repository(RepositoryLoader(models))
        await repository.load("new")
        first = models.get_model("new")
        await repository.load("new")
        second = models.get_model("new")
        await asyncio.sleep(0)
        assert isinstance(first, Named)
        return [first is not second, first.stops == 1, bool(second and second.ready)]

    assert asyncio.run(main()) == [True, True, True]


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        (
            "broken",
            ModelLoadError,
            "Model with name new did not load: ValueError : no such format",
        ),
        ("other", ModelLoadError, "Model with name new is not ready after its load."),
    ],
)
def test_a_failed_load_says_why(
    tmp_path: Path, file: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / file).touch()
    repository = Repository(RepositoryLoader(Folders(str(tmp_path))))
    with pytest.raises(error) as caught:
        asyncio.run(repository.load("new"))
    assert str(caught.value) == message


def test_an_unknown_name_is_not_found() -> None:
    repository = Repository(RepositoryLoader(ModelRepository()))
    with pytest.raises(ModelNotFound) as caught:
        asyncio.run(repository.load("nobody"))
    assert str(caught.value) == "Model with name nobody does not exist."


def test_a_server_registers_aliases_and_refuses_models_without_a_name() -> None:
    server = ModelServer(http_port=0, grpc_port=0)
    model = Named("m")
    server.register_model(model)
    server.register_model(model, "alias")
    assert list(server.registered_models.get_models()) == ["m", "alias"]
    with pytest.raises(ValueError) as caught:
        server.register_model(Named(""))
    assert str(caught.value) == "Failed to register model, model.name must be provided."
