import json
import re

import numpy as np
import pytest

from benchmarks.report.publishing import KINDS
from benchmarks.sameness.promises import Promises
from benchmarks.studies import decisions
from common.records import read
from handler.description import Bands, Promise
from training.measures.bands import Goals, Judged


def test_promises_are_held_against_gate_and_counted_over_draws(build_once, source, tmp_path, capsys) -> None:
    build_once("openvino-int8")
    capsys.readouterr()
    given = ("--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts, "--draws", 3)
    given += ("--results", tmp_path, "openvino-int8")
    assert decisions.main(list(map(str, given))) == 0
    found = read(json.loads(capsys.readouterr().out), Promises)
    kind = KINDS["decisions"]
    assert kind.read(tmp_path / f"{kind.file}.json") == found
    (demo,) = found.classifiers
    assert [goal.goal for goal in demo.goals] == list(decisions.ASKED)
    assert all(goal.broken <= goal.promised <= goal.draws == 3 for goal in demo.goals)
    promised = [goal.goal for goal in demo.goals if not goal.refused]
    assert "recall 0.9" in promised
    assert [(one.goal, one.variant, one.split) for one in demo.found] == [
        (goal, variant, "gate") for goal in promised for variant in ("fp32", "openvino-int8")
    ]
    assert all(one.decided.differ.n == 0 for one in demo.found if one.variant == "fp32")
    page = kind.page(found)
    assert re.search(r"\| demo +\| recall 0.9 +\| fp32 +\| gate", page)

    assert decisions.main(list(map(str, given))) == 0
    assert len(kind.read(tmp_path / f"{kind.file}.json").classifiers) == 1, "the same data are measured again"


@pytest.mark.parametrize(("promised", "broken"), [(0.9, 0), (0.99, 5)])
def test_a_promise_that_the_population_breaks_is_counted(monkeypatch, promised: float, broken: int) -> None:
    scores = np.concatenate([np.full(5000, 0.9), np.full(120, 0.2), np.full(5000, 0.1)])
    population = Judged(scores, scores > 0.15)
    promise = Promise("recall", promised, 1.0, 50)
    monkeypatch.setattr(decisions, "fit", lambda *_: Bands(0.5, 0.5, 0.95, "validation", 100, [promise]))
    assert decisions.draws_of(population, 100, Goals(recall=promised), 0.5, 5) == (5, broken)
