"""What variants, controls, cases and servers are called in every report."""

REFERENCE = "fp32"
GATE = "gate"  # the split that decides
CUDA_REFERENCE = "cuda-fp32"  # the same for what computes on a GPU: no ratio crosses from one to the other
# The matrix products alone, timed in a process of their own.
GEMM_BOUND = "GEMM bound"
REFERENCES = (REFERENCE, CUDA_REFERENCE)
PLAIN_INT8 = ("onnx-int8", "openvino-int8")  # what a variant of several stages is to beat
TFIDF = "tfidf-logistic"  # the baseline that runs no transformer
STUDENT = "static"  # the variant that runs none, and the first part of its children's names
PIPELINE = "hf-pipeline"  # the baseline that most start from: what a user runs today

# The cases that are timed in process: matrices [texts, tokens], and real texts.
SHAPES = ((1, 32), (8, 32), (32, 32), (1, 128))
CUDA_SHAPES = ((64, 32), (256, 32), (1024, 32))  # also, of what computes on a GPU
BATCH_TEXTS = 32
CUDA_BATCH_TEXTS = 1024
SMALL, LARGE = "1x32", "32x32"  # texts x tokens; two of SHAPES
SINGLE = "1 text"
BATCH = f"{BATCH_TEXTS} texts"
CUDA_BATCH = f"{CUDA_BATCH_TEXTS} texts"
CUDA_MODEL = f"{CUDA_BATCH_TEXTS} texts, tokenised"  # of these the model alone
TOKENISE, MODEL = "tokenise", "model"  # of single texts, apart
BY_TEXT = (SINGLE, TOKENISE, MODEL)  # each call of a turn is of a text of its own

# Servers that the archive is measured against.
APP, EXAMPLE, FASTAPI, BARE = "app", "example-handler", "fastapi-pipeline", "bare-torchserve"
SUMMARIES = {
    APP: "the same archive behind FastAPI and uvicorn (python -m deploy app)",
    EXAMPLE: "TorchServe, the well-known example's way: fp32, padded to 150 tokens, no batching",
    FASTAPI: "FastAPI around transformers' pipeline, fp32, one worker",
    BARE: "TorchServe and a handler that does nothing",
}

# Documents about servers under attack.
ATTACK = "attack"
SOAK = "soak"

FLIPS = "flips"  # the document about intervals from labelled flips
NEEDED = "labels"  # the document about how many labels verdicts took


def runs_no_transformer(name: str) -> bool:
    """Of a row: it would set the scale of every picture of speed."""
    return name == TFIDF or name.split("-")[0] == STUDENT
