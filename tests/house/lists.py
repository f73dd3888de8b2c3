"""Writes the lists in docs/ that the code knows, such as the variants: `python -m tests.house.lists`."""

import re
from pathlib import Path

from tabulate import tabulate

import export.variants  # noqa: F401 - registers the variants
from export.registry import KINDS, REFERENCE, VARIANTS, suits
from tests.house import licences
from training.data.sources import SOURCES

DOCS = Path(__file__).parents[2] / "docs"


def variants() -> str:
    """Every variant, the reference first, and which kinds of classifier it can be made from."""
    ordered = sorted(
        VARIANTS.values(), key=lambda variant: (variant.name != REFERENCE, variant.devices, variant.name)
    )
    rows = [
        [f"`{variant.name}`", variant.summary, ", ".join(kind for kind in KINDS if suits(variant, kind))]
        for variant in ordered
    ]
    kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    return f"{tabulate(rows, ['variant', 'what it is', 'made from'], 'github')}\n\nMade from {kinds}."


def data() -> str:
    rows = [[f"`{source.form}`", source.summary] for source in SOURCES.values()]
    return tabulate(rows, ["`DATA=`", "what it is"], "github")


LISTS = {"variants": variants, "data": data, "licences": licences.table}


def filled(text: str) -> str:
    """A page with its lists as the code has them."""
    return re.sub(
        r"(<!-- list:(\w+) -->).*?(?=<!-- /list -->)",
        lambda found: f"{found[1]}\n\n{LISTS[found[2]]()}\n\n",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in DOCS.glob("*.md"):
        page.write_text(filled(page.read_text()))
