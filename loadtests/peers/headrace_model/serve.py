"""headrace with the KServe custom model of peers/kserve: only the import differs."""

import os
import runpy
from pathlib import Path

os.environ["HEADRACE_BENCH_LIBRARY"] = "headrace.server"
runpy.run_path(str(Path(__file__).parents[1] / "kserve" / "serve.py"), run_name="__main__")
