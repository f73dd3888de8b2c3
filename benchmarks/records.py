"""What a run of the suite writes down: a report of all its variants, and what stands in it.

The types are the schema (`report.schema.json` is made from them by `python -m benchmarks.records`): a report
that they refuse is neither written nor read. A field that may be absent has a default, and is left out while
it has it.
"""

import json
import math
from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from benchmarks.names import CUDA_REFERENCE, GATE, PIPELINE, REFERENCE
from common import records
from common.records import Count, NotNegative, Positive, Record, Sha256, Share, Some, Task, Text, read
from training.data.records import Unseen, is_synthetic
from training.measures.noninferiority import Word
from training.measures.outcomes import AlikeGroups
from training.measures.records import Functional, Reliability

DIGITS = 5  # significant: more than any of the measurements has, fewer than hide what is the same
LEAST_CASES = 3  # of latency, in a row that was measured

Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]*$")]
Device = Annotated[str, Meta(pattern="^(cpu|cuda(:[0-9]+)?)$")]
Errors = dict[str, Some]
T = TypeVar("T")


Measure = Literal["macro-F1", "accuracy"]
MACRO_F1: Measure = "macro-F1"
ACCURACY: Measure = "accuracy"


class Serving(Record):
    """Which variants are worth a server, and by which rule they were taken."""

    names: list[str]
    rule: Text


class Run(Record):
    """`others_cores` are what other processes took while latency was measured; `resumed` counts how often the
    run was interrupted and went on; an answer after `objective_p99_ms` is not a good one; `margin` is the
    drop of macro-F1 that is allowed."""

    id: Text
    started_at: Text
    seconds: Positive
    profile: Text
    threads: Some
    load_average_before: float | None
    commit: str | None
    objective_p99_ms: Positive | None = None
    margin: Share | None = None
    others_cores: NotNegative | None = None
    resumed: Count | None = None
    serving: Serving | None = None


class Card(Record):
    name: Text
    capability: Annotated[list[Count], Meta(min_length=2, max_length=2)]
    memory_gb: int | float


class Machine(Record):
    """`id` is a fingerprint of the hardware."""

    id: Text
    cpu: str
    cores: Some
    memory_gb: int | float
    cpu_features: list[str]
    system: str
    versions: dict[str, str]
    gpus: list[Card] = []


class Lengths(Record):
    """Tokens of the timed texts."""

    mean: Positive
    p50: Positive
    p90: Positive
    p99: Positive


class Data(Record):
    """`positive_label` is the one looked for, None where none was named; an older report does not say. Of a
    model that was trained elsewhere, `unseen` says why it has not seen the gate's texts."""

    spec: Text
    sha256: Text
    base: Text
    labels: Annotated[list[str], Meta(min_length=2)]
    labels_meaningful: bool
    tokens: Lengths
    timed_split: Text
    task: Task | None = None  # single-label where it is not told
    positive_label: str | UnsetType | None = UNSET
    unseen: Unseen | None = None

    @property
    def is_synthetic(self) -> bool:
        """Whether the texts are the demo's: a verdict on them is a rehearsal."""
        return is_synthetic(self.spec)

    @property
    def multi_label(self) -> bool:
        return self.task == "multi-label"


class Failed(Record):
    stage: str
    message: str


class Check(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The comparison with fp32 on validation texts at export."""

    equal: bool
    note: str | None = None
    split: str | None = None
    n: int | None = None
    label_agreement: float | None = None
    max_prob_diff: float | None = None
    mean_prob_diff: float | None = None
    macro_f1: float | None = None
    macro_f1_drop: tuple[float, float] | None = None
    batch_mate_diff: float | None = None


class Built(Record):
    """What an artifact says of itself; `logit_offsets` are added to its logits, by label."""

    summary: str
    runtime: str
    parent: str | None
    check: Check
    max_length: int
    build_seconds: NotNegative | UnsetType | None = UNSET
    logit_offsets: list[float] | None = None


class Ratio(Record):
    """Time of the reference by the time of the variant over the blocks of both, with its 95 % interval,
    which lies wholly within 5 % of 1 where they are equal, and wholly beyond where one is faster.
    `of_medians` is the same of medians instead of 10th percentiles. In an earlier version `noise` was the
    reference against itself, as a factor, and what was within it was not different."""

    ratio: Positive
    low: Positive
    high: Positive
    verdict: Literal[
        "faster", "slower", "equal", "not resolved", "reference", "not different", "noise unknown"
    ]
    of_medians: Positive | None = None
    noise: Annotated[float, Meta(ge=1)] | None = None

    @property
    def is_decided(self) -> bool:
        return self.verdict in ("faster", "slower")

    @property
    def width(self) -> float:
        """Of the interval, from its low end to its high one, as a share."""
        return self.high / self.low - 1


class LengthBin(Record):
    """Texts one by one, of more tokens than in the bin before and of `up_to` at most."""

    up_to: Some
    n: Some
    p50_ms: Positive
    p99_ms: Positive | None


class Roofline(Record):
    """What the variant's own arithmetic and bytes take at the peaks measured in the same run: `bound_ms` is
    the larger of the two, `share` is `bound_ms / p50_ms`."""

    gflop: Positive
    weight_mb: Positive
    compute_ms: Positive
    memory_ms: Positive
    bound_ms: Positive = field(name="floor_ms")
    share: Positive


class Peak(Record):
    """On a GPU, of all the variant's linear and attention products: their rate, and its share of the bound's
    fp16 products (fp8 and int8 may go above 1) and of the data sheet's."""

    tflops: Positive
    of_measured: Positive
    of_datasheet: Positive | None


class Latency(Record):
    """A case in process. `batch` is texts in one call; `tokens` of every text, None for real texts;
    `rounds` are blocks, each with processes of its own; `low_ms` is the 10th percentile of turns, of which
    `texts_per_second` and ratios are made; `p99_ms` is None below 100 samples; `cpu_ms` is of all threads;
    `speedup` is over fp32 (on a GPU, over cuda-fp32), `vs_pipeline` over the baseline hf-pipeline;
    `int8_bounds` is `p50_ms / int8_ms` of the GEMM lower bound; `model_p50_ms` is from tokens to logits;
    `gpu_busy_ms` is by the profiler, kernels and copies without gaps. `turns` are milliseconds, a line a
    block, empty without this row: calls apart by spaces, turns by semicolons; turns of single texts are of
    the same ones, in order. Earlier versions had interleaved rounds in one process, and ratios of p99s."""

    case: Text
    batch: Some
    tokens: int | None
    samples: Some
    rounds: Some
    p50_ms: Positive
    p90_ms: Positive | None
    p99_ms: Positive | None
    texts_per_second: Positive
    speedup: Ratio
    p99_speedup: Ratio | None = None
    vs_pipeline: Ratio | None = None
    tokenise_p50_ms: Positive | None = None
    model_p50_ms: Positive | None = None
    by_length: list[LengthBin] = []
    int8_bounds: Positive | None = field(default=None, name="int8_floors")
    roofline: Roofline | None = None
    gpu_busy_ms: Positive | None = None
    peak: Peak | None = None
    low_ms: Positive | None = None
    cpu_ms: NotNegative | None = None
    turns: list[str] = []

    @property
    def time_ms(self) -> float:
        """Of a call, as ratios have it: an earlier version knew of medians alone."""
        return self.low_ms or self.p50_ms

    @property
    def against_today(self) -> Ratio:
        """To what a user runs today, hf-pipeline, where that was measured; else to the reference."""
        return self.vs_pipeline or self.speedup


class Level(Record):
    """Clients that wait for their answers: `requests_per_second` were answered with 200, its range is over
    the passes and `requests_per_second_95` where it lies at 95 %; `load_generator_cores` is CPU seconds per
    second of the clients."""

    concurrency: Some
    passes: Some
    seconds: Positive
    requests: Count
    requests_per_second: NotNegative
    requests_per_second_range: tuple[float, float]
    p50_ms: Positive | None
    p90_ms: Positive | None
    p99_ms: Positive | None
    errors: Errors
    load_generator_cores: NotNegative
    requests_per_second_95: tuple[float, float] | None = None


class Many(Record):
    """As served, requests of `texts` texts each. In an earlier version the share was of the texts per second
    in process, of a few calls some minutes before."""

    texts: Annotated[int, Meta(ge=2)]
    concurrency: Some
    passes: Some
    requests: Count
    p50_ms: Positive | None
    errors: Errors
    texts_per_second: NotNegative
    share_of_in_process: NotNegative | None = None


class TimeSplit(Record):
    """Where the time of an answered request goes, means in ms."""

    queue: float
    handler: float
    http: float


class Lateness(Record):
    """What tells how many requests of a level were later than a limit: those slower than `from_ms`, by short
    windows of about as many arrivals each, None for one without an answer (`from_ms` None: too many of those,
    and none are listed). Requests come in bursts: all together tell as much as `worth` independent ones."""

    from_ms: NotNegative | None
    slowest_ms: list[list[float | None]]
    worth: Positive


class OpenLevel(Record):
    """Arrivals that do not wait (Poisson); latency counts from the intended arrival. `goodput_rps` are
    answers within the run's objective, `saturated` says that the server could not keep up, `late_p99_ms` is
    how late the generator itself sent (part of the latency), `split_ms` None where the server does not
    tell; `lateness` is not known in earlier versions."""

    offered_rps: Positive
    seconds: Positive
    arrivals: Some
    answered_rps: NotNegative
    goodput_rps: NotNegative
    p50_ms: Positive | None
    p90_ms: Positive | None
    p99_ms: Positive | None
    errors: Errors
    saturated: bool
    late_p99_ms: NotNegative
    split_ms: TimeSplit | None
    lateness: Lateness | None = None


class Saturation(Record):
    """The most answers per second seen at any level, and the highest offered rate that was kept up with."""

    capacity_rps: Positive
    knee_rps: float | None


class Refitted(Record):
    """Figures with temperature and threshold fitted to this variant's own scores of validation; no threshold,
    or one for each label: None."""

    temperature: Positive
    threshold: float | None
    macro_f1: Share
    brier: NotNegative
    ece: Share


class Quality(Record):
    """Figures of one split; `labels` has precision, recall, F1 and texts of each, `perfect_ece` is what so
    many texts show on average of a perfectly calibrated model."""

    n: Some
    macro_f1: Share
    accuracy: Share
    auroc: Share | None
    average_precision: float | None = None
    micro_f1: float | None = None
    brier: float | None = None
    ece: float | None = None
    perfect_ece: float | None = None
    labels: dict[str, dict[str, Any]] = {}
    reliability: list[Reliability] = []
    refitted: Refitted | None = None


class Interval(Record):
    """fp32's figure less the variant's, and where it lies at 95 %."""

    drop: float
    low: float
    high: float


class Drop(Interval):
    """Of macro-F1 on the same texts."""

    confidence: float
    mcnemar_p: float


class Rate(Record):
    """`n` texts, as a share of all, and where it lies at 95 %."""

    n: Count
    rate: Share
    low: Share
    high: Share


class Verdict(Record):
    """Is the drop of macro-F1 below the margin? Not proven where the model may have been trained on the
    gate's texts. An inconclusive one would be settled by a gate of about `texts_to_settle`, if the drop is as
    it was seen (None: settled, or no number would do)."""

    verdict: Word
    texts_to_settle: Some | None


class Noninferiority(Verdict):
    """By test: `p` is of a drop of at least the margin, tested at `level`, and `p_worse` of one of at most
    the margin, tested at `level_worse`; `share` is the part of the gate's 2.5 % in these levels, `run` the
    number of the run on this gate and `first_margin` that of its first; `smallest_margin` is what an equal
    variant passes with 80 % probability on so many texts. The drop is of `measure`: accuracy, where texts
    have no labels and flips bound it."""

    margin: Share
    p: Share
    p_worse: Share
    smallest_margin: NotNegative
    share: Share
    level: Share
    level_worse: Share
    run: Some
    first_margin: Share
    measure: Measure = MACRO_F1


class Slice(Record):
    """Texts of more tokens than in the slice before and of `up_to` at most."""

    up_to: Some
    n: Some
    label_agreement: Share
    macro_f1: float | None
    reference_macro_f1: float | None


class Kept(Record):
    """A promise of the bands and what a split shows of it: `found` of the `n` texts that it is about, between
    `low` and `high` at 95 %."""

    kind: Text
    promised: NotNegative
    n: Count
    found: Share
    low: Share
    high: Share


class Decided(Record):
    """What an artifact's bands decide on a split: the `shares` of texts by decision, those that `differ` from
    fp32's decision, by the `ways` in which they do, and what is found of each promise but that of a cost."""

    shares: dict[str, Share]
    differ: Rate
    ways: dict[str, Some]
    kept: list[Kept] = []


class Parity(Record):
    """How a variant's answers differ from fp32's on one split. `flips` are texts by direction; `cells` are
    texts by (truth, fp32's label, this one's), the last running fastest, or of independent labels `kinds` by
    a digit for each label, 4 if the text has it, plus 2 if fp32 says so, plus 1 if this one does: what a
    verdict at another margin needs. `decisions` is a digest of all three, text by text. `may_have_seen` says
    that the model may have been trained on these texts. Where texts came in groups, `groups` counts the kinds
    by group, and `group_flips` the groups that flip oftener in a direction than back. Where they have no
    labels, `unlabelled_flips` are texts whose label is not fp32's: of independent labels, in the label where
    they are the most. `decided` is there where the artifact has bands."""

    n: Some
    label_agreement: Share
    flips: dict[str, Count]
    max_prob_diff: Share
    mean_prob_diff: Share
    macro_f1_drop: Drop | None
    flip_rates: dict[str, Rate] = {}
    slices: list[Slice] = []
    cells: list[Count] | None = None
    kinds: dict[str, Some] | None = None
    decisions: Text | None = None
    auroc_drop: Interval | None = None
    average_precision_drop: Interval | None = None
    brier_drop: Interval | None = None
    noninferiority: Noninferiority | None = None
    may_have_seen: bool = False
    groups: list[AlikeGroups] | None = None
    group_flips: dict[str, Count] | None = None
    unlabelled_flips: Count | None = None
    decided: Decided | None = None

    @property
    def texts(self) -> str:
        """How many texts, and groups of them, in words."""
        if self.groups is None:
            return f"{self.n:,} gate texts"
        return f"{self.n:,} gate texts in {sum(alike.groups for alike in self.groups):,} groups"


class ServedParity(Record):
    """How far served scores are from those in process, and whether batch mates explain it."""

    n: Some
    unanswered: Count
    max_prob_diff: NotNegative
    bound: NotNegative
    within_bound: bool


class Flipped(Record):
    """A text whose label is not fp32's, by its place among those of the split that were scored: `before` is
    fp32's label, scores are of the positive label, or else of the one that moved the farthest."""

    split: Text
    row: Count
    tokens: Some
    truth: str | None
    before: Text
    after: Text
    score_before: Share
    score_after: Share


class Resources(Record):
    """`cpu_s_per_1000_texts` is of all threads, batches of 32 real texts; `server_rss_mb` of worker and Java
    after the loads (what they share counts twice); `gpu_allocated_mb` the most that torch's allocator had in
    use (None: the runtime keeps its own), `gpu_reserved_mb` that it had taken; the joules are of the whole
    card."""

    load_s: Positive | None = None
    warm_s: NotNegative | None = None
    warmed_shapes: Count | None = None
    first_answer_ms: Positive | None = None
    threads: Some | None = None
    device: Device | None = None  # cpu where it is not told
    gpu_allocated_mb: float | None = None
    gpu_reserved_mb: float | None = None
    gpu_j_per_1000_texts: float | None = None
    gpu_energy_missing: Text | None = None
    peak_rss_mb: Positive | None = None
    bare_interpreter_mb: Positive | None = None
    peak_above_bare_mb: float | None = None
    artifact_mb: Positive | None = None
    archive_mb: float | None = None
    server_ready_s: float | None = None
    server_rss_mb: float | None = None
    cpu_s_per_1000_texts: Positive | None = None


class Row(Record):
    """What every row of a report has, a variant's and a baseline's."""

    name: Name
    status: Literal["measured", "failed", "left out"]
    error: Failed | None
    latency: list[Latency]
    quality: dict[str, Quality]
    parity: dict[str, Parity]
    resources: Resources
    served: list[Level] = []
    served_error: str | None = None
    open: list[OpenLevel] = []
    saturation: Saturation | None = None
    many: Many | None = None

    def __post_init__(self) -> None:
        if (self.status == "measured") != (self.error is None):
            raise ValueError("either it was measured, or there is an error")

    @property
    def device(self) -> str:
        """`cpu` or `cuda`: what it computed on; earlier reports know of CPUs alone."""
        return (self.resources.device or "cpu").partition(":")[0]

    @property
    def yardstick(self) -> str:
        """The variant that the ratios of this row are to."""
        return CUDA_REFERENCE if self.device == "cuda" else REFERENCE

    @property
    def today(self) -> str:
        """What headlines hold the row against: what a user runs today where that was measured."""
        return PIPELINE if any(entry.vs_pipeline for entry in self.latency) else self.yardstick

    @property
    def gate(self) -> Parity | None:
        """Parity on the split that decides."""
        return self.parity.get(GATE)

    @property
    def batch(self) -> Latency | None:
        """The largest batch of real texts: 32 on a CPU, 1,024 on a GPU."""
        real = (entry for entry in self.latency if entry.tokens is None and entry.batch > 1)
        return max(real, key=lambda entry: entry.batch, default=None)

    @property
    def busiest(self) -> Level | None:
        """As served, at the highest concurrency."""
        return max(self.served, key=lambda entry: entry.concurrency, default=None)

    def case(self, name: str) -> Latency | None:
        """The case of that name in process."""
        return next((entry for entry in self.latency if entry.case == name), None)


class Variant(Row, kw_only=True):
    """`proof` is the artifact's own evidence of what its runtime does; `functional` is by suite; `flipped`
    holds those that moved farthest first, and no texts. `served_turns` are requests per second at the highest
    concurrency, in turns with the other variants that were served, which has the same machine for all.
    `asked` are texts by split and by stage, of those after the first: how many it was asked."""

    artifact_sha256: Sha256 | None
    artifact: Built | None
    served: list[Level]
    served_error: str | None
    quality_served: dict[str, Quality]
    parity_served: dict[str, ServedParity]
    proof: dict[str, Any]
    functional: dict[str, Functional] = {}
    flipped: list[Flipped] = []
    served_turns: list[Positive] = []
    asked: dict[str, dict[str, Count]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.error:
            return
        known = self.resources
        if not (self.artifact and self.artifact_sha256 and len(self.latency) >= LEAST_CASES and self.gate):
            raise ValueError("a variant that was measured has an artifact, latency, and parity on gate")
        if not (known.load_s and known.peak_rss_mb and known.artifact_mb):
            raise ValueError("a variant that was measured has a load time, memory and a size")

    @property
    def built(self) -> Built:
        """What its artifact says; of a variant that has one."""
        assert self.artifact is not None
        return self.artifact

    @property
    def judged(self) -> Parity:
        """Parity on gate, of a variant that was measured."""
        return self.parity[GATE]


class Baseline(Row, kw_only=True):
    """The same checkpoint run as another project's documentation shows; `preparation_s` is export and
    quantisation, before the run."""

    summary: Text
    documentation: Text
    preparation_s: NotNegative | None
    versions: dict[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.error and len(self.latency) < LEAST_CASES and not self.served:
            raise ValueError("a baseline that was measured has latency, or was served")


class GemmCase(Record):
    """All products of one shape: `samples` of the int8 product with the fewest, `call_us` the cost of calling
    an int8 product, which is taken off each."""

    case: Text
    batch: Some
    tokens: Some
    samples: Some
    call_us: Positive
    int8_ms: Positive
    int8_tops: Positive
    fp32_ms: Positive
    fp32_tops: Positive
    bf16_ms: Positive | None = None
    bf16_tops: Positive | None = None


class CudaPeak(Record):
    """The same products in fp16 on the GPU, at their quickest batch; `datasheet_tflops` is dense fp16, None
    of a card that is not known here."""

    card: Text
    case: Text
    tflops: Positive
    datasheet_tflops: float | None


class CpuPeak(Record):
    """The quickest products of any shape, and how fast the weights can be read again and again."""

    tops: Positive
    read_gb_s: Positive


class EncoderSizes(Record):
    layers: Some
    width: Some
    feed_forward: Some


class GemmBound(Record):
    """The matrix products of the checkpoint's encoder alone; `percentile` is of each product's durations,
    `peaks` are by precision."""

    encoder: EncoderSizes
    percentile: int | float
    error: str | None
    cases: list[GemmCase]
    peaks: dict[str, CpuPeak] = {}
    cuda: CudaPeak | None = None


class Report(Record):
    """All variants of a run side by side, and its baselines; or one variant alone."""

    schema: Literal[1]
    run: Run
    machine: Machine
    data: Data
    variants: Annotated[list[Variant], Meta(min_length=1)]
    baselines: list[Baseline] = field(default_factory=list, name="peers")
    bound: GemmBound | None = field(default=None, name="floor")

    @property
    def rows(self) -> list[Variant | Baseline]:
        return [*self.variants, *self.baselines]

    @property
    def measured(self) -> list[Variant]:
        return [variant for variant in self.variants if not variant.error]

    @property
    def on_cuda(self) -> list[Variant | Baseline]:
        """What was measured on a GPU."""
        return [row for row in self.rows if row.device == "cuda"]

    @property
    def only(self) -> Variant:
        """The variant of a report that has one."""
        (variant,) = self.variants
        return variant

    def of(self, variant: Variant) -> Self:
        """The report of one variant."""
        return msgspec.structs.replace(self, variants=[variant])


def plain(value: Any) -> Any:
    """Plain JSON, with floats to `DIGITS` significant digits and None for what is not a finite number."""
    return tidy(records.plain(value))


def tidy(value: Any) -> Any:
    """The same of what is plain already; tuples become lists."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    return value


def tidied(record: T) -> T:
    """The record as it is written. Raises `msgspec.ValidationError` for what cannot be."""
    return read(plain(record), type(record))


def as_report(document: Any) -> Report:
    """A report, or that of one variant, whose fields stand next to what it shares with others."""
    if isinstance(document, dict) and "variants" not in document:
        shared = {key: document[key] for key in document if key in Report.__struct_encode_fields__}
        own = {key: document[key] for key in document if key not in shared}
        document = {**shared, "variants": [own]}
    return read(document, Report)


def flat(report: Report) -> dict[str, Any]:
    """The report of one variant as its file has it: the variant's fields and those of the run."""
    document = plain(report)
    (variant,) = document.pop("variants")
    return {**document, **variant}


def json_schema() -> str:
    """The JSON Schema of reports, a type a line."""
    (reference,), types = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    for found in types.values():
        if "description" in found:  # of its docstring; Python 3.13 is the first to dedent that
            found["description"] = cleandoc(found["description"])
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in sorted(types.items()))
    title = '"title": "A report of the benchmark suite, made from benchmarks/records.py"'
    head = '"$schema": "https://json-schema.org/draft/2020-12/schema"'
    return f'{{\n{head},\n{title},\n"$ref": {json.dumps(reference["$ref"])},\n"$defs": {{\n{lines}\n}}\n}}\n'


if __name__ == "__main__":
    print(json_schema(), end="")
