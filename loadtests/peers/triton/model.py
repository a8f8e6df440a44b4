"""The model on Triton's Python backend: a batch of requests is one call."""

import os
import sys

sys.path[:0] = os.environ["PYTHONPATH"].split(":")  # the stub's interpreter does not read it

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402

from loadtests import models  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        self.function = models.from_environment()

    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        if len(inputs) == 1:
            parts = [self.function(inputs[0])]
        else:
            ends = np.cumsum([len(each) for each in inputs])[:-1]
            parts = np.split(self.function(np.concatenate(inputs)), ends)
        return [pb.InferenceResponse([pb.Tensor("y", np.ascontiguousarray(y))]) for y in parts]
