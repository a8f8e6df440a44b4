"""BentoML.

Its recommended settings (BentoML docs, "Workers" and "Adaptive batching"): one worker per core;
batchable with the default max_batch_size 100 and max_latency_ms 60000 for the models whose cost
is shared by a batch.
"""

import os
import sys
from pathlib import Path

from loadtests.peers.command import arguments

given = arguments()
os.environ["HEADRACE_BENCH_WORKERS"] = str(given.workers)
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.chdir(Path(__file__).parent)
bentoml = str(Path(sys.executable).with_name("bentoml"))
command = [bentoml, "serve", "service:Bench", "--host", "127.0.0.1"]
os.execv(bentoml, [*command, "--port", str(given.http_port)])
