"""Whatever arrives, a codec answers with a value or with the caller's mistake, nothing else."""

import contextlib
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.server.errors import InvalidInput, ServingError
from headrace.server.protocol import cloudevents, compression, generate, v1, v2_rest
from headrace.server.protocol.limits import ParseLimits
from headrace.server.protocol.v1_tensors import to_tensors
from headrace.server.tensor import Datatype, TensorSpec

LIMITS = ParseLimits()
DECLARED = [TensorSpec("x", Datatype.FP32, (-1, 2)), TensorSpec("t", Datatype.BYTES, (-1,))]
FUZZ = settings(derandomize=True, max_examples=300, deadline=None)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["x", "t", "", "FP32", "INT64", "BYTES", "BOOL", "FP16", "YQ==", "base64"])
)
keys = st.sampled_from(
    [
        "x",
        "t",
        "id",
        "name",
        "shape",
        "datatype",
        "data",
        "inputs",
        "outputs",
        "parameters",
        "binary_data_size",
        "binary_data",
        "classification",
        "content_type",
        "b64",
        "instances",
        "specversion",
        "source",
        "type",
        "data_base64",
        "text_input",
        "shared_memory_region",
    ]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=15,
)
dims = st.lists(st.integers(-2, 3) | st.sampled_from([2**31, 2**62]), max_size=3)
inputs = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "t", "u"]),
        "shape": dims,
        "datatype": st.sampled_from([*Datatype, "fp32", "FP8"]),
    },
    optional={
        "data": st.lists(values, max_size=4),
        "parameters": st.dictionaries(keys, scalars, max_size=2),
    },
)
envelopes = st.fixed_dictionaries(
    {"inputs": st.lists(inputs, max_size=3)},
    optional={"parameters": values, "outputs": values, "id": scalars},
)


@FUZZ
@given(body=envelopes | values, blob=st.binary(max_size=24), declares_length=st.booleans())
def test_v2(body: Any, blob: bytes, declares_length: bool) -> None:
    text = orjson.dumps(body)
    with contextlib.suppress(ServingError):
        envelope = v2_rest.parse(text + blob, len(text) if declares_length else None, LIMITS)
        v2_rest.to_request(envelope, "m", DECLARED, LIMITS)


@FUZZ
@given(body=st.binary(max_size=64))
@example(
    body=b'{"inputs":[{"name":"x","shape":[9223372036854775807],"datatype":"FP64","data":[]}]}'
)
def test_v2_bytes(body: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        v2_rest.to_request(v2_rest.parse(body, None, LIMITS), "m", [], LIMITS)
    with contextlib.suppress(InvalidInput):
        v2_rest.raw_binary_request(body, "m", DECLARED[:1])


@FUZZ
@given(rows=values, is_declared=st.booleans(), key=st.sampled_from(["inputs", "instances"]))
def test_v1(rows: Any, is_declared: bool, key: str) -> None:
    with contextlib.suppress(InvalidInput):
        to_tensors({key: rows}, DECLARED if is_declared else DECLARED[:1])
    with contextlib.suppress(InvalidInput):
        to_tensors({key: rows}, [])


@FUZZ
@given(body=values)
def test_generate(body: Any) -> None:
    for declared in (DECLARED, []):
        with contextlib.suppress(InvalidInput):
            generate.to_request(body, "m", declared)


@FUZZ
@given(
    body=st.binary(max_size=40) | values.map(orjson.dumps),
    content_type=st.none() | st.sampled_from([cloudevents.STRUCTURED, "text/plain"]) | st.text(),
)
def test_cloudevents_and_v1_bodies(body: bytes, content_type: str | None) -> None:
    with contextlib.suppress(InvalidInput):
        cloudevents.decode(body, content_type, {}, LIMITS)
    with contextlib.suppress(InvalidInput):
        v1.decode(body, content_type, LIMITS)


@FUZZ
@given(body=st.binary(max_size=64), encoding=st.sampled_from(["gzip", "deflate"]))
@example(body=compression.compress(b"x" * 100, "gzip")[:-1], encoding="gzip")
def test_compression(body: bytes, encoding: str) -> None:
    with contextlib.suppress(InvalidInput):
        compression.decompress(body, encoding, max_bytes=1000)
