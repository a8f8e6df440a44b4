"""The JSON schemas of /openapi.json, by name: the Open Inference Protocol's objects and ours."""

from typing import Any

from headrace.server.tensor import Datatype


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def obj(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object of these properties; more may be there."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
    }


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


STRING = {"type": "string"}
BOOLEAN = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
ANY: dict[str, Any] = {}
_DURATION = ref("Duration")
_SHAPE = array({"type": "integer", "minimum": -1})
_DATATYPE = {"type": "string", "enum": [datatype.value for datatype in Datatype]}
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")

SCHEMAS: dict[str, Any] = {
    "Error": obj({"error": STRING}, detail=ANY),
    "Alive": obj({"status": {"const": "alive"}}),
    "Live": obj({"live": BOOLEAN}),
    "Ready": obj({"ready": BOOLEAN}),
    "NotReady": obj({"error": STRING}, ready=BOOLEAN),
    "ModelReady": obj({"name": STRING, "ready": BOOLEAN}),
    "Models": obj({"models": array(STRING)}),
    "ServerMetadata": obj({"name": STRING, "version": STRING, "extensions": array(STRING)}),
    "TensorMetadata": obj({"name": STRING, "datatype": _DATATYPE, "shape": _SHAPE}),
    "ModelMetadata": obj(
        {
            "name": STRING,
            "versions": array(STRING),
            "platform": STRING,
            "inputs": array(ref("TensorMetadata")),
            "outputs": array(ref("TensorMetadata")),
        }
    ),
    "Parameters": {
        "type": "object",
        "description": "Strings, numbers and booleans by name. `timeout` is in microseconds.",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "RequestInput": obj(
        {"name": STRING, "shape": _SHAPE, "datatype": _DATATYPE},
        parameters=ref("Parameters"),
        data={"type": "array", "description": "The elements, flat or nested as in shape."},
    ),
    "RequestOutput": obj({"name": STRING}, parameters=ref("Parameters")),
    "InferenceRequest": obj(
        {"inputs": {**array(ref("RequestInput")), "minItems": 1}},
        id=STRING,
        parameters=ref("Parameters"),
        outputs=array(ref("RequestOutput")),
    ),
    "ResponseOutput": obj(
        {"name": STRING, "shape": _SHAPE, "datatype": _DATATYPE},
        parameters=ref("Parameters"),
        data=array(ANY),
    ),
    "InferenceResponse": obj(
        {"model_name": STRING, "id": STRING, "outputs": array(ref("ResponseOutput"))},
        model_version=STRING,
        parameters=ref("Parameters"),
    ),
    "V1Request": {
        "description": "Any JSON; the model decides. Usually an object with `instances`.",
        "examples": [{"instances": [[6.8, 2.8, 4.8, 1.4]]}],
    },
    "V1Response": {"description": "Whatever the model returns, usually with `predictions`."},
    "GenerateRequest": obj({}, id=STRING, text_input=ANY, parameters=ref("Parameters")),
    "GenerateResponse": obj({"model_name": STRING}, id=STRING, model_version=STRING),
    "IndexRequest": obj({}, ready=BOOLEAN),
    "Index": array(
        obj(
            {"name": STRING},
            version=STRING,
            state={"enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE", "UNKNOWN"]},
            reason=STRING,
        )
    ),
    "RepositoryRequest": obj({}, parameters={"type": "object"}),
    "Loaded": obj({"name": STRING, "load": BOOLEAN}),
    "Unloaded": obj({"name": STRING, "unload": BOOLEAN}),
    "Duration": obj({"count": COUNT, "ns": COUNT}),
    "Batching": obj(
        {
            "name": STRING,
            "version": STRING,
            "policy": {"type": "object"},
            "waiting": obj({"requests": COUNT, "groups": COUNT}),
            "running": COUNT,
            "dispatched": {"type": "object", "additionalProperties": COUNT},
            "refused": {"type": "object", "additionalProperties": COUNT},
            "latency": array({"type": "object"}),
            "recent": array(obj({"reason": STRING, "requests": COUNT, "rows": COUNT})),
        }
    ),
    "Statistics": obj(
        {
            "model_stats": array(
                obj(
                    {
                        "name": STRING,
                        "version": STRING,
                        "last_inference": COUNT,
                        "inference_count": COUNT,
                        "execution_count": COUNT,
                        "inference_stats": obj(
                            dict.fromkeys(("success", "fail", *_STAGES), _DURATION)
                        ),
                        "batch_stats": array({"type": "object"}),
                    }
                )
            )
        }
    ),
    "ModelConfig": obj(
        {
            "name": STRING,
            "platform": STRING,
            "max_batch_size": COUNT,
            "input": array({"type": "object"}),
            "output": array({"type": "object"}),
        }
    ),
    "LogSettings": obj(
        {},
        log_file=STRING,
        log_info=BOOLEAN,
        log_warning=BOOLEAN,
        log_error=BOOLEAN,
        log_verbose_level=COUNT,
        log_format=STRING,
    ),
    "TraceSettings": obj(
        {},
        trace_level=array(STRING),
        trace_rate=STRING,
        trace_count=STRING,
        log_frequency=STRING,
        trace_file=STRING,
        trace_mode=STRING,
    ),
}
