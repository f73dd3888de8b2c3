"""What the self-check said of changes, and how many labels each truly changed, as a study found it: records
and tables."""

from collections.abc import Mapping

from tabulate import tabulate

from common.records import Count, NotNegative, Record, Share, Some, Text

NAME = "self-check"  # of the file


class Tried(Record):
    """A change, and what the self-check said of it. `move` is in logits, None where one is not a number.
    `changed` counts texts whose label is another than without the change, `unlike_fp32` those whose label is
    not fp32's; None where the variant did not load at all, and `refused` says why."""

    variant: Text
    change: Text
    status: Text = "does not load"
    move: NotNegative | None = None
    at_most: Share = 0.0
    tokens_differ: Count = 0
    changed: Count | None = None
    unlike_fp32: Count | None = None
    refused: str = ""


class Loads(Record):
    """A variant that nothing was done to, loaded again and again in fresh processes with so many `threads`.
    `alarms` counts loads that did not give the scores of the export to rounding."""

    variant: Text
    threads: Some
    loads: Some
    alarms: Count
    move: NotNegative
    median_ms: NotNegative
    most_ms: NotNegative


class SelfChecks(Record):
    """All of it, on one machine: labels are those of `texts` validation texts."""

    data: Text
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    texts: Some
    allowed: Share
    tried: list[Tried]
    loads: list[Loads]


def page(document: SelfChecks) -> str:
    """All of it as Markdown."""
    return f"# What the self-check sees\n\n{excerpt(document)}\n"


def excerpt(document: SelfChecks) -> str:
    """Both tables, and how to read them."""
    return f"{table(document)}\n\n{loads_table(document)}\n\n{note(document)}"


def table(document: SelfChecks) -> str:
    """A row for each change."""
    rows = [
        [
            tried.variant,
            tried.change,
            tried.status,
            "" if tried.move is None else f"{tried.move:.2g}",
            "" if tried.changed is None else f"{tried.at_most:.2%}",
            *(_share(count, document.texts) for count in (tried.changed, tried.unlike_fp32)),
        ]
        for tried in document.tried
    ]
    heads = (
        "variant",
        "changed",
        "self-check",
        "largest move",
        "labels, at most",
        "labels that changed",
        "labels unlike fp32's",
    )
    return tabulate(rows, heads, "github", disable_numparse=True)


def loads_table(document: SelfChecks) -> str:
    """False alarms, and what a check costs."""
    rows = [
        [
            loads.variant,
            loads.threads,
            loads.loads,
            loads.alarms,
            f"{loads.move:.2g}",
            f"{loads.median_ms:.0f}",
            f"{loads.most_ms:.0f}",
        ]
        for loads in document.loads
    ]
    heads = ("variant", "threads", "loads", "alarms", "largest move", "median ms", "most ms")
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(document: SelfChecks) -> str:
    """How to read the tables, and in how many cases the bound held."""
    loaded = [tried for tried in document.tried if not tried.refused]
    bounded = sum((tried.changed or 0) <= tried.at_most * document.texts for tried in loaded)
    turned = [tried for tried in loaded if tried.changed]
    seen = sum(tried.status != "same" for tried in turned)
    loads = sum(variant.loads for variant in document.loads)
    alarms = sum(variant.alarms for variant in document.loads)
    versions = ", ".join(f"{package} {version}" for package, version in document.versions.items())
    return (
        f"Labels are those of {document.texts} validation texts ({document.data}). Moves are in logits of "
        f"made sequences; `mismatch` means that more than {document.allowed:.1%} of labels may change, or "
        "that the tokenizer cuts texts differently. No more labels changed than the bound allows in "
        f"{bounded} of {len(loaded)} rows. Of the {len(turned)} in which a label changed, the self-check saw "
        f"{seen}. Of {loads} loads of variants that nothing was done to, {alarms} raised an alarm; the times "
        f"are those of the check alone. {document.machine['cpu']}; {versions}."
    )


def _share(count: int | None, texts: int) -> str:
    return "" if count is None else f"{count} ({count / texts:.2%})"
