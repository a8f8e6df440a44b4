"""The model as an MLServer runtime."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from loadtests import models


class Bench(MLModel):
    async def load(self):
        self.function = models.from_environment()
        return True

    async def predict(self, payload):
        x = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("y", self.function(x))
        return InferenceResponse(model_name=self.name, outputs=[output])
