"""A certificate as one card: what a reader of a report, or of `benchmarks certify`, sees of it."""

import numpy as np

from benchmarks.selection import chance
from training.measures.certificate import Certificate
from training.measures.outcomes import Outcomes

DIGITS = 16  # of a digest


def card(certificate: Certificate) -> list[tuple[str, str]]:
    """Names and words, in the order in which they are shown."""
    gate = certificate.gate
    measured = certificate.measured
    looks = sum(len(run.looks) for run in certificate.looks)
    return [
        ("claim", certificate.claim),
        (
            "verdict",
            f"{certificate.verdict}: a drop of {certificate.margin:g} {certificate.measure} has "
            f"{chance(certificate.p or 0)}, {certificate.level or 0:.2g} needed",
        ),
        ("confidence", f"{100 * certificate.confidence:g} %, over all looks at the gate"),
        ("looks spent", f"{looks} in {len(certificate.looks)} run{'s' * (len(certificate.looks) != 1)}"),
        ("outcomes", _outcomes(certificate.outcomes, len(certificate.labels))),
        ("p99", certificate.p99.claim if certificate.p99 else "none was asked for"),
        ("artifact", certificate.artifact_sha256[:DIGITS]),
        ("checkpoint", certificate.checkpoint_sha256[:DIGITS]),
        ("gate", f"{(gate.sha256 or 'unknown')[:DIGITS]}, {gate.texts:,} texts of {measured.data}"),
        ("measured", f"{measured.at}, run {measured.run}, commit {measured.commit or 'unknown'}"),
        ("machine", f"{measured.machine.get('cpu')}, {measured.machine.get('cores')} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in measured.versions.items())),
    ]


def _outcomes(found: Outcomes, labels: int) -> str:
    """On how many texts the labels are fp32's, and who is right on the others."""
    if found.unlabelled_flips is not None:
        return f"{found.n:,} texts without labels, {found.unlabelled_flips:,} of them not labelled as by fp32"
    if found.kinds is not None:
        same = sum(count for kind, count in found.kinds.items() if not any(digit in "1256" for digit in kind))
        return f"{found.n:,} texts, {same:,} of them with all labels as by fp32"
    if found.cells is None or len(found.cells) != labels**3:
        return f"{found.n:,} texts, with counts that are not of {labels} labels"
    cells = np.array(found.cells).reshape(labels, labels, labels)  # by truth, fp32's label, the variant's
    same = np.einsum("tff->", cells)
    both = np.einsum("ttt->", cells)
    lost = np.einsum("ttv->", cells) - both
    gained = np.einsum("tft->", cells) - both
    return (
        f"{found.n:,} texts, {same:,} of them labelled as by fp32; {lost:,} that fp32 alone has right, "
        f"{gained:,} that the variant alone has right"
    )
