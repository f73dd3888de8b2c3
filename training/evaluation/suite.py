"""What the classifier gets right, by kind of case."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.shares import share_interval
from training.evaluation.classifier import Classifier
from training.evaluation.records import Kind, Suite
from training.measures import functional
from training.measures.records import Functional, Functionality
from training.measures.suites import PUBLISHED, TEMPLATES


def functional_suites(classifier: Classifier, copies: Mapping[str, Path] | None = None) -> dict[str, Suite]:
    """Pass rates with their exact 95 % intervals, by suite: of the project's own cases and of the `copies` of
    published suites. Empty if the labels are not those of the cases.

    Raises UserError if a copy is not what it should be.
    """
    if classifier.multi_label or not functional.applies_to(classifier.labels):
        return {}
    suites = {TEMPLATES: functional.templates()}
    for name, path in (copies or {}).items():
        suites[name] = functional.read_published(PUBLISHED[name], path)
    return {name: _pass_rates(classifier, name, cases) for name, cases in suites.items()}


def _pass_rates(classifier: Classifier, name: str, cases: functional.Cases) -> Suite:
    scores = classifier.scores(cases.texts, f"functional suite: {name}")
    thresholds = classifier.thresholds
    # Its own reference: flips are for comparing two models.
    found = functional.evaluate_cases(cases, scores, scores, thresholds, thresholds)
    kinds = [
        Kind(functionality=kind.functionality, label=kind.label, **_rate(kind))
        for kind in found.functionalities
    ]
    return Suite(functionalities=kinds, groups=found.groups, gaps=found.gaps, **_rate(found))


def _rate(part: Functional | Functionality) -> dict[str, Any]:
    passed = round(part.accuracy * part.n)
    low, high = share_interval(passed, part.n)
    return {"n": part.n, "passed": passed, "pass_rate": passed / part.n, "low": low, "high": high}
