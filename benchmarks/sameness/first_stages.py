"""How often first stages of cascades break their promise, as a study counted it: records and tables."""

from tabulate import tabulate

from common.records import Count, Record, Share, Some, Text
from common.shares import share_interval

NAME = "first-stages"  # of the file


class Kept(Record):
    """Of `rules`, how many turn more of the population's labels than `allowed`, and the mean share of texts
    that they answer; and what the rule fitted to validation does on gate."""

    allowed: Share
    rules: Some
    broken: Count
    answered: Share
    answered_gate: Share
    turned_gate: Share


class FirstStages(Record):
    """Of a cascade: rules were fitted to draws of as many texts as validation has."""

    variant: Text
    validation_texts: Some
    rules: list[Kept]


def table(document: FirstStages) -> str:
    """A row for each share of labels that may turn, as Markdown."""
    rows = [
        (
            f"{each.allowed:.1%}",
            f"{each.broken} of {each.rules} ({share_interval(each.broken, each.rules)[1]:.1%} at most)",
            f"{each.answered:.0%}",
            f"{each.answered_gate:.0%}",
            f"{each.turned_gate:.2%}",
        )
        for each in document.rules
    ]
    heads = ("may turn", "rules that turn more", "answered, mean", "validation's: answered on gate")
    return tabulate(rows, (*heads, "turned on gate"), "github", disable_numparse=True)


def page(document: FirstStages) -> str:
    return f"# Do first stages keep their promise?\n\n{excerpt(document)}\n"


def excerpt(document: FirstStages) -> str:
    """The table and what its cells are."""
    note = (
        f"`{document.variant}`: rules fitted to draws of {document.validation_texts:,} texts from validation "
        "and gate, judged on all of these, and the rule fitted to validation. At most 5 % should turn more."
    )
    return f"{table(document)}\n\n{note}"
