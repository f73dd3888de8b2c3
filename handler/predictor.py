"""The Predictor: texts in, calibrated scores out.

The server, export's check, the command line and the benchmarks all use this one class, so that what is
measured is what is shipped. It knows nothing of TorchServe and nothing of how artifacts are made.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from handler.answers import DECISIONS, Answer, Read, Single
from handler.artifact import TOKENIZER, Artifact, open_artifact
from handler.bands import decisions
from handler.batching import Forward, MicroBatch, plan
from handler.cuda import choose_device
from handler.errors import UnsupportedError, UserError
from handler.machine import available_cpus
from handler.requests import LONE_SURROGATE
from handler.runtimes import load_models, prepares_every_shape
from handler.self_check import NONE, Outcome, Tolerance, judge, read_made
from handler.stages import Model

logger = logging.getLogger(__name__)

# The window that is sorted by length at once: wide enough for full batches of one length, small enough
# that memory stays flat over millions of texts.
WINDOW = 1024
# Of a text that is to be cut, so many characters for each token that the model can read are tokenised first.
FIRST_CUT = 8
# Tokens are settled where so many words stand between them and the cut: words are told apart by what is near,
# so that the rest of the text could not change them.
SETTLED_BEFORE = 64


@dataclass(frozen=True)
class Encoding:
    """A tokenised text: `ids` with [CLS] and [SEP], cut to the model's maximum.

    `rest` is what does not fit, where it was asked for: windows of the same maximum that begin
    `Predictor.stride` tokens before the end of the one before. `is_window` marks one of several that a text
    was cut into.
    """

    ids: list[int]
    truncated: bool = False
    rest: tuple[list[int], ...] = ()
    is_window: bool = False

    @property
    def windows(self) -> list[list[int]]:
        """All of the text."""
        return [self.ids, *self.rest]


@dataclass(frozen=True)
class Prediction:
    """Calibrated probabilities of one text, float64 [labels], and how much of it the model read. `logits` are
    the model's own, float32 [labels], where it read one window; `asked_again` is how many later stages were
    asked of it then. `remembered`: the model was not asked now."""

    scores: np.ndarray
    tokens: int
    truncated: bool
    windows: int = 1
    logits: np.ndarray | None = None
    asked_again: int = 0
    remembered: bool = False


class Predictor:
    """An artifact, loaded. `threads` defaults to the CPUs that this process may use, `device` (such as
    "cuda:1") to the one that the artifact is made for: the CPU, or the first GPU. One call at a time: inputs
    lie in a buffer that the next call writes. Once loaded it checks itself: `self_check` says what was found,
    and where more labels may change than `tolerance` allows, `UnsupportedError` is raised."""

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        device: str | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.artifact = artifact
        self.threads = threads or available_cpus()
        self.device = choose_device(artifact.meta, device)
        self.grid = artifact.grid
        self._pad_id = artifact.meta.inputs.pad_id
        self.tokenizer = load_tokenizer(artifact)
        self.stride = self.tokenizer.truncation["stride"]
        self._settled_before = max(SETTLED_BEFORE, longest_added_token(self.tokenizer))
        self.computed_tokens = 0  # of all calls so far, padding included
        self.models = load_models(artifact, self.threads, self.device)
        self._streams = ThreadPoolExecutor(self.threads, "stream")  # it starts a thread when one is needed
        # Texts of all calls so far that each stage but the first was asked; windows are not counted.
        self.asked_again = {model.name: 0 for model in self.models[1:]}
        self.self_check = self._check_itself(tolerance or Tolerance.of())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        threads: int | None = None,
        device: str | None = None,
        tolerance: Tolerance | None = None,
    ) -> "Predictor":
        """Open, verify and load the artifact at `folder`. Raises `UserError` as `open_artifact` does, and
        `UnsupportedError` where the device is missing or cannot run it, or its scores are others here."""
        return cls(open_artifact(folder), threads, device, tolerance)

    @property
    def main(self) -> Model:
        """The model that explanations are of: the first that may answer any text."""
        return next((model for model in self.models if model.windows), self.models[-1])

    @property
    def model(self) -> Any:
        """The torch module whose gradients explain a score, or None where the runtime has none."""
        return getattr(self.main.forward, "model", None)

    def _check_itself(self, tolerance: Tolerance) -> Outcome:
        """Compare with what was recorded at export; `UnsupportedError` where it is not to be served."""
        begun = time.perf_counter()
        made = read_made(self.artifact, len(self.models), self.tokenizer)
        if made is None:
            return NONE
        logits, tokens = self.logits_of_each(made.sequences), self.tokens(made.texts)
        taken_ms = (time.perf_counter() - begun) * 1000
        outcome = judge(self.artifact.meta, made, logits, tokens, tolerance, taken_ms)
        if outcome.status == "mismatch":
            name = self.artifact.name
            if tolerance.on_mismatch == "refuse":
                raise UnsupportedError(
                    f"the artifact {name} gives other scores here than where it was exported",
                    seen=outcome,
                    remedy="Build it on this kind of CPU with these versions (python -m export build "
                    f"{name}), or accept it: SELF_CHECK_ON_MISMATCH=warn",
                )
            logger.warning("%s is served although %s", name, outcome)
        return outcome

    def logits_of_each(self, sequences: Sequence[list[int]]) -> list[np.ndarray]:
        """What each model says of all sequences of token ids, float32 [sequences, labels]; not counted."""
        computed = self.computed_tokens
        encodings = [Encoding(ids) for ids in sequences]
        if self.artifact.meta.runtime_options.get("graphs"):
            self._run_shape(*max(self.grid.shapes(), key=lambda shape: shape[0] * shape[1]))
        found = [self._logits(encodings, model) for model in self.models]
        self.computed_tokens = computed
        return found

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids that are read of each text."""
        return [encoding.ids for encoding in self.encode(texts)]

    def warm(self) -> int:
        """Run every shape of the grid that the runtime would compile or capture at its first use; returns how
        many were run.

        Other runtimes get one call of the smallest and one of the largest shape: their first call
        allocates, later ones do not depend on the shape.
        """
        # The largest first: what captures a graph for each then finds room for the others.
        shapes = sorted(self.grid.shapes(), key=lambda shape: shape[0] * shape[1], reverse=True)
        if not prepares_every_shape(self.artifact):
            shapes = [shapes[0], shapes[-1]]
        for batch, length in shapes:
            self._run_shape(batch, length)
        return len(shapes)

    def _run_shape(self, batch: int, length: int) -> None:
        ids, mask = np.zeros((batch, length), np.int64), np.ones((batch, length), np.int64)
        for model in self.models:
            if batch == 1 or not model.streams:  # all other batches go to streams
                model(ids, mask)
            if model.streams:
                self._in_streams(model, partial(model, ids, mask))

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Predictions in the order of `texts`."""
        return list(self.stream(texts))

    def stream(self, texts: Sequence[str]) -> Iterator[Prediction]:
        """As `predict`, window by window: flat memory, and a place to show progress."""
        for start in range(0, len(texts), WINDOW):
            encodings = self.encode(texts[start : start + WINDOW])
            yield from self.classify(encodings, [None] * len(encodings))

    def encode(self, texts: Sequence[str], whole: Sequence[bool] | None = None) -> list[Encoding]:
        """Tokenise; of those texts that are to be read `whole`, keep what does not fit as well."""
        wanted = whole or [False] * len(texts)
        found = self._encode_beginnings(texts, wanted)
        left = [place for place in range(len(texts)) if place not in found]
        encoded = self.tokenizer.encode_batch_fast([clean(texts[place]) for place in left])
        found.update(zip(left, encoded, strict=True))
        encodings = []
        for place, all_of_it in enumerate(wanted):
            encoding = found[place]
            rest = tuple(window.ids for window in encoding.overflowing) if all_of_it else ()
            # A tokenizer without [CLS] and [SEP] may find nothing in a text: [PAD] stands for that.
            encodings.append(Encoding(encoding.ids or [self._pad_id], bool(encoding.overflowing), rest))
        return encodings

    def tokenise(self, text: str) -> tokenizers.Encoding:
        """What `encode` reads of a text, with the place of each token in it."""
        found = self._encode_beginnings([text], [False])
        return found[0] if found else self.tokenizer.encode(clean(text))

    def _encode_beginnings(
        self, texts: Sequence[str], whole: Sequence[bool]
    ) -> dict[int, tokenizers.Encoding]:
        """By index, the tokens of very long texts, from their beginnings; the same as from the whole text.

        A text whose beginning does not decide them (it is one word, or spaces) is missing.
        """
        found: dict[int, tokenizers.Encoding] = {}
        if self.tokenizer.truncation["direction"] != "right":
            return found
        size = FIRST_CUT * self.artifact.max_length
        # Twice as long and more: with places and words, a beginning costs more than it would without.
        left = [place for place, text in enumerate(texts) if len(text) > 2 * size and not whole[place]]
        while left:
            beginnings = [clean(texts[place][:size]) for place in left]
            for place, encoding in zip(left, self.tokenizer.encode_batch(beginnings), strict=True):
                if self._is_settled(encoding):
                    found[place] = encoding
            size *= 4
            left = [place for place in left if place not in found and len(texts[place]) > 2 * size]
        return found

    def _is_settled(self, encoding: tokenizers.Encoding) -> bool:
        if not encoding.overflowing:
            return False
        read = max((word for word in encoding.word_ids if word is not None), default=None)
        last = max((word for word in encoding.overflowing[-1].word_ids if word is not None), default=None)
        return read is not None and last is not None and last - read >= self._settled_before

    def classify(self, encodings: Sequence[Encoding], aggregates: Sequence[str | None]) -> list[Prediction]:
        """Predictions in the order given, from each text's first window or from all of its windows.

        Aggregates: None, the first window; `max`, the scores of the window where the positive label is most
        probable (without one, of the window with the highest score), and of independent labels each one's
        largest; `mean`, weighted by tokens.
        """
        read = [
            encoding.windows if aggregate else [encoding.ids]
            for encoding, aggregate in zip(encodings, aggregates, strict=True)
        ]
        logits, asked_again = self._in_stages(
            [Encoding(window, is_window=len(windows) > 1) for windows in read for window in windows],
            self.models,
        )
        ends = np.cumsum([len(windows) for windows in read])
        scores = iter(np.split(self.scores(logits), ends[:-1]))
        shared = self.stride + self.tokenizer.num_special_tokens_to_add(is_pair=False)
        predictions = []
        for encoding, aggregate, windows, end in zip(encodings, aggregates, read, ends, strict=True):
            lengths = [len(window) for window in windows]
            predictions.append(
                Prediction(
                    self._together(next(scores), lengths, aggregate),
                    sum(lengths) - shared * (len(windows) - 1),
                    aggregate is None and encoding.truncated,
                    len(windows),
                    logits[end - 1] if len(windows) == 1 else None,
                    int(asked_again[end - 1]),
                )
            )
        return predictions

    def _together(self, scores: np.ndarray, lengths: list[int], aggregate: str | None) -> np.ndarray:
        """One text's scores float64 [labels] from those of its windows [windows, labels]."""
        if len(scores) == 1:
            return np.asarray(scores[0])
        if aggregate == "mean":
            return np.round(np.average(scores, axis=0, weights=lengths), 6)
        if self.artifact.multi_label:
            return np.asarray(scores.max(axis=0))
        place = self.artifact.positive
        return np.asarray(scores[(scores.max(axis=1) if place is None else scores[:, place]).argmax()])

    def logits(self, encodings: Sequence[Encoding], models: Sequence[Model] | None = None) -> np.ndarray:
        """float32 [texts, labels], in the order given, of the artifact's models (or those `models` of it):
        each is asked of the texts that those before it left open, in micro-batches of the grid."""
        return self._in_stages(encodings, self.models if models is None else models)[0]

    def _in_stages(
        self, encodings: Sequence[Encoding], models: Sequence[Model]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The logits, and how many of the later models were asked of each text, int [texts]; of windows
        none is counted."""
        *before, last = models
        asked_again = np.zeros(len(encodings), int)
        if not before:
            return self._logits(encodings, last), asked_again
        logits = np.empty((len(encodings), len(self.artifact.labels)), np.float32)
        whole = np.array([not encoding.is_window for encoding in encodings], bool)
        left = np.arange(len(encodings))
        for model, following in pairwise((*before, last)):
            able = left if model.windows else left[whole[left]]
            logits[able] = self._logits([encodings[row] for row in able.tolist()], model)
            sure = able[~model.unsure(logits[able])]
            left = np.setdiff1d(left, sure, assume_unique=True)
            asked_again[left[whole[left]]] += 1
            self.asked_again[following.name] += int(whole[left].sum())
        logits[left] = self._logits([encodings[row] for row in left.tolist()], last)
        return logits, asked_again

    def _logits(self, encodings: Sequence[Encoding], model: Model) -> np.ndarray:
        """One model's, float32 [texts, labels]."""
        logits = np.empty((len(encodings), len(self.artifact.labels)), np.float32)
        streams = len(model.streams) if len(encodings) > 1 else 0
        # Each stream is to have something to do.
        grid = self.grid.at_most(math.ceil(len(encodings) / streams)) if streams else self.grid
        micro_batches = plan([len(encoding.ids) for encoding in encodings], grid)
        self.computed_tokens += sum(micro_batch.tokens for micro_batch in micro_batches)
        if streams:
            self._share(encodings, micro_batches, model, logits)
            return logits
        for micro_batch, inputs in zip(micro_batches, self._inputs(encodings, micro_batches), strict=True):
            logits[list(micro_batch.rows)] = model(*inputs)[: len(micro_batch.rows)]
        return logits

    def _share(
        self,
        encodings: Sequence[Encoding],
        micro_batches: Sequence[MicroBatch],
        model: Model,
        logits: np.ndarray,
    ) -> None:
        """Write the logits of all; each stream takes the largest that is left, so that all end together."""
        left = deque(sorted(micro_batches, key=lambda micro_batch: micro_batch.tokens, reverse=True))

        def work(stream: Forward) -> None:
            while True:
                try:
                    micro_batch = left.popleft()
                except IndexError:  # another stream took the last
                    return
                logits[list(micro_batch.rows)] = self._compute(encodings, micro_batch, model, stream)

        self._in_streams(model, work)

    def _in_streams(self, model: Model, work: Callable[[Forward], object]) -> None:
        """Do it with each of the model's streams at once, with the first in this thread."""
        first, *others = model.streams
        running = [self._streams.submit(work, stream) for stream in others]
        try:
            work(first)
        finally:
            wait(running)
        for each in running:
            each.result()

    def run(self, encodings: Sequence[Encoding], micro_batch: MicroBatch, model: Model) -> np.ndarray:
        """One call of a model, as one of that shape is served: float32 [rows of the micro-batch, labels]."""
        forward = model.streams[0] if model.streams and micro_batch.batch > 1 else model.forward
        self.computed_tokens += micro_batch.tokens
        return self._compute(encodings, micro_batch, model, forward)

    def _compute(
        self, encodings: Sequence[Encoding], micro_batch: MicroBatch, model: Model, forward: Forward
    ) -> np.ndarray:
        return model(*self._pad(encodings, micro_batch), forward)[: len(micro_batch.rows)]

    def _inputs(
        self, encodings: Sequence[Encoding], micro_batches: Sequence[MicroBatch]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and mask of each. On a GPU they are laid out during the calls, in which the host is idle."""
        pad = partial(self._pad, encodings)
        if self.device == "cpu" or len(micro_batches) == 1:
            yield from map(pad, micro_batches)
        else:
            with ThreadPoolExecutor(1) as thread:
                yield from thread.map(pad, micro_batches)

    def _pad(self, encodings: Sequence[Encoding], micro_batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
        """int64 [batch, length] ids and mask; a row that fills up the batch is one [PAD] that is attended."""
        own = [encodings[row].ids for row in micro_batch.rows]
        lengths = np.zeros(micro_batch.batch, np.int64)
        lengths[: len(own)] = [len(tokens) for tokens in own]
        real = np.arange(micro_batch.length) < lengths[:, None]
        ids = np.full((micro_batch.batch, micro_batch.length), self._pad_id, np.int64)
        ids[real] = np.fromiter(chain.from_iterable(own), np.int64, int(lengths.sum()))
        mask = real.astype(np.int64)
        mask[len(own) :, 0] = 1  # attention over nothing would be 0/0
        return ids, mask

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """The model's logits [texts, labels], moved by the variant's offsets and scaled, float64."""
        meta = self.artifact.meta
        moved = logits.astype(np.float64) + (meta.logit_offsets or 0.0)
        return np.asarray(moved / meta.temperature)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 [texts, labels]: softmax (or sigmoid) of the calibrated logits.

        Rounded to six decimals, which is what is served: decisions are taken on the numbers shown.
        """
        scaled = self.calibrated(logits)
        if self.artifact.multi_label:
            chances = 1 / (1 + np.exp(-np.clip(scaled, -700, 700)))  # e^710 is beyond float64
            return np.asarray(np.round(chances, 6))
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(np.round(exponentials / exponentials.sum(axis=1, keepdims=True), 6))

    def answer(self, prediction: Prediction) -> Answer:
        """One answer as it is served (`answer.schema.json`), without the server's `model` field."""
        labels = self.artifact.labels
        thresholds = self.artifact.meta.thresholds
        scores = dict(zip(labels, prediction.scores.tolist(), strict=True))
        if self.artifact.multi_label:
            read: Read = {"tokens": prediction.tokens, "truncated": prediction.truncated}
            if prediction.windows > 1:
                read["windows"] = prediction.windows
            (held,) = decide(prediction.scores[None], labels, thresholds, multi_label=True)
            chosen = [label for label, holds in zip(labels, held, strict=True) if holds]
            return {"labels": chosen, "scores": scores, "thresholds": thresholds, **read}
        label = labels[decide(prediction.scores[None], labels, thresholds)[0]]
        threshold = thresholds[labels[positive_of_two(labels, thresholds)]] if len(labels) == 2 else None
        answer: Single = {
            "label": label,
            "score": scores[label],
            "scores": scores,
            "threshold": threshold,
            "tokens": prediction.tokens,
            "truncated": prediction.truncated,
        }
        if prediction.windows > 1:
            answer["windows"] = prediction.windows
        if (bands := self.artifact.meta.bands) is not None:
            assert self.artifact.positive is not None
            decided = decisions(prediction.scores[None], self.artifact.positive, bands)[0]
            answer["decision"] = DECISIONS[decided]
        return answer


def decide(
    scores: np.ndarray, labels: Sequence[str], thresholds: Mapping[str, float], multi_label: bool = False
) -> np.ndarray:
    """Single-label decisions, int [texts]: two labels by the threshold of the positive one, more by the
    largest score. Independent labels, 0 and 1, int [texts, labels]: each by its own threshold."""
    if multi_label:
        return (scores >= np.array([thresholds[label] for label in labels])).astype(np.int64)
    if len(labels) == 2:
        place = positive_of_two(labels, thresholds)
        return np.where(scores[:, place] >= thresholds[labels[place]], place, 1 - place).astype(np.int64)
    return np.asarray(scores.argmax(axis=1))


def positive_of_two(labels: Sequence[str], thresholds: Mapping[str, float]) -> int:
    """The place of the label that has the threshold."""
    return int(labels[1] in thresholds)


def clean(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no tokenizer takes; places stay what they were."""
    return LONE_SURROGATE.sub("\ufffd", text)


def longest_added_token(tokenizer: Tokenizer) -> int:
    """Its characters; added tokens are looked for in the whole text, before it is parted into words."""
    return max((len(token.content) for token in tokenizer.get_added_tokens_decoder().values()), default=0)


def load_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; it cuts texts at the model's maximum, into windows with a quarter shared."""
    # The Rust tokenizer directly: about 20 us a text, several times less than through transformers.
    try:
        tokenizer = Tokenizer.from_file(str(artifact.folder / TOKENIZER))
    except Exception as error:  # the Rust side raises bare Exception
        raise UserError(
            "the artifact's tokenizer cannot be read",
            seen=artifact.folder / TOKENIZER,
            remedy="Build the artifact again",
        ) from error
    tokenizer.no_padding()
    room = artifact.max_length - tokenizer.num_special_tokens_to_add(is_pair=False)
    if room < 1:
        raise UserError(
            "the artifact's maximum length leaves no room for a text",
            seen=f"{artifact.max_length} tokens at most, {artifact.max_length - room} of them special ones",
            remedy="Build it again with a larger --max-length",
        )
    side = artifact.meta.inputs.truncation_side or "right"
    tokenizer.enable_truncation(artifact.max_length, stride=room // 4, direction=side)
    return tokenizer
