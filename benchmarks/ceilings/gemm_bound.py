"""The lower bound on every int8 variant's time: what its matrix products alone take on this machine.

The linear layers of a BERT-like encoder are timed one by one, in turns between those of the variants
(`gemms`). The bound is that of the checkpoint's own architecture: a variant with fewer weights, or whose last
layer computes only the first token, may go below it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.ceilings.gemms import BYTES, CALL, Encoder, Samples
from benchmarks.in_process import gpu
from benchmarks.in_process.pool import Failure, Pool
from benchmarks.names import GEMM_BOUND
from benchmarks.progress import Step
from benchmarks.records import CpuPeak, CudaPeak, EncoderSizes, GemmCase, Latency
from common.records import Record

PERCENTILE = 5
LEAST_SHARE = 0.05  # of a product's time is its own at least, however small it is


def encoder_of(config: Mapping[str, Any]) -> Encoder | None:
    """The sizes in a transformers config; None for an architecture that is not known here."""
    names = {
        "distilbert": ("n_layers", "dim", "hidden_dim"),
        "bert": ("num_hidden_layers", "hidden_size", "intermediate_size"),
        "roberta": ("num_hidden_layers", "hidden_size", "intermediate_size"),
    }.get(config.get("model_type", ""))
    return Encoder(*(int(config[name]) for name in names)) if names else None


class GemmTurn(Record):
    """Milliseconds of products by shape, precision and product; on the GPU by shape and product; and of
    reading all weights, by precision."""

    products: dict[str, Samples]
    cuda: dict[str, dict[str, list[float]]]
    reading: dict[str, list[float]]


class GemmBound:
    """The suite's end: collects the turns of the run, and makes the report's record of them."""

    def __init__(
        self,
        encoder: Encoder,
        shapes: Sequence[tuple[int, int]],
        turn_ms: float,
        on_cuda: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`shapes` are of the CPU's products, `on_cuda` of the GPU's."""
        self.encoder = encoder
        self.shapes = list(shapes)
        self.on_cuda = list(on_cuda)
        self._turn_ms = turn_ms
        self._cuda: dict[tuple[int, int], dict[str, list[float]]] = {}
        self._samples: dict[tuple[int, int], Samples] = {}
        self._reading: dict[str, list[float]] = {}

    def start(self, pool: Pool, threads: int, bf16: bool, step: Step) -> None:
        with step(f"start of {GEMM_BOUND}"):
            pool.ask(GEMM_BOUND, "load_gemms", encoder=asdict(self.encoder), threads=threads, bf16=bf16)

    def turn(self, pool: Pool) -> GemmTurn | None:
        """Every shape for a moment, and reading the weights; None when the worker drops out."""
        products = self._of_shapes(pool, "gemms", self.shapes)
        cuda = None if products is None else self._of_shapes(pool, "cuda_products", self.on_cuda)
        if cuda is None:
            return None
        reading = pool.ask(GEMM_BOUND, "reading", turn_ms=self._turn_ms)
        if products is None or reading is None:
            return None
        return GemmTurn(products=products, cuda=cuda, reading=reading)

    def _of_shapes(
        self, pool: Pool, command: str, shapes: Sequence[tuple[int, int]]
    ) -> dict[str, Any] | None:
        """What the worker answers for the tokens of each shape; None when it drops out."""
        found = {}
        for batch, tokens in shapes:
            answer = pool.ask(GEMM_BOUND, command, rows=batch * tokens, turn_ms=self._turn_ms)
            if answer is None:
                return None
            found[f"{batch}x{tokens}"] = answer
        return found

    def add(self, turn: GemmTurn) -> None:
        for shape in self.shapes:
            _merge(self._samples.setdefault(shape, {}), turn.products["{}x{}".format(*shape)])
        for shape in self.on_cuda:
            for name, values in turn.cuda["{}x{}".format(*shape)].items():
                self._cuda.setdefault(shape, {}).setdefault(name, []).extend(values)
        for precision, values in turn.reading.items():
            self._reading.setdefault(precision, []).extend(values)

    def record(self, failure: Failure | None) -> records.GemmBound:
        """The report's record; without cases and with the reason where it failed."""
        cases = [] if failure else [self._case(*shape) for shape in self.shapes if shape in self._samples]
        return records.GemmBound(
            encoder=EncoderSizes(**asdict(self.encoder)),
            percentile=PERCENTILE,
            error=failure.message if failure else None,
            cases=cases,
            peaks=self._peaks(cases),
            cuda=self._cuda_peak() if cases and self._cuda else None,
        )

    def _cuda_peak(self) -> CudaPeak:
        """All products in fp16 at their quickest batch, and what the card's data sheet promises."""
        rates = {
            shape: self.encoder.operations(shape[0] * shape[1])
            # Calls are queued, so that none of them costs anything that is to be taken off.
            / encoder_ms(self.encoder, {**found, CALL: [0.0]})
            / 1e9
            for shape, found in self._cuda.items()
        }
        best = max(rates, key=rates.__getitem__)
        card = gpu.cards()[0]["name"]
        return CudaPeak(
            card=card,
            case="{}x{}".format(*best),
            tflops=rates[best],
            datasheet_tflops=gpu.DATASHEET_TFLOPS.get(card),
        )

    def _peaks(self, cases: Sequence[GemmCase]) -> dict[str, CpuPeak]:
        """By precision: the rate of all products at the quickest shape, and how fast as many bytes as all
        weights have can be read, again and again."""
        if not cases:
            return {}
        return {
            precision: CpuPeak(
                tops=max(getattr(case, f"{precision}_tops") for case in cases),
                read_gb_s=self.encoder.weights * BYTES[precision] / _low(values) / 1e6,
            )
            for precision, values in self._reading.items()
        }

    def _case(self, batch: int, tokens: int) -> GemmCase:
        samples = self._samples[batch, tokens]
        rows = batch * tokens
        times = {precision: encoder_ms(self.encoder, found) for precision, found in samples.items()}
        rates = {
            f"{precision}_tops": self.encoder.operations(rows) / time_ms / 1e9
            for precision, time_ms in times.items()
        }
        return GemmCase(
            case=f"{batch}x{tokens}",
            batch=batch,
            tokens=tokens,
            samples=min(len(values) for values in samples["int8"].values()),
            call_us=1000 * _low(samples["int8"][CALL]),
            **{f"{precision}_ms": time_ms for precision, time_ms in times.items()},
            **rates,
        )


def encoder_ms(encoder: Encoder, samples: Mapping[str, Sequence[float]]) -> float:
    """All products of all layers, one after the other; query, key and value as three or as one, which is
    quicker. The cost of calling is taken off each."""
    call = _low(samples[CALL])
    alone = {
        name: max(_low(values) - call, LEAST_SHARE * _low(values))
        for name, values in samples.items()
        if name != CALL
    }
    attention = min(3 * alone["square"], alone["qkv"]) + alone["square"]
    return encoder.layers * (attention + alone["up"] + alone["down"])


def _low(samples: Sequence[float]) -> float:
    return float(np.percentile(samples, PERCENTILE))


def _merge(samples: Samples, more: Samples) -> None:
    for precision, products in more.items():
        for name, values in products.items():
            samples.setdefault(precision, {}).setdefault(name, []).extend(values)


def add_multiples(entries: Sequence[Latency], bound: records.GemmBound | None) -> None:
    """To each fixed shape of a variant its multiple of the int8 bound."""
    bounds = {case.case: case.int8_ms for case in bound.cases} if bound else {}
    for entry in entries:
        if entry.case in bounds:
            entry.int8_bounds = entry.p50_ms / bounds[entry.case]
