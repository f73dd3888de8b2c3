"""An artifact that computes something else than at its export is refused, and one that does not is served."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.atomic import write_json
from export.self_check import points
from handler import self_check
from handler.artifact import DESCRIPTION, Artifact, describe_files, open_artifact
from handler.description import Bands
from handler.errors import UnsupportedError, UserError
from handler.machine import cpu_features
from handler.metrics import Tally
from handler.predictor import Predictor
from handler.requests import Limits
from handler.self_check import FILE, NONE, ROUNDING, Made, Recorded, Tolerance, compared, judge
from handler.service import Service
from tests.conftest import ROOT
from tests.handler.test_service import MODEL, Counted
from tests.handler.test_stages import LABELS, labels_of, meta

WARN = Tolerance(on_mismatch="warn")


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in self_check.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def rewritten(artifact: Artifact) -> Artifact:
    """With sums that fit its files, whatever they are now."""
    known = replace(artifact.meta, files=describe_files(artifact.folder))
    write_json(artifact.folder / DESCRIPTION, known)
    return open_artifact(artifact.folder)


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in load_file(path).items()}


def flipped(artifact: Artifact, name: str) -> Artifact:
    """With the sign of the largest weight of a tensor turned."""
    path = artifact.folder / "model.safetensors"
    weights = weights_of(path)
    flat = weights[name].reshape(-1)
    flat[np.abs(flat).argmax()] *= -1
    save_file(weights, path, metadata={"format": "pt"})
    return rewritten(artifact)


@pytest.mark.parametrize("name", ["fp32", "openvino-int8", "openvino-int8-rechecked-cascade"])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_untouched_artifact_gives_the_scores_of_its_export(build_once, name: str, threads: int) -> None:
    found = Predictor(build_once(name), threads).self_check
    assert found.status == "same", found
    assert (found.sequences, found.tokens_differ) == (64, 0)
    assert found.largest_move <= ROUNDING


@pytest.mark.parametrize(
    "tensor",
    [
        "classifier.weight",
        "distilbert.transformer.layer.0.attention.v_lin.weight",
        "distilbert.transformer.layer.1.ffn.lin1.weight",
    ],
)
def test_one_flipped_weight_is_seen(artifact_copy: Artifact, tensor: str) -> None:
    changed = flipped(artifact_copy, tensor)
    assert Predictor(changed, tolerance=Tolerance(1.0)).self_check.largest_move > 10 * ROUNDING
    with pytest.raises(UnsupportedError, match="other scores here than where it was exported"):
        Predictor(changed, tolerance=Tolerance(0.0))


def test_what_may_change_too_many_labels_is_refused(artifact_copy: Artifact) -> None:
    with pytest.raises(UnsupportedError, match=r"% of labels may change \(0.20% is allowed\)") as refused:
        Predictor(flipped(artifact_copy, "classifier.weight"))
    assert refused.value.remedy.endswith("SELF_CHECK_ON_MISMATCH=warn")


def test_with_warn_it_is_served_and_says_so(artifact_copy: Artifact, caplog, monkeypatch) -> None:
    monkeypatch.setenv("SELF_CHECK_ON_MISMATCH", "warn")
    metrics = Counted()
    tally = Tally(metrics, "hate")
    service = Service(Predictor(flipped(artifact_copy, "classifier.weight")), Limits(), MODEL, tally)
    tally.emit()
    described = json.loads(json.dumps(service.describe()))["self_check"]
    assert described["status"] == "mismatch"
    assert described["flips_at_most"] > described["allowed"] == 0.002
    assert described["note"] in caplog.text
    assert metrics.values["classifier_self_check", "mismatch"] == 1


def test_more_is_allowed_to_whom_more_is_given(artifact_copy: Artifact) -> None:
    changed = flipped(artifact_copy, "classifier.weight")
    assert Predictor(changed, tolerance=Tolerance(flips=1.0)).self_check.status == "close"


def test_weights_that_are_not_numbers_are_refused(artifact_copy: Artifact) -> None:
    path = artifact_copy.folder / "model.safetensors"
    weights = weights_of(path)
    weights["classifier.bias"][:] = np.nan
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match="not all logits of 64 made sequences are numbers"):
        Predictor(rewritten(artifact_copy))


def test_a_tokenizer_that_cuts_otherwise_is_refused(artifact_copy: Artifact) -> None:
    path = artifact_copy.folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"]["lowercase"] = not content["normalizer"]["lowercase"]
    path.write_text(json.dumps(content))
    with pytest.raises(UnsupportedError, match=r"the tokenizer cuts \d of the texts"):
        Predictor(rewritten(artifact_copy))


def test_an_artifact_of_earlier_versions_loads_and_says_that_it_has_none(artifact_copy: Artifact) -> None:
    (artifact_copy.folder / FILE).unlink()
    predictor = Predictor(rewritten(artifact_copy))
    assert predictor.self_check == NONE
    service = Service(predictor, Limits(), MODEL, Tally(Counted(), "hate"))
    assert service.describe()["self_check"]["note"].startswith("not self-checked")


def test_what_it_computes_is_not_counted(build_once) -> None:
    predictor = Predictor(build_once("openvino-int8-rechecked-cascade"))
    assert predictor.computed_tokens == 0
    assert set(predictor.asked_again.values()) == {0}


def first(made: dict) -> dict:
    return made["models"][0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: made.update(sequences=[[1 << 40]] * 64),
        lambda made: made.update(sequences=[[]] * 64),
        lambda made: made.update(sequences=[[1] * 5000] * 64),
        lambda made: made.update(models=made["models"] * 2),
        lambda made: made.update(tokens=[]),
        lambda made: first(made).update(logits=[[0.0, 0.0]]),
        lambda made: first(made).update(within=[]),
        lambda made: first(made).update(within=[[[1.0, 0.1], [0.5, 0.2]]]),
        lambda made: first(made).update(within=[[1.0]]),
        lambda made: made.update(schema=2),
    ],
)
def test_a_file_that_does_not_fit_the_artifact_is_damaged(
    artifact_copy: Artifact, damage: Callable[[dict], None]
) -> None:
    path = artifact_copy.folder / FILE
    made = json.loads(path.read_text())
    damage(made)
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match="self-check is damaged"):
        Predictor(rewritten(artifact_copy))


ELSEWHERE = """
import json, sys
from dataclasses import asdict
from handler.predictor import Predictor
from handler.self_check import Tolerance
print(json.dumps(asdict(Predictor.load(sys.argv[1], tolerance=Tolerance(1.0)).self_check)))
"""


@pytest.mark.skipif(not {"avx512_vnni"} <= set(cpu_features()), reason="the CPU has one way for int8 alone")
def test_kernels_for_another_kind_of_cpu_are_seen(build_once) -> None:
    folder = build_once("openvino-int8").folder
    found = {}
    for isa in ("ALL", "AVX512_CORE"):
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, folder],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=120,
            check=True,
        )
        found[isa] = json.loads(done.stdout)
    assert found["ALL"]["status"] == "same"
    assert found["AVX512_CORE"]["status"] != "same"
    assert found["AVX512_CORE"]["largest_move"] > 10 * ROUNDING


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
def test_the_bound_is_above_the_share_of_labels_that_change(kind: str, size: float) -> None:
    """Texts and made sequences move alike; the table comes from some texts, the share is of many others."""
    description = meta(kind)
    labels, exceeded = len(description.labels), 0
    rng = np.random.default_rng(1)
    for _ in range(20):
        known, made, others = (rng.normal(size=(count, labels)) * 2 for count in (500, 64, 20_000))
        apart = self_check.distances(description, known)
        within = [points(apart[:, rule], len(known)) for rule in range(apart.shape[1])]
        moves = rng.normal(size=made.shape) * size
        _, bound = compared(description, Recorded(made.tolist(), within), made + moves)
        changed = labels_of(description, others) != labels_of(
            description, others + rng.normal(size=others.shape) * size
        )
        share = changed.reshape(len(others), -1).any(axis=1).mean()
        exceeded += share > bound
        assert bound < 1 or size == 1
    assert exceeded == 0


def test_a_move_of_all_exclusive_labels_at_once_changes_nothing_and_one_of_independent_ones_does() -> None:
    for kind, expected in (("three", 0.0), ("independent", 0.5)):
        description = meta(kind)
        logits = np.zeros((4, 3))
        rules = 3 if kind == "independent" else 1
        recorded = Recorded(logits.tolist(), [[[0.0, 0.0], [1.0, 0.1]]] * rules)
        largest, bound = compared(description, recorded, logits + 0.5)
        assert largest == expected
        assert bound == pytest.approx(rules * 0.05 if expected else 0)


def test_a_move_over_the_end_of_a_band_counts_as_one_over_a_threshold() -> None:
    description = replace(meta("two"), bands=Bands(0.9, 0.6, 0.95, "validation", 100, []))
    apart = 1.5 * np.log(0.9 / 0.1)  # of the temperature
    recorded = Recorded([[0.0, apart]] * 4, [[[0.0, 0.0], [1.0, 0.1]]])
    assert self_check.distances(description, np.array(recorded.logits)) == pytest.approx(np.zeros((4, 1)))
    assert compared(description, recorded, np.array([[0.0, apart + 0.5]] * 4))[1] == pytest.approx(0.05)


def test_what_no_text_lies_within_changes_no_label() -> None:
    """Of a stage that asks the next about texts within its width."""
    description = meta("two")
    recorded = Recorded([[0.0, 0.0]] * 4, [points(np.array([2.0, 3.0]), 100, 1.5)])
    now = np.zeros((4, 2))
    assert compared(description, recorded, now + np.array([0, 1.4]))[1] == 0
    assert compared(description, recorded, now + np.array([0, 1.6]))[1] > 0


def test_tokens_that_differ_are_a_mismatch_whatever_the_scores() -> None:
    description = meta("two")
    logits = np.zeros((2, 2))
    made = Made(1, [[1], [2]], [Recorded(logits.tolist(), [[[0.0, 0.0]]])], ["a text"], [[1, 2]])
    assert judge(description, made, [logits], [[1, 2]], Tolerance(), 0).status == "same"
    assert judge(description, made, [logits], [[1, 3]], Tolerance(1.0), 0).status == "mismatch"


def test_options_overrule_the_environment_and_that_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"selfCheckFlips": 0.1, "onMismatch": "warn"}
    assert Tolerance.of() == Tolerance(0.002, "refuse")
    assert Tolerance.of(settings) == Tolerance(0.1, "warn")
    monkeypatch.setenv("SELF_CHECK_FLIPS", "0.2")
    monkeypatch.setenv("SELF_CHECK_ON_MISMATCH", "refuse")
    assert Tolerance.of(settings) == Tolerance(0.2, "refuse")
    assert Tolerance.of(settings, 0.3, "warn") == Tolerance(0.3, "warn")


@pytest.mark.parametrize("value", ["many", "2", "-0.1", "nan"])
def test_what_is_no_share_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SELF_CHECK_FLIPS", value)
    with pytest.raises(UserError, match="not a share"):
        Tolerance.of()


def test_what_is_neither_refuse_nor_warn_is_refused(artifact_copy: Artifact) -> None:
    with pytest.raises(UserError, match="what to do about a mismatch: ignore"):
        Tolerance.of({"onMismatch": "ignore"})


def test_the_file_is_part_of_the_artifacts_identity(artifact_copy: Artifact, tmp_path: Path) -> None:
    before = artifact_copy.sha256
    copy = shutil.copytree(artifact_copy.folder, tmp_path / "copy")
    content = json.loads((copy / FILE).read_text())
    content["sequences"][0][1] += 1
    (copy / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="corrupt"):
        open_artifact(copy)
    assert rewritten(Artifact(copy, artifact_copy.meta)).sha256 != before
