"""Where the figures were measured: the machine and the generators, for the record.

python loadtests/machine.py SECONDS     spins, and prints how far it counted (for neighbour())
"""

import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def moment() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": now, "load_average": os.getloadavg()[0]}


def described(spin_s: float = 0.4) -> dict[str, Any]:
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "generators": {name: version(name) for name in ("wrk", "h2load")},
        "beside_a_busy_core": neighbour(spin_s),
    }


def cpu() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor()


def version(name: str) -> str:
    if shutil.which(name) is None:
        return "absent: our own client"
    done = subprocess.run([name, "--version"], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def pinned(cores: str) -> list[str]:
    """What to write before a command so that it stays on cores; nothing without taskset."""
    return ["taskset", "-c", cores] if shutil.which("taskset") else []


def neighbour(seconds: float) -> float:
    """What a core computes while the next one is busy, of what it computes alone.

    1: real cores. Two threads of one core give about 0.6; there the load generator slows down the
    server it measures, every server by about the same part.
    """
    alone = float(_spin("0", seconds).communicate()[0])
    busy = _spin("1", seconds * 3)
    beside = float(_spin("0", seconds).communicate()[0])
    busy.communicate()
    return round(beside / alone, 2)


def _spin(core: str, seconds: float) -> "subprocess.Popen[str]":
    command = [*pinned(core), sys.executable, __file__, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def spin(seconds: float) -> int:
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        count += 1
    return count


if __name__ == "__main__":
    print(spin(float(sys.argv[1])))
