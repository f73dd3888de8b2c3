"""What follows from a certificate alone, and which changes of it are found out."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from math import nan
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from common.records import plain, read
from handler.artifact import Artifact
from tests.descriptions import changed, description
from training.measures.certificate import (
    CONFIDENCE,
    Certificate,
    Gate,
    Load,
    Measured,
    OnTime,
    concluded,
    faults,
    strangers,
)
from training.measures.gate_ledger import (
    Candidate,
    Ledger,
    digest_of_gate,
    digests_of,
    judge_in,
    share_of,
)
from training.measures.outcomes import AlikeGroups, Outcomes, evidence_of

TEXTS = [f"text {row}" for row in range(2000)]
# Of 2,000 texts, by truth, fp32's label and the variant's: eight flip.
CELLS = [880, 2, 2, 116, 115, 2, 2, 881]
SAME = Outcomes(n=2000, decisions="those of int8", cells=CELLS)
DAMAGED = Outcomes(n=2000, decisions="damaged", cells=[700, 200, 0, 100, 100, 0, 200, 700])
RUN = Measured(
    run="20260101T000000Z-abcdef",
    at="2026-01-01T00:00:00+00:00",
    data="tweeteval",
    data_sha256="0" * 64,
    commit="0123456789ab",
    machine={"cpu": "a processor"},
    versions={"numpy": "2"},
)
DESCRIPTION = description(
    name="int8", parent="fp32", build=vars(description().build) | {"checkpoint_sha256": "c" * 64}
)
ARTIFACT = Artifact(Path(), DESCRIPTION)


def made(outcomes: Outcomes = SAME, *, first_margin: float = 0.01, **fields: Any) -> Certificate:
    """That of int8, looked at with a damaged variant in the second run on its gate."""
    labels = fields.get("labels", ["not-hate", "hate"])
    ledger = Ledger(schema=1, salt="salt", gates=[])
    for asked, margin in ((("damaged",), first_margin), (("int8", "worse"), 0.01)):
        evidence = {name: evidence_of(outcomes if name == "int8" else DAMAGED, len(labels)) for name in asked}
        candidates = [
            Candidate(name, f"sha of {name}", outcomes.decisions if name == "int8" else name, 0.9, found)
            for name, found in evidence.items()
            if found is not None
        ]
        judge_in(ledger, TEXTS, candidates, margin)
    (gate,) = ledger.gates
    given: dict[str, Any] = {
        "variant": "int8",
        "margin": 0.01,
        "measured": RUN,
        "artifact_sha256": ARTIFACT.sha256,
        "labels": labels,
    }
    return concluded(
        Certificate(
            schema=1,
            confidence=CONFIDENCE,
            reference_sha256="f" * 64,
            checkpoint_sha256="c" * 64,
            outcomes=outcomes,
            gate=Gate(texts=2000, salt="salt", sha256=digest_of_gate(gate.texts)),
            looks=gate.runs,
            **(given | fields),
        )
    )


@cache
def honest() -> dict[str, Any]:
    document: dict[str, Any] = plain(made())
    return document


def test_the_verdict_follows_from_the_file_alone() -> None:
    written = honest()
    found = read(written, Certificate)
    assert faults(found) == []
    assert strangers(found, ARTIFACT) == []
    assert found.verdict == "pass"
    assert found.claim == (
        "With 97.5 % confidence, int8 loses less than 0.01 macro-F1 against fp32, on texts like the 2,000 of "
        "its gate; the confidence covers all 3 looks at that gate."
    )
    assert found.drop == pytest.approx(0, abs=1e-3)
    assert found.level == pytest.approx(share_of(2) / 2)
    assert not [text for text in TEXTS if text in str(written)]


@pytest.mark.parametrize(
    ("outcomes", "labels", "claim"),
    [
        pytest.param(
            Outcomes(
                n=2000, decisions="d", kinds={"07": 900, "70": 900, "00": 194, "77": 2, "05": 2, "50": 2}
            ),
            ["insult", "threat"],
            "loses less than 0.01 macro-F1",
            id="independent labels",
        ),
        pytest.param(
            Outcomes(
                n=2000,
                decisions="d",
                cells=[1000, 0, 0, 0, 0, 0, 0, 1000],
                groups=[AlikeGroups(groups=1000, texts={"0": 1, "7": 1})],
            ),
            ["not-hate", "hate"],
            "loses less than 0.01 macro-F1",
            id="groups",
        ),
        pytest.param(
            Outcomes(n=2000, decisions="d", unlabelled_flips=2),
            ["not-hate", "hate"],
            "loses less than 0.01 accuracy",
            id="no labels",
        ),
    ],
)
def test_it_follows_from_every_kind_of_counts(outcomes: Outcomes, labels: list[str], claim: str) -> None:
    found = made(outcomes, labels=labels)
    assert faults(read(plain(found), Certificate)) == []
    assert claim in found.claim
    assert found.verdict == "pass"


def _better(document: dict[str, Any]) -> None:
    """Two texts that fp32 alone had right become texts that the variant alone has right."""
    cells = document["outcomes"]["cells"]
    cells[1] -= 2
    cells[2] += 2


def _of_another_look(document: dict[str, Any]) -> None:
    document["outcomes"]["decisions"] = "worse"


def _earlier_run_gone(document: dict[str, Any]) -> None:
    del document["looks"][0]


def _look_gone(document: dict[str, Any]) -> None:
    del document["looks"][1]["looks"][1]


def _higher_level(document: dict[str, Any]) -> None:
    look = next(look for look in document["looks"][1]["looks"] if look["variant"] == "int8")
    look["level"] *= 2
    document["level"] *= 2


def _said_unproven(document: dict[str, Any]) -> None:
    for look in document["looks"][1]["looks"]:
        look["verdict"] = "not proven"


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        pytest.param(_better, "it says drop", id="counts"),
        pytest.param(lambda it: it["outcomes"]["cells"].append(0), "it has 9 counts", id="one count more"),
        pytest.param(lambda it: it["outcomes"].update(n=4000), "of 2,000 texts, not of 4,000", id="number"),
        pytest.param(lambda it: it["outcomes"].pop("cells"), "not of 2,000", id="no counts"),
        pytest.param(lambda it: it.update(margin=0.005), "0.005", id="margin"),
        pytest.param(lambda it: it.update(confidence=0.999), "it says confidence 0.999", id="confidence"),
        pytest.param(
            lambda it: it.update(claim="It is better."), "it says claim 'It is better.'", id="claim"
        ),
        pytest.param(lambda it: it.update(p=0.01), "it says p 0.01", id="p"),
        pytest.param(lambda it: it.update(measure="accuracy"), "it says measure", id="measure"),
        pytest.param(lambda it: it["measured"].update(data="demo"), "rehearsal", id="texts that are made up"),
        pytest.param(lambda it: it["gate"].update(texts=9), "are of 9 and 2000 texts", id="another gate"),
        pytest.param(lambda it: it["labels"].append("spam"), "3 labels have 27", id="labels"),
        pytest.param(_of_another_look, "its look says p", id="another look"),
        pytest.param(lambda it: it["outcomes"].update(decisions="x"), "none of its looks", id="no look"),
        pytest.param(_earlier_run_gone, "run 1 tested int8 at", id="an earlier run is gone"),
        pytest.param(_look_gone, "run 2 tested int8 at", id="a look is gone"),
        pytest.param(_higher_level, "run 2 tested int8 at", id="level"),
        pytest.param(lambda it: it["looks"][1]["looks"].clear(), "none of its looks", id="no looks"),
        pytest.param(lambda it: it["looks"][0]["looks"].clear(), "run 1 has no look", id="an empty run"),
        pytest.param(
            lambda it: it["looks"][1]["looks"][0].update(p=nan), "its look says p nan", id="no number"
        ),
        pytest.param(lambda it: it.update(margin=1.0), "its margin is 1.0", id="a margin that says nothing"),
        pytest.param(_said_unproven, "give the verdict not proven", id="seen in training"),
    ],
)
def test_a_change_is_found_out_from_the_file_alone(
    tamper: Callable[[dict[str, Any]], object], fault: str
) -> None:
    document = deepcopy(honest())
    tamper(document)
    assert fault in "; ".join(faults(read(document, Certificate)))


def test_a_p99_follows_from_its_late_requests() -> None:
    loads = [
        Load(rps=80.0, arrivals=1000, late=1, worth=900.0),
        Load(rps=160.0, arrivals=2000, late=2, worth=1500.0),
    ]
    found = made(p99=OnTime(limit_ms=20.0, loads=loads))
    assert found.p99 is not None
    assert "at random at 160 a second have no answer within 20 ms" in found.p99.claim
    assert faults(found) == []
    for field, value in (("late", 19), ("worth", 300.0), ("worth", 1e6), ("rps", 500.0)):
        document = plain(found)
        document["p99"]["loads"][1][field] = value
        assert faults(read(document, Certificate)), (field, value)


def test_a_margin_that_changed_after_a_look_and_synthetic_texts_are_part_of_the_claim() -> None:
    changed = made(first_margin=0.005)
    assert (
        "the margin was 0.005 at the first of them and has been changed since, so the proof" in changed.claim
    )
    assert faults(changed) == []
    rehearsed = made(measured=structs.replace(RUN, data="demo"))
    assert rehearsed.claim.endswith("(a rehearsal on synthetic text).")


def test_what_does_not_pass_cannot_be_said_to() -> None:
    refused = made(Outcomes(n=2000, decisions="those of int8", cells=DAMAGED.cells))
    assert refused.verdict == "fail"
    assert "the verdict fail, not pass" in "; ".join(faults(refused))


def test_the_certificate_of_another_artifact_is_a_stranger() -> None:
    found = made(artifact_sha256="a" * 64, variant="openvino-int8")
    artifact, variant = strangers(found, ARTIFACT)
    assert artifact.startswith("it certifies the artifact aaaaaaaaaaaa, and the archive holds")
    assert variant == "it certifies the variant openvino-int8, and the archive holds int8"
    retrained = changed(ARTIFACT, build=vars(ARTIFACT.meta.build) | {"checkpoint_sha256": "d" * 64})
    assert [told for told in strangers(read(honest(), Certificate), retrained) if "checkpoint" in told]


def test_the_digest_of_a_gate_confirms_all_of_its_texts_and_no_single_one() -> None:
    digests = digests_of("salt", TEXTS)
    whole = digest_of_gate(digests)
    assert digest_of_gate(digests_of("salt", TEXTS[::-1])) == whole
    assert digest_of_gate(digests_of("salt", [*TEXTS[1:], "another"])) != whole
    assert digest_of_gate(digests_of("pepper", TEXTS)) != whole
    written = str(honest())
    assert whole in written
    assert not [digest for digest in digests if digest in written]
