"""Which tag of a runtime's image is used (contract §4.3)."""

from headrace.controller.api.pod import Container

GPU_TAGGED = frozenset({"tensorflow-serving", "torchserve", "huggingfaceserver"})
VLLM = "vllmserver"


def tagged(container: Container, server_type: str, runtime_version: str | None) -> str:
    """container's image after runtimeVersion and the GPU rules; a digest is never changed."""
    image = container.get("image", "")
    if "@" in image:
        return image
    repository, tag = split(image)
    if runtime_version:
        return f"{repository}:{runtime_version}"
    wants_gpu = requests_gpu(container)
    if server_type in GPU_TAGGED and wants_gpu:
        return f"{repository}:{tag or 'latest'}-gpu"
    if server_type == VLLM and not wants_gpu:
        return f"{repository}-cpu:{tag or 'latest'}"
    return image


def split(image: str) -> tuple[str, str]:
    """Repository and tag; a colon before the last slash belongs to the registry's port."""
    folder, slash, name = image.rpartition("/")
    repository, _, tag = name.partition(":")
    return f"{folder}{slash}{repository}", tag


def requests_gpu(container: Container) -> bool:
    limits = container.get("resources", {}).get("limits", {})
    return any(name == "nvidia.com/gpu" or name.startswith("nvidia.com/mig") for name in limits)
