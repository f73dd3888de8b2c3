"""Suites of functional cases that others publish, of which users have their own copies.

They are for evaluation only: what was trained or tuned on their cases is no longer tested by them.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TEMPLATES = "templates"  # the name of the project's own cases
MOST_BYTES = 50_000_000  # far more than 4,000 cases need


@dataclass(frozen=True)
class Published:
    """The file of a suite of cases as its authors publish it: its columns and what `label` may say. Where
    functionalities are tried in several ways, `part` is the column that names the way."""

    name: str
    file: str
    page: str
    text: str
    label: str
    group: str
    labels: Mapping[str, int]
    part: str = ""
    functionality: str = "functionality"

    @property
    def columns(self) -> list[str]:
        return list(filter(None, (self.text, self.label, self.functionality, self.group, self.part)))

    @property
    def remedy(self) -> str:
        return f"Use the file as published at {self.page}."


# Röttger et al., 2021 (https://aclanthology.org/2021.acl-long.4), and Kirk et al., 2022
# (https://aclanthology.org/2022.naacl-main.97).
HATECHECK = Published(
    "HateCheck",
    "test_suite_cases.csv",
    "https://github.com/paul-rottger/hatecheck-data",
    text="test_case",
    label="label_gold",
    group="target_ident",
    labels={"non-hateful": 0, "hateful": 1},
)
HATEMOJICHECK = Published(
    "HatemojiCheck",
    "HatemojiCheck.csv",
    "https://github.com/HannahKirk/Hatemoji",
    text="text",
    label="label_gold",
    group="target",
    labels={"0": 0, "1": 1, "non-hateful": 0, "hateful": 1},
    part="set",
)
PUBLISHED = {"hatecheck": HATECHECK, "hatemojicheck": HATEMOJICHECK}


def add_suites(parser: argparse.ArgumentParser) -> None:
    for name, suite in PUBLISHED.items():
        parser.add_argument(
            f"--{name}", type=Path, metavar="PATH", help=f"your copy of {suite.name}'s {suite.file}"
        )


def copies(options: argparse.Namespace) -> dict[str, Path]:
    """The copies that the options name, by the name of the suite."""
    return {name: path for name in PUBLISHED if (path := getattr(options, name))}
