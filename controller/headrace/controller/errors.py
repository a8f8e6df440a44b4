"""Refusals of the pure core."""

from enum import StrEnum


class Denied(ValueError):
    """An object that admission refuses. The text is KServe's, without the webhook's preamble."""


class Failure(StrEnum):
    """status.modelStatus.lastFailureInfo.reason, as far as a spec alone can cause it."""

    RUNTIME_DISABLED = "RuntimeDisabled"
    NO_SUPPORTING_RUNTIME = "NoSupportingRuntime"
    RUNTIME_NOT_RECOGNIZED = "RuntimeNotRecognized"
    INVALID_PREDICTOR_SPEC = "InvalidPredictorSpec"


class InvalidPredictor(ValueError):
    """A predictor that no pod can be made of. The text is the event's."""

    def __init__(self, failure: Failure, message: str, shown: str | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.shown = shown or message  # lastFailureInfo.message
