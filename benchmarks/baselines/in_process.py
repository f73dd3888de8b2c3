"""Baselines: the same checkpoint, run as other projects' documentation shows, as rows of the same run.

Each has its own tokenizer padded to the longest text of a batch (no grid, no warm-up, no plan) and is given
the run's number of threads, so that no row loses by a default. Nothing of `handler` is imported: its settings
for OpenMP and tokenizers are not what a user without this project has.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.names import PIPELINE, TFIDF

BATCH_SIZE = 32
CUDA_BATCH_SIZE = 256
CALIBRATION_TEXTS = 300
WEIGHTS = "model.safetensors"
EXPORTED, QUANTISED = "model.onnx", "model_quantized.onnx"
TORCHAO, PACKAGES = "torchao==0.18.0", "packages"

Inputs = dict[str, Any]
"""What a tokenizer returns: `input_ids` and `attention_mask`, [texts, tokens]."""


class Tokens(NamedTuple):
    """A tokenised text."""

    ids: list[int]


class Scored(NamedTuple):
    """Probabilities of one text, float64 [labels], not calibrated: softmax, or sigmoids where the model's
    configuration says that labels are independent, is all that a baseline knows."""

    scores: np.ndarray


class Classifier:
    """What a worker times, in the Predictor's words: `encode`, `logits`, `predict`, `answer`, `warm`."""

    def __init__(
        self,
        tokenizer: Any,
        forward: Callable[[Inputs], Any],
        config: Any,
        max_length: int,
        device: str = "cpu",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.device = device
        self._batch_size = batch_size
        self.labels = [label for _, label in sorted(config.id2label.items())]
        self._independent = config.problem_type == "multi_label_classification"
        self._tokenize = partial(tokenizer, truncation=True, max_length=max_length)
        self._forward = forward
        self._token_types = "token_type_ids" in tokenizer.model_input_names

    def warm(self) -> int:
        """No shape is warmed: the first call of each is the user's."""
        return 0

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(ids) for ids in self._tokenize(list(texts))["input_ids"]]

    def logits(self, encodings: Sequence[Any]) -> np.ndarray:
        """Logits [texts, labels] of texts of one length, already tokenised."""
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._token_types:
            inputs["token_type_ids"] = np.zeros_like(ids)
        logits = self._forward(inputs)
        if len(logits) != len(ids):
            raise RuntimeError(f"{len(logits)} answers to {len(ids)} texts")
        return np.asarray(logits)

    def predict(self, texts: Sequence[str]) -> list[Scored]:
        """As documented: tokenise to the longest of the batch, call, softmax (or sigmoid)."""
        scores = []
        for start in range(0, len(texts), self._batch_size):
            batch = list(texts[start : start + self._batch_size])
            inputs = self._tokenize(batch, padding=True, return_tensors="np")
            logits = np.asarray(self._forward(dict(inputs)), np.float64)
            if self._independent:
                scores += [Scored(row) for row in 1 / (1 + np.exp(-logits))]
                continue
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores += [Scored(row) for row in exponentials / exponentials.sum(axis=1, keepdims=True)]
        return scores

    def answer(self, prediction: Scored) -> dict[str, Any]:
        best = int(prediction.scores.argmax())
        return {"label": self.labels[best], "score": float(prediction.scores[best])}


class Pipeline(Classifier):
    """transformers' own pipeline, which tokenises, batches and applies softmax or sigmoid by itself."""

    def __init__(self, pipe: Any, forward: Callable[[Inputs], Any], max_length: int) -> None:
        super().__init__(pipe.tokenizer, forward, pipe.model.config, max_length)
        self._pipe = partial(pipe, top_k=None, batch_size=BATCH_SIZE, truncation=True, max_length=max_length)

    def predict(self, texts: Sequence[str]) -> list[Scored]:
        # A string alone is documented as well, and spares one text the loader of batches.
        found = [self._pipe(texts[0])] if len(texts) == 1 else self._pipe(list(texts))
        by_label = [{entry["label"]: entry["score"] for entry in row} for row in found]
        return [Scored(np.array([row[label] for label in self.labels], np.float64)) for row in by_label]


@dataclass(frozen=True)
class Baseline:
    """`documentation` is where it says so; `requires` are packages; `prepare(checkpoint, folder, texts,
    max_length)` exports and quantises (None: the checkpoint is used as it is); `load(folder, threads,
    max_length)` makes the classifier; `file` is what it computes with, whose size is reported. Those
    `on_cuda` are compared with variants for GPUs, and take part where those do. One that is `fitted` is
    another classifier, made from the checkpoint's training texts."""

    name: str
    summary: str
    documentation: str
    requires: tuple[str, ...]
    file: str
    load: Callable[[Path, int, int], Any]
    prepare: Callable[[Path, Path, list[str], int], None] | None = None
    on_cuda: bool = False
    fitted: bool = False


def _load_pipeline(folder: Path, threads: int, max_length: int) -> Classifier:
    import torch
    from transformers import pipeline

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    torch.set_num_threads(threads)
    pipe = pipeline("text-classification", model=str(folder), device="cpu", trust_remote_code=False)

    def forward(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
            return np.asarray(pipe.model(**tensors).logits.numpy())

    return Pipeline(pipe, forward, max_length)


def _prepare_ort_fp32(checkpoint: Path, folder: Path, texts: list[str], max_length: int) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(folder)


def _prepare_ort(checkpoint: Path, folder: Path, texts: list[str], max_length: int) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True)
    recipe = getattr(AutoQuantizationConfig, _ort_instructions())
    quantizer = ORTQuantizer.from_pretrained(model)
    quantizer.quantize(save_dir=folder, quantization_config=recipe(is_static=False, per_channel=True))
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(folder)


def _ort_instructions() -> str:
    """The configuration of optimum's that its documentation names for this CPU."""
    import platform

    if platform.machine() in ("aarch64", "arm64"):
        return "arm64"
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "avx2"
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    return "avx512" if "avx512f" in flags else "avx2"


def _load_ort(folder: Path, threads: int, max_length: int, file: str) -> Classifier:
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    options = SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Classifier(tokenizer, lambda inputs: model(**inputs).logits, model.config, max_length)


def _prepare_torchao(checkpoint: Path, folder: Path, texts: list[str], max_length: int) -> None:
    """torchao gets a folder of its own: in the same one, every import of transformers takes seconds more."""
    import subprocess

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / PACKAGES),
    ]
    done = subprocess.run([*command, TORCHAO], check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise RuntimeError(f"{TORCHAO} could not be installed: {last}")
    AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False).save_pretrained(folder)


def _load_torchao(folder: Path, threads: int, max_length: int) -> Classifier:
    sys.path.insert(0, str(folder / PACKAGES))
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    torch.set_num_threads(threads)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Classifier(tokenizer, _compiled(model, "cpu"), model.config, max_length)


def _load_cuda_compile(folder: Path, threads: int, max_length: int) -> Classifier:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    torch.set_num_threads(threads)
    model = (
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
        .to("cuda", torch.float16)
        .eval()
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    forward = _compiled(model, "cuda")
    return Classifier(tokenizer, forward, model.config, max_length, "cuda:0", CUDA_BATCH_SIZE)


def _compiled(model: Any, device: str) -> Callable[[Inputs], np.ndarray]:
    """The model by torch.compile, from arrays on the host to logits there."""
    import torch

    compiled: Any = torch.compile(model, dynamic=True)  # else it compiles for every length

    def forward(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
            return np.asarray(compiled(**tensors).logits.float().cpu().numpy())

    return forward


def _prepare_openvino(checkpoint: Path, folder: Path, texts: list[str], max_length: int) -> None:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # why: `handler/__init__.py`
    import nncf
    import openvino
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    tokenize = partial(tokenizer, padding=True, truncation=True, max_length=max_length)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=False).eval()
    example = dict(tokenize(texts[:2], return_tensors="pt"))
    graph = openvino.convert_model(model, example_input=example)
    calibration = nncf.Dataset(texts, lambda text: dict(tokenize([text], return_tensors="np")))
    quantised = nncf.quantize(
        graph, calibration, subset_size=len(texts), model_type=nncf.ModelType.TRANSFORMER
    )
    openvino.save_model(quantised, folder / "model.xml")
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load_openvino(folder: Path, threads: int, max_length: int) -> Classifier:
    import openvino
    from transformers import AutoConfig, AutoTokenizer

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    compiled = openvino.compile_model(folder / "model.xml", "CPU", {"INFERENCE_NUM_THREADS": threads})
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Classifier(tokenizer, lambda inputs: compiled(inputs)[0], config, max_length)


def _load_bag_of_words(folder: Path, threads: int, max_length: int) -> Any:
    from benchmarks.baselines.bag_of_words import BagOfWords

    return BagOfWords(folder)


BASELINES = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            PIPELINE,
            'transformers pipeline("text-classification"), eager fp32',
            "https://huggingface.co/docs/transformers/main_classes/pipelines",
            ("torch", "transformers"),
            WEIGHTS,
            _load_pipeline,
        ),
        Baseline(
            "ort-fp32",
            "optimum's export to ONNX Runtime",
            "https://huggingface.co/docs/optimum/onnxruntime/usage_guides/models",
            ("torch", "transformers", "onnxruntime", "optimum", "optimum-onnx"),
            EXPORTED,
            partial(_load_ort, file=EXPORTED),
            _prepare_ort_fp32,
        ),
        Baseline(
            "ort-int8",
            "optimum's export to ONNX Runtime with dynamic int8",
            "https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization",
            ("torch", "transformers", "onnxruntime", "optimum", "optimum-onnx"),
            QUANTISED,
            partial(_load_ort, file=QUANTISED),
            _prepare_ort,
        ),
        Baseline(
            "plain-openvino-int8",
            "openvino.convert_model and nncf.quantize on 300 training texts",
            "https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/"
            "quantizing-models-post-training.html",
            ("torch", "transformers", "openvino", "nncf"),
            "model.bin",
            _load_openvino,
            _prepare_openvino,
        ),
        Baseline(
            "torchao-int8",
            "torchao's Int8DynamicActivationInt8WeightConfig and torch.compile",
            "https://docs.pytorch.org/ao/stable/api_reference/generated/"
            "torchao.quantization.Int8DynamicActivationInt8WeightConfig.html",
            ("torch", "transformers"),
            WEIGHTS,
            _load_torchao,
            _prepare_torchao,
        ),
        Baseline(
            TFIDF,
            "scikit-learn's TF-IDF and logistic regression, no transformer",
            "https://scikit-learn.org/stable/auto_examples/text/plot_document_classification_20newsgroups.html",
            ("scikit-learn", "scipy"),
            "weights.npz",
            _load_bag_of_words,
            fitted=True,
        ),
        Baseline(
            "cuda-torch-compile-fp16",
            f"torch.compile of the fp16 model on the GPU, {CUDA_BATCH_SIZE} texts a call",
            "https://huggingface.co/docs/transformers/perf_torch_compile",
            ("torch", "transformers"),
            WEIGHTS,
            _load_cuda_compile,
            on_cuda=True,
        ),
    )
}
