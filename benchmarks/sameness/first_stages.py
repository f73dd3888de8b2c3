"""How often first stages of cascades break their promise, as a study counted it: records and tables."""

from tabulate import tabulate

from common.records import Count, Record, Share, Some, Text
from common.shares import share_interval

NAME = "first-stages"  # of the file


class Kept(Record):
    """Of `rules`, each fitted to a draw of `texts`, how many turn more of the population's labels than
    `allowed`, and the mean share of texts that they answer; and what the rule fitted to validation does on
    gate, where as many are drawn as validation has."""

    allowed: Share
    texts: Some
    rules: Some
    broken: Count
    answered: Share
    answered_gate: Share | None = None
    turned_gate: Share | None = None


class FirstStages(Record):
    """Of a cascade: rules were fitted to draws from validation and gate."""

    variant: Text
    rules: list[Kept]


def table(document: FirstStages) -> str:
    """A row for each share of labels that may turn and number of texts, as Markdown."""
    rows = [
        (
            f"{each.allowed:.1%}",
            f"{each.texts:,}",
            f"{each.broken} of {each.rules} ({share_interval(each.broken, each.rules)[1]:.1%} at most)",
            f"{each.answered:.0%}",
            "" if each.answered_gate is None else f"{each.answered_gate:.0%}",
            "" if each.turned_gate is None else f"{each.turned_gate:.2%}",
        )
        for each in document.rules
    ]
    heads = ("may turn", "texts", "rules that turn more", "answered, mean")
    of_validation = ("validation's: answered on gate", "turned on gate")
    return tabulate(rows, (*heads, *of_validation), "github", disable_numparse=True)


def page(document: FirstStages) -> str:
    return f"# Do first stages keep their promise?\n\n{excerpt(document)}\n"


def excerpt(document: FirstStages) -> str:
    """The table and what its cells are."""
    note = (
        f"`{document.variant}`: rules fitted to texts drawn from validation and gate, judged on all of "
        "these, and the rule fitted to validation. At most 5 % should turn more."
    )
    return f"{table(document)}\n\n{note}"
