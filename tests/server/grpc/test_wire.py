"""Cutting raw contents out of a message and joining them to one: as protobuf would have done."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.server.grpc import codec, wire


@given(st.text(), st.lists(st.binary(max_size=300)), st.text())
def test_split_and_join_agree_with_protobuf(name: str, raw: list[bytes], request_id: str) -> None:
    whole = codec.ModelInferRequest(model_name=name, id=request_id, raw_input_contents=raw)
    head, cut = wire.split_field(whole.SerializeToString(), codec.RAW_INPUTS)
    assert [bytes(view) for view in cut] == raw
    rest = codec.ModelInferRequest.FromString(head)
    assert (rest.model_name, rest.id, list(rest.raw_input_contents)) == (name, request_id, [])
    assert codec.ModelInferRequest.FromString(wire.join_field(head, codec.RAW_INPUTS, cut)) == whole


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_left_to_protobuf(message: bytes) -> None:
    """Whatever comes, splitting raises nothing, and finds nothing in what protobuf refuses."""
    head, cut = wire.split_field(message, codec.RAW_INPUTS)
    if not cut:
        assert head == message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x3a\x05ab", id="a field longer than the message"),
        pytest.param(b"\x3a", id="a field without its length"),
        pytest.param(b"\x3b", id="a group, which proto3 has not"),
        pytest.param(b"\xff" * 11, id="a varint without an end"),
    ],
)
def test_a_cut_off_message_is_returned_whole(message: bytes) -> None:
    assert wire.split_field(message, codec.RAW_INPUTS) == (message, [])


def test_fields_of_every_wire_type_before_and_after_are_kept() -> None:
    before, after = b"\x08\x96\x01" + b"\x31" + b"8" * 8, b"\x2d" + b"4" * 4
    message = before + wire.join_field(b"", codec.RAW_INPUTS, [b"raw"]) + after
    head, cut = wire.split_field(message, codec.RAW_INPUTS)
    assert (head, [bytes(view) for view in cut]) == (before + after, [b"raw"])


def test_cut_out_contents_are_views_of_the_message() -> None:
    message = wire.join_field(b"", codec.RAW_INPUTS, [bytes(1000)])
    _, (view,) = wire.split_field(message, codec.RAW_INPUTS)
    assert np.shares_memory(np.frombuffer(view, "u1"), np.frombuffer(message, "u1"))
