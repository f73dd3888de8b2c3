"""One variant in a process of its own, which the suite asks for one short measurement after another.

Threads of torch, OpenVINO and ONNX Runtime keep spinning for a while after their work, and one process' peak
memory and import time cannot be divided among variants. `Worker` is the suite's end and `serve` the
subprocess', one JSON line each way; it imports the handler and numpy alone, as the server does.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).parents[2]
ROUSE_S = 0.1
FIRST, KEPT = 1, 2  # calls of a turn: unrecorded, and recorded
PATIENCE_S = 900  # a worker that answers nothing for so long hangs
# Set by `activate` and by `handler` for the sake of a server; who does without us has neither.
OURS = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM")
# Commands that read them.
OF_TEXTS = ("score", "single", "together", "computed", "tokenise", "model", "lengths", "busy", "energy")


Turn = dict[str, Any]
"""`times_ms` of each recorded call, and their mean `cpu_ms`."""


class WorkerError(Exception):
    """The variant could not do what was asked, or its process ended; the message says which."""


class Worker:
    """A running subprocess with one artifact. Use `open_worker`, which also ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self._log = log

    def ask(self, command: str, patience_s: float = PATIENCE_S, **arguments: Any) -> Any:
        """Run one command there and return its answer. Raises `WorkerError`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # Killing is the one way to wake a read that may never return; the read then sees the end.
        timer = threading.Timer(patience_s, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            raise WorkerError(self._epitaph())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def _epitaph(self) -> str:
        """How the process ended, and the last line that it wrote."""
        self.process.stdout.close()  # type: ignore[union-attr] # it was opened with a pipe
        status = self.process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"its process ended with {how}" + (f" ({lines[-1].strip()[:300]})" if lines else "")


@contextmanager
def open_worker(name: str, ours: bool = True) -> Iterator[Worker]:
    """A fresh subprocess, ended on leaving. It holds nothing yet: ask it to `load`.

    Without `ours` the environment is that of a user without this project.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {key: value for key, value in os.environ.items() if ours or key not in OURS}
    if not ours:  # the tokenizers' default, said: a class of `handler` that baselines import says no
        environment["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.in_process.worker"],
            env=environment | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            yield Worker(name, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, at which the worker leaves by itself; make it after a while."""
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe:
                pipe.close()
        except OSError:
            pass
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def peak_rss_bytes() -> int:
    """The most memory this process held. `ru_maxrss` will not do where /proc is: it outlives `exec`, so a
    child of a large parent would begin with its parent's peak."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Tokens(NamedTuple):
    """A tokenised text, as far as a model looks at it."""

    ids: list[int]
    is_window: bool = False


class Bench:
    """The commands: each public method is one, its arguments and results plain JSON. Times in ms."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.predictor: Any = None

    def hold(self, texts: list[str]) -> None:
        """The texts that later commands name by their place."""
        self.texts = texts
        self._asked_before = self._asked_so_far()

    def load(self, folder: str, threads: int | None, first_text: str) -> dict[str, Any]:
        """Load and warm as the server does, then answer once."""
        started = time.perf_counter()
        from handler.predictor import Predictor  # part of the load: runtimes are imported here

        self.predictor = Predictor.load(folder, threads)
        return self._started(started, self.predictor.threads, first_text)

    def load_baseline(
        self, baseline: str, folder: str, max_length: int, threads: int, first_text: str
    ) -> dict[str, Any]:
        """Load a baseline as its documentation says, then answer once."""
        started = time.perf_counter()
        from benchmarks.baselines.in_process import BASELINES

        self.predictor = BASELINES[baseline].load(Path(folder), threads, max_length)
        return self._started(started, threads, first_text)

    def prepare_baseline(
        self, baseline: str, checkpoint: str, folder: str, texts: list[str], max_length: int
    ) -> None:
        """Export and quantise a baseline into `folder`."""
        from benchmarks.baselines.in_process import BASELINES

        prepare = BASELINES[baseline].prepare
        assert prepare is not None
        prepare(Path(checkpoint), Path(folder), texts, max_length)

    def load_gemms(self, encoder: dict[str, int], threads: int, bf16: bool) -> None:
        """Get ready to time the matrix products of an encoder alone."""
        from benchmarks.ceilings.gemms import Encoder, Products

        self.products = Products(Encoder(**encoder), threads, bf16)

    def gemms(self, rows: int, turn_ms: float) -> dict[str, dict[str, list[float]]]:
        """Durations of every product of `rows` tokens, by precision and product."""
        return self.products.turn(rows, turn_ms)

    def cuda_products(self, rows: int, turn_ms: float) -> dict[str, list[float]]:
        """Durations of every product of `rows` tokens in fp16 on the GPU, by product."""
        return self.products.on_cuda(rows, turn_ms)

    def reading(self, turn_ms: float) -> dict[str, list[float]]:
        """Durations of reading as many bytes as the weights have, by precision."""
        return self.products.reading(turn_ms)

    def _started(self, started: float, threads: int, first_text: str) -> dict[str, Any]:
        """Warm up and answer once; how long these took, and the load that began at `started`."""
        loaded = time.perf_counter()
        shapes = self.predictor.warm()
        warm = time.perf_counter()
        self._answer([first_text])
        first = time.perf_counter()
        # What is there now stays. The collection before every command would look at all of it each time:
        # 0.2 s for the 400,000 objects of transformers, longer than most of what is measured.
        gc.collect()
        gc.freeze()
        return {
            "load_s": loaded - started,
            "warm_s": warm - loaded,
            "warmed_shapes": shapes,
            "first_answer_ms": 1000 * (first - warm),
            "threads": threads,
            "device": self.predictor.device,
        }

    def peak(self) -> int:
        """Peak memory so far, in bytes."""
        return peak_rss_bytes()

    def shape(self, batch: int, tokens: int) -> Turn:
        """Calls of the model, padding and planning included, with `batch` texts of `tokens` tokens each."""
        encodings = self._batch(batch, tokens)
        return _turn(self.predictor.logits, [encodings] * (FIRST + KEPT))

    def _batch(self, batch: int, tokens: int) -> list[_Tokens]:
        """`batch` texts of `tokens` tokens each, the GPU roused by them."""
        encodings = [_Tokens(self._ids(tokens, row)) for row in range(batch)]
        self._rouse(encodings)
        return encodings

    def _rouse(self, encodings: Sequence[Any]) -> None:
        """On a GPU, calls until its clocks are up: idle between turns, it has lowered them."""
        began = time.perf_counter()
        while self.predictor.device != "cpu" and time.perf_counter() - began < ROUSE_S:
            self.predictor.logits(encodings)

    def gpu_memory(self) -> dict[str, int] | None:
        """The most memory on the GPU so far, as `gpu.peak_memory`."""
        from benchmarks.in_process.gpu import peak_memory

        return peak_memory()

    def busy(self, batch: int, tokens: int, calls: int) -> float | None:
        """How long the GPU works in one of the calls of `shape`, in ms; None where nothing tells."""
        from benchmarks.in_process.gpu import busy_ms

        encodings = self._batch(batch, tokens)
        return busy_ms(lambda: self.predictor.logits(encodings), calls)

    def energy(self, batch: int, tokens: int, seconds: float) -> dict[str, Any]:
        """The GPU's millijoules in the calls of `shape`, again and again, and the texts of them; or why it
        does not tell."""
        from benchmarks.in_process.gpu import UntoldError, energy_mj

        encodings = self._batch(batch, tokens)
        try:
            taken_mj, calls = energy_mj(lambda: self.predictor.logits(encodings), seconds)
        except UntoldError as error:
            return {"missing": str(error)}
        return {"mj": taken_mj, "texts": calls * batch}

    def single(self, start: int, stop: int) -> Turn:
        """Text to answer, one text at a time."""
        texts = [[text] for text in self.texts[start:stop]]
        # On a GPU all of them before, as a baseline's kernels may be chosen at the first text of a length.
        for text in texts if self.predictor.device != "cpu" else ():
            self._answer(text)
        return _turn(self._answer, [*texts[:FIRST], *texts])

    def together(self, start: int, stop: int) -> Turn:
        """Texts to answers, all of them in one call."""
        return _turn(self._answer, [self.texts[start:stop]] * (FIRST + KEPT))

    def computed(self, start: int, stop: int) -> Turn:
        """Ids of tokens to logits, of all texts in one call: what the GPU does, without the tokenising."""
        encodings = self.predictor.encode(self.texts[start:stop])
        self._rouse(encodings)
        return _turn(self.predictor.logits, [encodings] * (FIRST + KEPT))

    def model(self, start: int, stop: int) -> Turn:
        """The model alone, one tokenised text at a time."""
        encodings = [self.predictor.encode([text]) for text in self.texts[start:stop]]
        return _turn(self.predictor.logits, [*encodings[:FIRST], *encodings])

    def tokenise(self, start: int, stop: int) -> Turn:
        """Tokenising alone, one text at a time."""
        texts = [[text] for text in self.texts[start:stop]]
        return _turn(self.predictor.encode, [*texts[:FIRST], *texts])

    def score(self, start: int, stop: int) -> list[list[float]]:
        """Calibrated scores [texts, labels]."""
        return [prediction.scores.tolist() for prediction in self.predictor.predict(self.texts[start:stop])]

    def asked(self) -> dict[str, int]:
        """How many texts each later stage of an artifact was asked since texts were held."""
        return {
            stage: texts - self._asked_before.get(stage, 0) for stage, texts in self._asked_so_far().items()
        }

    def _asked_so_far(self) -> dict[str, int]:
        """Empty for a baseline, and for an artifact of one model."""
        return dict(getattr(self.predictor, "asked_again", {}))

    def lengths(self) -> list[int]:
        """Of all texts that are held, in tokens."""
        return [len(encoding.ids) for encoding in self.predictor.encode(self.texts)]

    def _answer(self, texts: list[str]) -> list[Any]:
        return [self.predictor.answer(prediction) for prediction in self.predictor.predict(texts)]

    def _ids(self, tokens: int, row: int) -> list[int]:
        """Ids as real texts have them, another stretch of them for each row."""
        if not hasattr(self, "pool"):
            encodings = self.predictor.encode(self.texts[:200])
            self.pool = [number for encoding in encodings for number in encoding.ids]
        return [self.pool[(row * tokens + place) % len(self.pool)] for place in range(tokens)]


def _turn(call: Callable[[Any], object], arguments: Sequence[Any]) -> Turn:
    """The durations of all calls but the first, whose caches, clocks and threads are those of the process
    before; and the CPU time of all threads, on average of these calls."""
    for argument in arguments[:FIRST]:
        call(argument)
    kept = arguments[FIRST:]
    began = time.process_time_ns()
    times_ms = [_timed(call, argument) for argument in kept]
    cpu_ms = (time.process_time_ns() - began) / 1e6
    return {"times_ms": times_ms, "cpu_ms": cpu_ms / len(kept)}


def _timed(call: Callable[[Any], object], argument: Any) -> float:
    started = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - started) / 1e6


def serve(commands: IO[bytes], answers: IO[bytes]) -> None:
    """Answer commands until the pipe closes; an exception is an answer too."""
    bench = Bench()
    for line in commands:
        arguments = json.loads(line)
        name = arguments.pop("command")
        method = getattr(bench, name)
        gc.collect()
        gc.disable()  # as timeit does: a collection inside a measurement belongs to no variant
        try:
            answer = {"result": method(**arguments)}
        except Exception as error:
            # What a library says of a text may quote it, and what is said here is written down.
            words = "its words are left out, they may quote a text" if name in OF_TEXTS else error
            answer = {"error": f"{type(error).__name__}: {words}"}
        finally:
            gc.enable()
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, which then closes the pipe
    # Runtimes print to standard output: keep the pipe for answers alone.
    with os.fdopen(os.dup(1), "wb") as own:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, own)
