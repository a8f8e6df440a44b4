"""What the files in predictors/ implement, and how the server finds and loads them.

A predictor is a plain class with `inputs`, `outputs` and `predict`; readiness, metrics, queueing
and timeouts wrap it from outside (servable.py). A predictor file exports one `PredictorFormat`
under the entry-point group `headrace.predictors`; it must import without its framework, which
`load` imports.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from headrace.server.errors import ModelLoadError
from headrace.server.placement import GpuUse
from headrace.server.tensor import Tensor, TensorSpec

if TYPE_CHECKING:
    from headrace.server.model import Model

GROUP = "headrace.predictors"


@runtime_checkable
class Predictor(Protocol):
    """inputs, outputs: what the model file declares; empty where it does not know."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def predict(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """One execution. Called off the event loop, never by more threads than instances."""
        ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What an operator may say about one model.

    threads: CPU threads this instance may use. device: where it is to run, in PyTorch's spelling
    ("cpu", "cuda:0"), or "" where the model decides; given to each instance by its instance_group.
    parameters: framework settings by name, from a config.pbtxt, a model-settings.json or the
    predictor's own flags.
    """

    model_name: str = "model"
    threads: int = 1
    device: str = "cpu"
    is_downloaded: bool = False  # the source was not a local path: its code needs trust_code
    trust_pickle: bool = False  # --trust-pickle
    trust_code: bool = False  # --trust-code
    predict_proba: bool = False  # env PREDICT_PROBA, KServe's
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictorFormat:
    """name: the manifest's modelFormat. extensions: of its model files, with the dot, lower case.

    load(path, options) gets the model file, or the folder where `finds` is set; it returns a
    Predictor, or a `headrace.server.Model`. claims(path) says, without importing the framework,
    whether a file or folder is certainly of this format; used when nobody named one. gpu: whether
    load heeds `options.device`, and so whether KIND_AUTO gives it a GPU.
    """

    name: str
    load: Callable[[Path, LoadOptions], "Predictor | Model"]
    extensions: tuple[str, ...] = ()
    claims: Callable[[Path], bool] | None = None
    wants_folder: bool = False
    gpu: GpuUse = GpuUse.NEVER


def known_formats() -> dict[str, EntryPoint]:
    """Installed predictors by name; loading an entry point yields its PredictorFormat."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find_format(name: str) -> PredictorFormat:
    """Raises ModelLoadError naming the known formats if there is none called name."""
    points = known_formats()
    if name not in points:
        raise ModelLoadError(
            f"--framework {name}: no such predictor; installed: {', '.join(sorted(points))}"
        )
    loaded: PredictorFormat = points[name].load()
    return loaded
