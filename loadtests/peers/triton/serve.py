"""Triton's C++ server with its Python backend, from the wheel of nvidia-pytriton.

Its recommended settings (Triton docs, "Optimization"): dynamic batching on with its defaults where
the model gains by a batch, one instance on the CPU per worker, model control off, logs at error.
"""

import os
import shutil
import stat
import sys
import sysconfig
import tempfile
from pathlib import Path

from loadtests.models import SPEC
from loadtests.peers.command import arguments

DIMS = {"image": ([3, 224, 224], [3]), "onnx": ([64], [16]), "torch": ([64], [16])}

given = arguments()
packages = Path(sysconfig.get_paths()["purelib"]).resolve()
carried = packages / "pytriton" / "tritonserver"
work = Path(tempfile.mkdtemp(prefix="bench-triton-"))
python = f"{sys.version_info.major}.{sys.version_info.minor}"
for folder in ("backends", "bin"):
    shutil.copytree(carried / folder, work / folder, copy_function=os.link)
stub = carried / "python_backend_stubs" / python / "triton_python_backend_stub"
target = work / "backends" / "python" / "triton_python_backend_stub"
target.unlink(missing_ok=True)
shutil.copy(stub, target)
target.chmod(target.stat().st_mode | stat.S_IXUSR)

kind = os.environ[SPEC].partition(":")[0]
inputs, outputs = DIMS.get(kind, ([4], [4]))
model = work / "models" / given.name
(model / "1").mkdir(parents=True)
shutil.copy(Path(__file__).with_name("model.py"), model / "1" / "model.py")
(model / "config.pbtxt").write_text(
    f"""name: "{given.name}"
backend: "python"
max_batch_size: 64
{"dynamic_batching { }" if kind in ("batch", "onnx", "torch") else ""}
input [ {{ name: "x" data_type: TYPE_FP32 dims: {inputs} }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: {outputs} }} ]
instance_group [ {{ kind: KIND_CPU count: {given.workers} }} ]
"""
)
os.environ["LD_LIBRARY_PATH"] = str(packages / "nvidia_pytriton.libs")
os.environ["PYTHONPATH"] = f"{os.environ['PYTHONPATH']}:{packages}"
binary = str(work / "bin" / "tritonserver")
Path(binary).chmod(0o755)
command = [binary, f"--model-repository={work / 'models'}", f"--backend-directory={work}/backends"]
command += ["--http-address=127.0.0.1", f"--http-port={given.http_port}", "--allow-metrics=false"]
command += ["--grpc-address=127.0.0.1", f"--grpc-port={given.grpc_port}"]
command += ["--log-info=false", "--log-warning=false"]
os.execv(binary, command)
