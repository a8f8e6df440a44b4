"""The child process of one isolated model: `python -m headrace.server.isolated FD FD FD`.

Started by isolation.py with three file descriptors: the connection, the block of inputs and the
block of outputs. It ends when the server closes the connection, or is gone.
"""

import os
import select
import sys
import threading
from multiprocessing.connection import Connection

from headrace.server import batch_settings, memory
from headrace.server.isolation_messages import Failed, Load, Loaded, Ran, Run, encode, to_child
from headrace.server.loading import decode_source, load_instances
from headrace.server.model import Model
from headrace.server.model_files import find_name
from headrace.server.predictor import Predictor
from headrace.server.remote_errors import to_wire
from headrace.server.shared_block import Block
from headrace.server.warm_up import excess_bytes, warm_up

# Libraries that size their pools from these do so when they are imported, which is after this.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(argv: list[str]) -> int:
    fd, inputs_fd, outputs_fd = (int(each) for each in argv)
    connection, inputs, outputs = Connection(fd), Block(inputs_fd), Block(outputs_fd)
    threading.Thread(target=_end_with_the_server, args=(fd,), daemon=True).start()
    predictor: Predictor | None = None
    while True:
        try:
            message = to_child.decode(connection.recv_bytes())
        except EOFError:
            return 0
        answer: Loaded | Ran | Failed
        try:
            if isinstance(message, Load):
                predictor, answer = load(message)
            else:
                answer = run(predictor, message, inputs, outputs)
        except BaseException as err:  # sys.exit in a model is that request's failure
            answer = Failed(to_wire(err))
        connection.send_bytes(encode(answer))


def load(message: Load) -> tuple[Predictor | None, Loaded]:
    """Raises ModelLoadError."""
    sys.path[:] = message.import_path
    for name in THREADS:
        os.environ.setdefault(name, str(message.threads))
    if message.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = message.visible  # CUDA reads it when it is first used
    source = decode_source(message.source)
    (loaded,) = load_instances(message.name, source)
    if isinstance(loaded, Model):
        return None, Loaded(is_model=True)
    warm_up(message.name, [loaded], source.config, source.path)
    platform = getattr(loaded, "platform", "") or find_name(source.path, source.framework)
    # a learned size is learned by the server, from the outside
    policy = batch_settings.policy(source.batching, source.config, may_batch=False)
    excess = excess_bytes(message.name, [loaded], policy.max_batch_size)
    size = memory.pss_bytes()
    used = memory.Usage(size, size + excess)
    return loaded, Loaded(list(loaded.inputs), list(loaded.outputs), platform, used)


def run(predictor: Predictor | None, message: Run, inputs: Block, outputs: Block) -> Ran:
    assert predictor is not None, "Run before Loaded"
    return Ran(outputs.put(predictor.predict(inputs.views(message.inputs))))


def _end_with_the_server(fd: int) -> None:
    """The main thread may be in a call that never ends; nobody waits for it any more then."""
    poll = select.poll()
    poll.register(fd, 0)  # hang-up is always told
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
