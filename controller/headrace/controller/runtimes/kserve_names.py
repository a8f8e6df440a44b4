"""What KServe's own runtimes and images are where only ours can run: on this machine."""

from msgspec.structs import replace

from headrace.controller.api.inference_service import Model
from headrace.controller.runtimes.builtin import VERSIONS, runtime_name
from headrace.controller.runtimes.images import split

# A runtime of KServe's, and the formats for which ours stands in.
FORMATS = {
    "kserve-sklearnserver": ("sklearn",),
    "kserve-xgbserver": ("xgboost",),
    "kserve-lgbserver": ("lightgbm",),
    "kserve-predictiveserver": ("sklearn", "xgboost", "lightgbm"),
    "kserve-mlserver": ("sklearn", "xgboost", "lightgbm", "mlflow"),
    "kserve-tritonserver": ("onnx", "pytorch"),
    "kserve-torchserve": ("pytorch",),
}
# The last part of an image's repository, and the --framework that it means; "": the files say.
IMAGES = {
    "sklearnserver": "sklearn",
    "xgbserver": "xgboost",
    "lgbserver": "lightgbm",
    "predictiveserver": "",
    "mlserver": "",
    "tritonserver": "",
    "torchserve-kfs": "pytorch",
}
OURS = "headrace"


def with_local_runtime(model: Model) -> Model:
    """model, naming our runtime where it names one of KServe's that ours stands in for."""
    model_format = model.model_format.name
    if model.runtime in FORMATS and model_format in FORMATS[model.runtime]:
        return replace(model, runtime=runtime_name(model_format))
    return model


def framework_of_image(image: str) -> str | None:
    """The --framework a model server's image stands for, "" for any; None: not a model server."""
    repository, _ = split(image.partition("@")[0])
    folder, _, name = repository.rpartition("/")
    if folder.rpartition("/")[2] == OURS:
        return name if name in VERSIONS else ""
    return IMAGES.get(name)
