"""From a selection to the certificate in an archive, and what `certify` finds out: with real artifacts."""

import csv
import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.archives.command
from benchmarks.records import Report, plain
from benchmarks.sameness.gate import judge_run
from benchmarks.sameness.parity import decided, outcomes_of
from benchmarks.sameness.scores import in_lists
from common.signing import make_keys, sign, signature_of, verify
from deploy.app.model import Model
from export.archives.package import package, write_certified
from export.archives.promote import promote
from handler.artifact import Artifact, archived_artifact, archived_certificate
from handler.errors import UserError
from handler.predictor import Predictor
from tests.conftest import ran, refused, run_stage
from training.measures.certificate import archived, concluded
from training.measures.gate_ledger import Candidate, judge
from training.measures.noninferiority import Flips

VARIANT = "openvino-fp32"
MARGIN = 0.05


@dataclass
class Chosen:
    """A measured variant and what a selection of it needs; `served` is the promoted archive."""

    results: Path
    artifacts: Path
    ledger: Path
    store: Path
    served: Path

    @property
    def certificate(self) -> dict[str, Any]:
        found = archived_certificate(self.served)
        assert found is not None
        return found


def measured(make, artifacts: dict[str, Artifact], dataset, ledger: Path) -> Report:
    """A report whose counts are those of the artifacts' own answers; the verdict is in the ledger."""
    gate = dataset.splits["gate"]
    given = {}
    for name, artifact in artifacts.items():
        predictor = Predictor(artifact, 1)
        answers = [predictor.predict(gate.texts[part.start : part.stop]) for part in in_lists(gate.texts)]
        given[name] = decided(artifact, np.array([each.scores for part in answers for each in part]))
    report = make.document(*(make.variant(name, speed=1 + (name == VARIANT)) for name in artifacts))
    for variant in report.variants:
        variant.artifact_sha256 = artifacts[variant.name].sha256
        counted = outcomes_of(gate.labels, given["fp32"], given[variant.name], len(dataset.labels))
        variant.judged.n = counted.n
        variant.judged.cells = counted.cells
        variant.judged.decisions = counted.decisions
    report.run.margin = MARGIN
    judge_run(ledger, gate.texts, report.variants, MARGIN, len(dataset.labels))
    return report


@pytest.fixture(scope="module")
def chosen(build_once, source, dataset, make, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    folder = tmp_path_factory.mktemp("chosen")
    artifacts = {name: build_once(name) for name in ("fp32", VARIANT)}
    found = Chosen(
        folder / "results",
        source.artifacts,
        folder / "ledger.json",
        folder / "store",
        folder / "served" / "hate.mar",
    )
    report = measured(make, artifacts, dataset, found.ledger)
    found.results.mkdir()
    (found.results / "side-by-side.json").write_text(json.dumps(plain(report)))
    for artifact in artifacts.values():
        package(artifact, found.store)
    select(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.archives.command, "SELECTION", found.results / "selection.json")
        promoted = ran("export", "promote", *places(found), "--store", found.served.parent)
    assert f"hate.mar is now {VARIANT}, with its certificate" in promoted.stderr
    return found


def places(chosen: Chosen) -> tuple[object, ...]:
    return ("--artifacts", chosen.artifacts, "--ledger", chosen.ledger, "--archives", chosen.store)


def select(chosen: Chosen, **places: Path) -> str:
    given = {"results": chosen.results, "artifacts": chosen.artifacts, "ledger": chosen.ledger} | places
    options = [word for name, path in given.items() for word in (f"--{name}", path)]
    return ran("benchmarks", "select", "--max-f1-drop", MARGIN, *options).stderr


def certify(archive: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    """Its exit status, what it prints for machines, and for people."""
    done = run_stage("benchmarks", "certify", archive, "--threads", 1, *options)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def with_certificate(chosen: Chosen, tmp_path: Path) -> Callable[..., Path]:
    """An archive with another certificate."""

    def make_one(document: dict[str, Any], variant: str = VARIANT) -> Path:
        path = tmp_path / f"hate-{variant}.mar"
        with path.open("wb") as file:
            write_certified(chosen.store / path.name, json.dumps(document), file)
        return path

    return make_one


def test_a_promoted_archive_is_certified_and_is_otherwise_the_variants_own(chosen: Chosen) -> None:
    certificate = chosen.certificate
    inside = archived_artifact(chosen.served)
    assert certificate["artifact_sha256"] == inside.sha256
    assert certificate["checkpoint_sha256"] == inside.meta.build.checkpoint_sha256
    assert (certificate["variant"], certificate["verdict"], certificate["margin"]) == (
        VARIANT,
        "pass",
        MARGIN,
    )
    assert inside.sha256 == archived_artifact(chosen.store / f"hate-{VARIANT}.mar").sha256
    again = chosen.served.with_name("again.mar")
    with again.open("wb") as file:
        write_certified(chosen.served, json.dumps(certificate, indent=2, ensure_ascii=False), file)
    assert again.read_bytes() == chosen.served.read_bytes(), "one certificate, and the same bytes"


def test_it_is_recomputed_from_the_archive_alone(chosen: Chosen) -> None:
    status, found, said = certify(chosen.served)
    assert (status, found["holds"]) == (0, True)
    assert [check["faults"] for check in found["checks"]] == [[], []]
    assert found["certificate"] == chosen.certificate
    assert chosen.certificate["claim"] in said
    assert "nobody vouches for its counts" in said
    assert "the certificate holds" in said


def test_it_is_recomputed_from_the_gates_texts_of_a_checkpoint_and_of_a_table(
    chosen: Chosen, checkpoint_folder: Path, dataset, tmp_path: Path
) -> None:
    gate, fp32 = dataset.splits["gate"], ("--fp32", chosen.artifacts / "fp32")
    status, found, said = certify(chosen.served, "--gate", checkpoint_folder, *fp32)
    assert (status, [check["faults"] for check in found["checks"]]) == (0, [[]] * 4)
    assert "the same labels text by text" in said
    table, short = tmp_path / "gate.csv", tmp_path / "short.csv"
    for path, rows in ((table, range(len(gate))), (short, range(len(gate) - 1))):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((gate.texts[row], dataset.labels[gate.labels[row]]) for row in rows)
    assert certify(chosen.served, "--gate", table, *fp32)[0] == 0
    status, found, said = certify(chosen.served, "--gate", short, *fp32)
    assert status == 1
    assert "these are not the texts of the gate" in said
    assert "THE CERTIFICATE DOES NOT HOLD" in said
    status, found, said = certify(chosen.served, "--gate", table, "--fp32", chosen.artifacts / VARIANT)
    assert status == 1
    assert "this is not the fp32 that it was compared with" in said


def test_counts_that_were_made_up_as_a_whole_are_found_out_with_the_texts_alone(
    chosen: Chosen, checkpoint_folder: Path, with_certificate
) -> None:
    honest = archived(chosen.served)
    assert honest is not None
    forged = deepcopy(honest)
    assert forged.outcomes.cells is not None
    forged.outcomes.cells[0] += forged.outcomes.cells[4]
    forged.outcomes.cells[4] = 0
    path = with_certificate(plain(concluded(forged)))
    document = archived_certificate(path)
    assert document is not None
    assert document["claim"] == chosen.certificate["claim"]
    status, found, said = certify(path, "--gate", checkpoint_folder, "--fp32", chosen.artifacts / "fp32")
    assert status == 1
    assert [bool(check["faults"]) for check in found["checks"]] == [False, False, False, True]
    assert "texts have other outcomes" in said


def test_a_change_of_the_certificate_is_found_out(chosen: Chosen, with_certificate) -> None:
    status, _, said = certify(with_certificate(chosen.certificate | {"margin": 0.001}))
    assert status == 1
    assert "THE CERTIFICATE DOES NOT HOLD" in said


def test_the_certificate_of_another_archive_is_found_out(chosen: Chosen, with_certificate) -> None:
    status, _, said = certify(with_certificate(chosen.certificate, "fp32"))
    assert status == 1
    assert f"it certifies the artifact {chosen.certificate['artifact_sha256'][:12]}" in said


def test_an_archive_without_one_or_with_a_damaged_one_is_a_sentence(chosen: Chosen, with_certificate) -> None:
    bare = chosen.store / f"hate-{VARIANT}.mar"
    assert "the archive has no certificate" in refused("benchmarks", "certify", bare)
    assert "certificate cannot be read" in refused("benchmarks", "certify", with_certificate({"schema": 2}))


def test_weights_that_changed_are_found_out(chosen: Chosen, tmp_path: Path) -> None:
    archive = tmp_path / "hate.mar"
    whole = bytearray(chosen.served.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive.write_bytes(whole)
    assert "corrupt" in refused("benchmarks", "certify", archive)


def test_a_ledger_that_has_grown_since_is_told_from_one_of_another_gate(
    chosen: Chosen, dataset, tmp_path: Path
) -> None:
    assert certify(chosen.served, "--ledger", chosen.ledger)[0] == 0
    grown = Path(shutil.copy(chosen.ledger, tmp_path / "grown.json"))
    later = Candidate("int8", "sha of int8", "decisions of int8", 0.9, Flips(400, 3))
    judge(grown, dataset.splits["gate"].texts, [later], MARGIN)
    status, _, said = certify(chosen.served, "--ledger", grown)
    assert status == 1
    assert (
        "the ledger has grown since: it has 2 runs with 2 looks, the certificate knows of 1 run with 1 look"
        in said
    )
    assert "The verdict stands" in said
    assert said.endswith("the certificate is out of date\n")
    judge(tmp_path / "other.json", ["another text"], [later], MARGIN)
    status, _, said = certify(chosen.served, "--ledger", tmp_path / "other.json")
    assert status == 1
    assert "this is not the ledger of its gate" in said
    earlier = json.loads(chosen.ledger.read_text())
    earlier["gates"][0]["runs"][0]["looks"][0]["level"] /= 2
    (tmp_path / "changed.json").write_text(json.dumps(earlier))
    assert (
        "run 1 of the ledger is not run 1" in certify(chosen.served, "--ledger", tmp_path / "changed.json")[2]
    )
    assert "there is no ledger" in refused(
        "benchmarks", "certify", chosen.served, "--ledger", tmp_path / "none"
    )


def test_promotion_reads_it_where_there_is_no_ledger(
    chosen: Chosen, with_certificate, tmp_path: Path
) -> None:
    arrived, nowhere = tmp_path / "arrived", tmp_path / "no-ledger.json"
    arrived.mkdir()
    shutil.copy(chosen.served, arrived / f"hate-{VARIANT}.mar")
    target = promote(VARIANT, tmp_path / "serving", archives=arrived, ledger=nowhere)
    assert target.read_bytes() == chosen.served.read_bytes()
    with pytest.raises(UserError, match="no verdict on it"):
        promote(VARIANT, tmp_path / "serving", archives=chosen.store, ledger=nowhere)
    tampered = with_certificate(chosen.certificate | {"margin": 0.001})
    with pytest.raises(UserError, match="proves nothing"):
        promote(VARIANT, tmp_path / "serving", archives=tampered.parent, ledger=nowhere)
    other = tmp_path / "other.json"
    judge(other, ["a text"], [Candidate("x", "sha", "d", 0.9, Flips(400, 0))], MARGIN)
    with pytest.raises(UserError, match="no verdict on it"):
        promote(VARIANT, tmp_path / "serving", archives=arrived, ledger=other)


def test_the_archive_is_signed_after_its_certificate_or_keeps_the_signature_without_one(
    chosen: Chosen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.archives.command, "SELECTION", chosen.results / "selection.json")
    secret = tmp_path / "signing.key"
    public = make_keys(secret)
    served = tmp_path / "served" / "hate.mar"
    ran("export", "promote", *places(chosen), "--store", served.parent, "--sign-key", secret)
    verify(served, public)
    assert certify(served, "--trusted-key", public)[0] == 0
    archive = chosen.store / f"hate-{VARIANT}.mar"
    sign(archive, secret)
    try:
        said = ran("export", "promote", *places(chosen), "--store", served.parent).stderr
        assert "copied without its certificate" in said
        verify(served, public)
        assert archived_certificate(served) is None
    finally:
        signature_of(archive).unlink()
    with pytest.raises(UserError, match="not that of the archive"):
        promote("fp32", tmp_path, archives=chosen.store, certificate=archived(chosen.served))


def test_why_there_is_no_certificate_is_said(chosen: Chosen, tmp_path: Path) -> None:
    results = Path(shutil.copytree(chosen.results, tmp_path / "results"))
    assert "there is no ledger of its gate" in select(chosen, results=results, ledger=tmp_path / "none.json")
    assert "there is no artifact" in select(chosen, results=results, artifacts=tmp_path)
    assert "certificate" not in json.loads((results / "selection.json").read_text())
    report = json.loads((results / "side-by-side.json").read_text())
    measured = next(variant for variant in report["variants"] if variant["name"] == VARIANT)
    sha256 = measured["artifact_sha256"]
    for digest, counted, why in (
        ("0" * 64, True, "the artifact has changed since it was measured"),
        (sha256, False, "nothing was judged"),
    ):
        measured["artifact_sha256"] = digest
        if not counted:
            del measured["parity"]["gate"]["cells"]
        (results / "side-by-side.json").write_text(json.dumps(report))
        assert why in select(chosen, results=results)


def test_the_report_the_app_and_a_description_show_it(chosen: Chosen, tmp_path: Path) -> None:
    page = (chosen.results / "side-by-side.html").read_text()
    assert page.count('<dl class="card">') == 1
    assert chosen.certificate["claim"] in page
    model = Model.of_archive(chosen.served, tmp_path / "served")
    assert model.certificate == chosen.certificate
    assert Model.of_archive(chosen.store / f"hate-{VARIANT}.mar", tmp_path / "bare").certificate is None


def test_a_description_tells_the_fault_of_one_that_is_damaged_or_anothers(
    chosen: Chosen, with_certificate, tmp_path: Path
) -> None:
    for name, document, variant, fault in (
        ("other", chosen.certificate, "fp32", "it is of another artifact"),
        ("text", "no object", VARIANT, "it cannot be read: it is not an object"),
    ):
        model = Model.of_archive(with_certificate(document, variant), tmp_path / name)
        assert model.certificate == {"fault": fault}
