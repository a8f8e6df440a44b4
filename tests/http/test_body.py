"""Bodies of known length: where their bytes land, and what does not fit."""

import numpy as np
import pytest

from headrace.http.body import MAPPED_BYTES, KnownBody
from headrace.http.limits import Refusal


@pytest.mark.parametrize("size", [5, MAPPED_BYTES, MAPPED_BYTES + 5])
def test_pieces_land_one_after_the_other(size: int) -> None:
    body = KnownBody(size, 0)
    body.take(b"ab")
    body.room[:1] = b"c"
    body.came(1)
    assert not body.is_whole
    assert len(body.room) == size - 3
    body.take(bytes(size - 3))
    assert body.is_whole
    assert bytes(body.content) == b"abc" + bytes(size - 3)


@pytest.mark.parametrize("size", [1000, MAPPED_BYTES + 1000])
@pytest.mark.parametrize("at", [0, 1, 16, 331])
def test_what_is_to_be_aligned_is(size: int, at: int) -> None:
    content = KnownBody(size, at).content
    assert np.frombuffer(content[at:], np.uint8).ctypes.data % 16 == 0


@pytest.mark.parametrize("size", [10**18, 2**63])
def test_more_than_a_machine_can_hold(size: int) -> None:
    with pytest.raises(Refusal) as caught:
        KnownBody(size, 0)
    assert (caught.value.status, caught.value.text) == (
        413,
        f"the body has {size} bytes, more than this machine can hold",
    )
