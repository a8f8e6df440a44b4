"""What a server and the child process of one of its models say to each other.

    server                      child
    Load(source)         ─▶     loads, warms up
                         ◀─     Loaded, or Failed
    Run(inputs)          ─▶     predicts
                         ◀─     Ran(outputs), or Failed         … and again

Only metadata travels here; tensors lie in two blocks, one each way (shared_block.py).
"""

import msgspec

from headrace.server.memory import Usage
from headrace.server.remote_errors import WireError
from headrace.server.shared_block import Placed
from headrace.server.tensor import TensorSpec


class Load(msgspec.Struct, frozen=True, tag=True):
    """source: a `ModelSource`, encoded by loading.py. import_path: the server's `sys.path`.

    visible: the child's CUDA_VISIBLE_DEVICES; None leaves it as the server's.
    """

    name: str
    source: bytes
    import_path: list[str]
    threads: int
    visible: str | None = None


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """is_model: it is a user's `Model`, which an isolated process does not run."""

    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    platform: str = ""
    memory: Usage = Usage()
    is_model: bool = False


class Run(msgspec.Struct, frozen=True, tag=True):
    inputs: list[Placed]


class Ran(msgspec.Struct, frozen=True, tag=True):
    outputs: list[Placed]


class Failed(msgspec.Struct, frozen=True, tag=True):
    error: WireError


to_child = msgspec.msgpack.Decoder(Load | Run)
from_child = msgspec.msgpack.Decoder(Loaded | Ran | Failed)
encode = msgspec.msgpack.Encoder().encode
