"""Refusals of the pure core."""


class Denied(ValueError):
    """An object that admission refuses. The text is KServe's, without the webhook's preamble."""


class RuntimeRefused(ValueError):
    """No runtime can serve the model. reason: the value of status.modelStatus.lastFailureInfo."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
