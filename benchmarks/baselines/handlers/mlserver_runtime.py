"""A custom runtime of MLServer, as its documentation shows; `model-settings.json` switches batches on."""

import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.baselines.handlers.served_model import load


class Classifier(MLModel):  # type: ignore[misc]
    """Texts in, an answer as JSON for each."""

    async def load(self) -> bool:
        self.classify = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self.classify(StringCodec.decode_input(payload.inputs[0]))
        output = StringCodec.encode_output("answer", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])
