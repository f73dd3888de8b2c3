"""What the classifier gets right, kind of case by kind of case."""

from pathlib import Path
from typing import Any

from common.shares import share_interval
from training.evaluation.classifier import Classifier
from training.measures import functional


def functional_suites(classifier: Classifier, hatecheck: Path | None = None) -> dict[str, Any]:
    """Pass rates with their exact 95 % intervals by suite; empty for a classifier that cannot be asked.

    Raises UserError where the file of HateCheck is not what it should be.
    """
    if classifier.multi_label or not functional.applies_to(classifier.labels):
        return {}
    suites = {"templates": functional.templates()}
    if hatecheck is not None:
        suites["hatecheck"] = functional.hatecheck(hatecheck)
    return {name: _pass_rates(classifier, name, cases) for name, cases in suites.items()}


def _pass_rates(classifier: Classifier, name: str, cases: functional.Cases) -> dict[str, Any]:
    scores, thresholds = classifier.scores(cases.texts, f"functional suite: {name}"), classifier.thresholds
    # Its own reference: flips are for comparing two models.
    found = functional.evaluate_cases(cases, scores, scores, thresholds, thresholds)
    return {
        "n": found["n"],
        **_rate(found),
        "functionalities": [
            {"functionality": one["functionality"], "label": one["label"], "n": one["n"], **_rate(one)}
            for one in found["functionalities"]
        ],
        "groups": found["groups"],
        "gaps": found["gaps"],
    }


def _rate(part: dict[str, Any]) -> dict[str, Any]:
    passed = round(part["accuracy"] * part["n"])
    low, high = share_interval(passed, part["n"])
    return {"passed": passed, "pass_rate": passed / part["n"], "low": low, "high": high}
