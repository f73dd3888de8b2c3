"""Drift: quiet on what has not drifted and loud on what has, over many seeds, simulated and replayed through
a Predictor; and the counts it is fed with."""

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import binom

from common.proxies import open_url
from deploy.drift import sources
from deploy.drift.exporter import DriftCollector, listen
from deploy.drift.judge import (
    GIVEN,
    Counts,
    Distribution,
    Rule,
    Verdict,
    assess,
    references,
    replaced,
    stability_index,
    worst,
)
from deploy.drift.shares import look, shares_of
from deploy.drift.sources import Window, increase
from deploy.drift.watch import Watch
from deploy.torchserve.server import free_ports
from handler.artifact import Artifact
from handler.errors import UserError
from handler.metrics import counted_scores, dimension, length_bin, score_bin
from handler.predictor import Prediction, Predictor, decide
from tests.conftest import ran, refused, run_stage
from tests.descriptions import changed

# The shares of a real validation split: a score with an empty bin, lengths with bins of hardly any text.
SCORES = np.array([252, 109, 77, 68, 83, 77, 98, 122, 113, 0]) / 999
LENGTHS = np.array([142, 369, 211, 200, 67, 8, 2, 0]) / 999
SHARES = {"score:hate": SCORES, "length": LENGTHS}
SEEDS = 400
RULE = Rule()


def drawn(rng: np.random.Generator, texts: int, **shares: np.ndarray) -> Counts:
    """Counts of as many texts; `shares` stand in the place of the usual ones."""
    return Counts(
        {
            (name, f"{place}"): int(count)
            for name, usual in SHARES.items()
            for place, count in enumerate(rng.multinomial(texts, shares.get(name.split(":")[0], usual)))
        }
    )


def reference_of(found: Counts) -> list[Distribution]:
    return [
        Distribution(
            name, bins := tuple(map(str, range(len(usual)))), tuple(found[name, kind] for kind in bins)
        )
        for name, usual in SHARES.items()
    ]


def alarms(rule: Rule, reference_texts: int, texts: int, **shares: np.ndarray) -> int:
    """Of `SEEDS` streams, each against a reference of its own, those that are said to have drifted."""
    rng = np.random.default_rng([reference_texts, texts])
    streams = ((reference_of(drawn(rng, reference_texts)), drawn(rng, texts, **shares)) for _ in range(SEEDS))
    return sum(worst(assess(reference, stream, rule)) == "drift" for reference, stream in streams)


def at_most(rate: float, of: int = SEEDS) -> int:
    """More than this many would come by chance in one run of a million."""
    return int(binom.ppf(1 - 1e-6, of, rate))


@pytest.mark.parametrize("texts", [200, 1000])
@pytest.mark.parametrize("reference_texts", [200, 1000])
def test_a_stream_that_has_not_drifted_raises_no_more_false_alarms_than_are_allowed(
    reference_texts: int, texts: int
) -> None:
    for alpha in (0.01, 0.2):  # the second, without a least distance, shows the test itself
        rule = Rule(alpha=alpha) if alpha == 0.01 else Rule(1e-9, 1e-9, alpha)
        assert alarms(rule, reference_texts, texts) <= at_most(alpha)


def test_fixed_limits_alone_would_raise_many_more() -> None:
    rng = np.random.default_rng(0)
    beyond = sum(
        stability_index(rng.multinomial(200, SCORES) * 1.0, rng.multinomial(200, SCORES) * 1.0)[0] >= RULE.psi
        for _ in range(SEEDS)
    )
    assert beyond > at_most(0.05), "which is why the size of the samples counts"


MIXED = 0.75 * SCORES + 0.25 * np.eye(10)[8]  # a quarter of the texts now scores between 0.8 and 0.9
LONGER = 0.7 * LENGTHS + 0.3 * np.eye(8)[4]


@pytest.mark.parametrize("shares", [{"score": MIXED}, {"length": LONGER}], ids=["scores", "lengths"])
def test_a_quarter_of_other_texts_is_seen_in_five_hundred(shares: dict[str, np.ndarray]) -> None:
    assert alarms(RULE, 1000, 500, **shares) >= 0.99 * SEEDS


def test_what_is_beyond_chance_and_too_small_to_matter_is_no_drift() -> None:
    slightly = 0.95 * SCORES + 0.05 * np.eye(10)[8]
    rng = np.random.default_rng(0)
    (scores, _) = assess(reference_of(drawn(rng, 100_000)), drawn(rng, 100_000, score=slightly))
    assert scores.psi_p < 1e-12
    assert scores.psi < RULE.psi
    assert scores.verdict == "no drift"


def test_everything_pushed_one_way_is_seen_by_one_distance_or_the_other() -> None:
    pushed = np.roll(LENGTHS, 1)
    (_, lengths) = assess(
        reference_of(drawn(np.random.default_rng(0), 1000)),
        drawn(np.random.default_rng(1), 300, length=pushed),
    )
    assert lengths.ks >= 0.2
    assert lengths.verdict == "drift"


@pytest.mark.parametrize(("reference_texts", "texts"), [(1000, 199), (199, 1000), (1000, 0)])
def test_of_too_few_texts_nothing_is_said(reference_texts: int, texts: int) -> None:
    rng = np.random.default_rng(0)
    verdicts = assess(reference_of(drawn(rng, reference_texts)), drawn(rng, texts, score=np.eye(10)[9]))
    assert {verdict.verdict for verdict in verdicts} == {"too few texts"}


def test_one_bin_that_takes_all_is_drift_and_no_infinity() -> None:
    rng = np.random.default_rng(0)
    (scores, _) = assess(reference_of(drawn(rng, 1000)), drawn(rng, 1000, score=np.eye(10)[9]))
    assert scores.verdict == "drift"
    assert np.isfinite(scores.psi)


# Replayed: a real classifier's answers.


def counted(artifact: Artifact, predictions: Sequence[Prediction]) -> Counts:
    """As the server counts them."""
    reference, found = artifact.meta.reference, Counts()
    for each in predictions:
        found["length", length_bin(each.tokens, reference.lengths.up_to)] += 1
        (given,) = decide(each.scores[None], artifact.labels, artifact.meta.thresholds)
        found[f"label:{dimension(artifact.labels[given])}", GIVEN] += 1
        for label, score in counted_scores(artifact.labels, artifact.positive_label, each.scores):
            found[f"score:{dimension(label)}", score_bin(score, reference.scores.edges)] += 1
    return found


def replay(
    artifact: Artifact, usual: Sequence[Prediction], stream: Sequence[Prediction] | None, seeds: int
) -> list[str]:
    """For each seed a verdict on a random half of `usual` against the other, or a bootstrap of `stream`."""
    known, verdicts = references(artifact), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        first, second = np.array_split(rng.permutation(len(usual)), 2)
        before = replaced(known, counted(artifact, [usual[row] for row in first]))
        if stream is None:
            after = [usual[row] for row in second]
        else:
            after = [stream[row] for row in rng.integers(0, len(stream), len(second))]
        verdicts.append(worst(assess(before, counted(artifact, after))))
    return verdicts


@pytest.fixture(scope="module")
def artifact(build_once) -> Artifact:
    return build_once("openvino-int8")


@pytest.fixture(scope="module")
def test_split(source, artifact: Artifact) -> dict[str, list[Prediction]]:
    """The tiny classifier's answers to held-out texts: all of them, the hateful ones, and three in one."""
    split, predictor = source.dataset.splits["test"], Predictor(artifact)
    texts = list(split.texts)
    usual = predictor.predict(texts)
    return {
        "usual": usual,
        "hateful": [each for each, label in zip(usual, split.labels, strict=True) if label],
        "longer": predictor.predict([" ".join(texts[row : row + 3]) for row in range(len(texts) - 2)]),
    }


def test_replayed_texts_that_have_not_drifted_are_quiet(artifact: Artifact, test_split) -> None:
    verdicts = replay(artifact, test_split["usual"], None, 40)
    assert set(verdicts) <= {"drift", "no drift"}
    assert verdicts.count("drift") <= at_most(RULE.alpha, 40)


@pytest.mark.parametrize("stream", ["hateful", "longer"])
def test_replayed_texts_that_have_drifted_are_seen(artifact: Artifact, test_split, stream: str) -> None:
    assert replay(artifact, test_split["usual"], test_split[stream], 20) == ["drift"] * 20


# Counts, from where they are.


def test_counters_that_fell_began_anew() -> None:
    before, after = Counts({("length", "16"): 7, ("length", "32"): 3}), Counts({("length", "16"): 9})
    assert increase(before, after) == after, (
        "one fell, so the server restarted, and the other counts from zero"
    )
    assert increase(before, before + after)["length", "16"] == 9


def test_a_sliding_window_forgets_and_stays_small() -> None:
    window = Window(100)
    for tenth in range(20_000):
        window.add(tenth / 10, Counts({("length", "16"): tenth}))
    assert window.total()["length", "16"] == pytest.approx(1000, rel=0.01)
    assert len(window._steps) <= sources.STEPS + 1
    window.add(2500, Counts({("length", "16"): 4}))
    assert window.total()["length", "16"] == 4, "all that is left came after a restart"


def test_what_predict_wrote_is_counted_as_the_server_counts(
    artifact: Artifact, test_split, source, tmp_path: Path
) -> None:
    texts = tmp_path / "in.jsonl"
    rows = [*source.dataset.splits["test"].texts, ""]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        done = ran(
            "handler", "predict", "--artifact", artifact.folder, "--file", texts, "--output", tmp_path / name
        )
        assert sources.written(str(tmp_path / name), artifact) == counted(artifact, test_split["usual"])
    drift = ("deploy", "drift", "--artifact", artifact.folder, "--file", tmp_path / "out.csv")
    done = run_stage(*drift, "--reference", tmp_path / "out.jsonl")
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"]) == (0, "no drift")
    assert [row["psi"] for row in result["distributions"]] == [0, 0]
    assert [row["share"] for row in result["shares"]] == ["label:hate"]
    assert "no drift" in done.stderr


def test_independent_labels_have_a_distribution_each(artifact: Artifact, tmp_path: Path) -> None:
    histogram = {"edges": [0, 0.5, 1], "counts": [1, 2], "labels": {"to x": [2, 1], "b": [1, 2]}}
    reference = {"scores": histogram, "lengths": artifact.meta.reference.lengths}
    reference["labels"] = {"to x": 1, "b": 2}
    thresholds = {"to x": 0.5, "b": 0.5}
    several = changed(
        artifact, task="multi-label", labels=["to x", "b"], thresholds=thresholds, reference=reference
    )
    names = ["score:to_x", "score:b", "length", "label:to_x", "label:b"]
    assert [distribution.name for distribution in references(several)] == names
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps({"label": "b", "score": '{"to x": 0.1, "b": 0.9}', "tokens": 5}) + "\n")
    found = sources.written(str(path), several)
    assert found == {
        ("length", "16"): 1,
        ("label:b", GIVEN): 1,
        ("score:to_x", "0.5"): 1,
        ("score:b", "1"): 1,
    }


OF_STAGES = """# TYPE {name} counter
{name}{{ModelName="hate",stage="int8"}} {asked}
{name}{{ModelName="another",stage="int8"}} 999
"""


def test_a_stage_that_is_asked_more_often_than_of_validation_texts_is_drift(artifact: Artifact) -> None:
    held = artifact.meta.reference
    texts = sum(held.lengths.counts)
    reference = {"scores": held.scores, "lengths": held.lengths, "labels": held.labels}
    cascade = changed(artifact, reference=reference | {"asked": {"int8": texts // 3}})
    known = references(cascade)
    assert known[-1].name == "asked:int8"
    assert known[-1].counts == (texts // 3, texts - texts // 3)
    (share,) = (each for each in shares_of(known, Rule()) if each.distribution == "asked:int8")
    counts = Counts({("length", known[-2].bins[0]): 3000})
    for asked, verdict in ((1000, "no drift"), (1500, "drift"), (500, "drift")):
        found = Counts(counts)
        page = OF_STAGES.format(name=sources.ASKED, asked=asked)
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                sources._add(found, sources.ASKED, sample.labels, sample.value, "hate")
        assert look(share, found, Rule()).verdict == verdict


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--artifact", "nowhere.mar"), "not an archive of this project"),
        (("--artifact", "tests"), "this is not an artifact"),
        (("--metrics", "file:///etc/passwd"), "must begin with http"),
        (("--metrics", "http://127.0.0.1:1/metrics"), "nothing answers"),
        (("--prometheus", "http://127.0.0.1:1"), "nothing answers"),
        (("--file", "README.md"), "does not show its format"),
        (("--file", "nowhere.csv"), "no such file"),
        (("--file", "x.csv", "--window", "1h"), "--window cannot be used with --file"),
        (("--file", "x.csv", "--listen", "127.0.0.1:9109"), "--listen needs a server"),
        (("--fp32", "x.csv"), "--fp32 needs a file"),
        (("--state", "x.json"), "must not count twice"),
        (
            ("--state", "x.json", "--prometheus", "http://127.0.0.1:1", "--window", "1h"),
            "must not count twice",
        ),
    ],
)
def test_a_mistake_is_a_sentence(artifact: Artifact, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused("deploy", "drift", "--artifact", artifact.folder, *arguments)


@pytest.mark.parametrize("arguments", [("--window", "0s"), ("--window", "8d"), ("--listen", "9109")])
def test_windows_and_addresses_have_a_form(arguments: tuple[str, str]) -> None:
    assert run_stage("deploy", "drift", *arguments).returncode == 2


def test_counts_of_another_artifact_are_refused(artifact: Artifact) -> None:
    known = references(artifact)
    (lengths,) = [distribution for distribution in known if distribution.name == "length"]
    with pytest.raises(UserError, match="bins length 7"):
        assess(known, Counts({("length", "7"): 1}))
    with pytest.raises(UserError, match="no texts counted for score:hate"):
        assess(known, Counts({("length", lengths.bins[0]): 500}))
    few = assess(known, Counts({("length", lengths.bins[0]): 5}))
    assert worst(few) == "too few texts", "the scores of so few may be on their way"


PAGE = """# TYPE Requests2XX counter
Requests2XX{Level="Host",Hostname="h",} 9.0
# TYPE classifier_scores counter
# TYPE classifier_lengths counter
# TYPE classifier_labels counter
"""


@pytest.fixture
def pages() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the metrics that it will answer with: the last is repeated."""
    left: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write((left.pop(0) if len(left) > 1 else left[0]).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/metrics", left
    server.shutdown()
    server.server_close()


def page(found: Counts, name: str = "hate") -> str:
    lines = []
    for (distribution, place), count in found.items():
        kind, _, label = distribution.partition(":")
        labels = {"label": label} if label else {}
        labels |= {} if kind == "label" else {"up_to": place}
        dimensions = ",".join(f'{key}="{value}"' for key, value in labels.items())
        lines.append(f'classifier_{kind}s{{ModelName="{name}",{dimensions},Hostname="h",}} {count}.0')
    return PAGE + "\n".join(lines) + "\n"


def test_the_exporter_sees_drift_after_a_restart_and_says_once_why_it_cannot_read(
    artifact: Artifact,
    test_split,
    pages: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    address, answers = pages
    usual, longer = (counted(artifact, test_split[kind]) for kind in ("usual", "longer"))
    known = replaced(references(artifact), usual)
    twice = [page(Counts()), page(usual), page(longer)]  # a look is settled once two reads agree
    answers += [each for each in twice for _ in range(2)]
    answers += ["not metrics {", "not metrics {", page(Counts()), page(Counts())]
    answers += [page(Counts({("length", "7"): 1}))]
    watch = Watch(shares_of(known, RULE), RULE, artifact.sha256, tmp_path / "drift.json")
    collector = DriftCollector(address, "hate", known, watch, 3600)
    (port,) = free_ports(1)
    listen(collector, "127.0.0.1", port)

    def scrape() -> dict[str, float]:
        with open_url(f"http://127.0.0.1:{port}/metrics", 30) as response:
            lines = response.read().decode().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}

    of_lengths = 'classifier_drift_{}{{distribution="length"}}'.format
    nothing = scrape()
    assert (nothing["classifier_drift_up"], nothing[of_lengths("texts")]) == (1, 0)
    assert of_lengths("psi") not in nothing
    quiet = scrape()
    assert (quiet[of_lengths("texts")], quiet[of_lengths("psi")], quiet[of_lengths("detected")]) == (
        600,
        0,
        0,
    )
    loud = scrape()
    assert loud[of_lengths("texts")] == 1198, "counters that fell began anew"
    assert loud[of_lengths("detected")] == 1
    capsys.readouterr()
    assert [scrape(), scrape()] == [{"classifier_drift_up": 0}] * 2
    assert capsys.readouterr().err.count("not TorchServe's metrics") == 1
    assert scrape()["classifier_drift_up"] == 1
    assert scrape()["classifier_drift_up"] == 0, "bins of another artifact"
    with pytest.raises(UserError, match="cannot listen there"):
        listen(collector, "127.0.0.1", port)


def test_another_model_s_counts_are_not_ours(pages: tuple[str, list[str]]) -> None:
    address, answers = pages
    answers.append(page(Counts({("length", "16"): 5}), "other"))
    assert not sources.served(address, "hate")["length", "16"]
    assert sources.served(address, "other")["length", "16"] == 5


def test_a_look_of_some_seconds_counts_what_comes_in_them(pages: tuple[str, list[str]]) -> None:
    address, answers = pages
    answers += [page(Counts({("length", "16"): 5}))] * 2 + [page(Counts({("length", "16"): 12}))]
    assert sources.watched(address, "hate", 1)["length", "16"] == 7


def test_a_verdict_without_figures_is_null_in_json(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text(
        json.dumps({"label": "hate", "score": 0.9, "tokens": 5, "error": None}) + "\n"
    )
    done = run_stage("deploy", "drift", "--artifact", artifact.folder, "--file", tmp_path / "few.jsonl")
    result = json.loads(done.stdout)
    assert (done.returncode, result["verdict"]) == (0, "too few texts")
    assert {row["psi"] for row in result["distributions"]} == {None}
    assert Verdict.__dataclass_fields__.keys() == result["distributions"][0].keys()
