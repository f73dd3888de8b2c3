"""Detectors for all shares. A file keeps them from one look to the next, and over restarts."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from common.atomic import make_folder, write_json
from common.commands import say
from deploy.drift.detector import ALTERNATIVES, NOTHING, Detector
from deploy.drift.judge import Counts, Rule, texts_of
from deploy.drift.shares import Share
from handler.description import Sha256
from handler.errors import UserError, refusals
from handler.records import Count, read


@dataclass(frozen=True)
class Stored:
    """A detector: the logarithms of its alternatives, null where there is no evidence yet."""

    levels: list[float | None]
    is_alarmed: bool


@dataclass(frozen=True)
class State:
    """The file: `texts` since it began, and the detectors by share. `watched` is the digest of what they are
    for: the artifact, the shares, and what these may be."""

    schema: Literal[1]
    watched: Sha256
    texts: Count
    shares: dict[str, Stored]


class Detectors:
    """One for each of `shares`."""

    def __init__(self, shares: Sequence[Share], rule: Rule) -> None:
        self.shares = tuple(shares)
        self.rule = rule
        self.detectors = {
            share.name: Detector(share.low, share.high, rule.texts_per_alarm / share.weight)
            for share in self.shares
        }

    def add(self, counts: Counts) -> None:
        """Texts that were not counted before."""
        for share in self.shares:
            hits, texts = share.counted(counts)
            self.detectors[share.name].add(min(hits, texts), texts)

    def alarmed(self) -> list[str]:
        """The shares that are outside what is allowed."""
        return [name for name, detector in self.detectors.items() if detector.is_alarmed]

    def of(self, distribution: str) -> list[Detector]:
        """Those of its shares."""
        return [self.detectors[each.name] for each in self.shares if each.distribution == distribution]


class Watch(Detectors):
    """Detectors of what `artifact_sha256` answers, in a file; raises `UserError` for a damaged one."""

    def __init__(self, shares: Sequence[Share], rule: Rule, artifact_sha256: str, path: Path) -> None:
        super().__init__(shares, rule)
        self.path = path
        self.texts = 0
        allowed = [[share.name, share.low, share.high, share.weight] for share in self.shares]
        made_of = json.dumps([artifact_sha256, rule.texts_per_alarm, allowed])
        self._watched = hashlib.sha256(made_of.encode()).hexdigest()
        self._resume()

    def add(self, counts: Counts) -> None:
        """Texts that were not counted before. What is left is on the disk."""
        self.texts += texts_of(counts)
        super().add(counts)
        stored = {
            name: Stored(
                [None if math.isinf(level) else level for level in detector.levels.tolist()],
                detector.is_alarmed,
            )
            for name, detector in self.detectors.items()
        }
        with refusals("the drift evidence cannot be saved", self.path, "Choose another --state"):
            make_folder(self.path.parent)
            write_json(self.path, asdict(State(1, self._watched, self.texts, stored)))

    def record(self) -> dict[str, Any]:
        """For machines."""
        shares = [
            {
                "share": share.name,
                "reference": share.reference,
                "low": max(share.low, 0.0),
                "high": min(share.high, 1.0),
                "progress": self.detectors[share.name].progress,
                "is_alarmed": self.detectors[share.name].is_alarmed,
            }
            for share in self.shares
        ]
        verdict = "drift" if self.alarmed() else "no drift"
        return {"verdict": verdict, "rule": asdict(self.rule), "texts": self.texts, "shares": shares}

    def table(self) -> str:
        """For people."""
        rows = [
            (
                share.name,
                f"{share.reference:.2%}",
                f"{max(share.low, 0):.2%} to {min(share.high, 1):.2%}",
                f"{self.detectors[share.name].progress:.0%}",
                "drift" if self.detectors[share.name].is_alarmed else "no drift",
            )
            for share in self.shares
        ]
        headers = ("share", "reference", "no drift", "evidence (alarm at 100%)", "verdict")
        found = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
        return f"{found}\n{self.texts:,} texts counted in {self.path}"

    def _resume(self) -> None:
        try:
            state = read(State, json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            remedy = "Choose another file, or remove this one: detection then starts over"
            raise UserError("this is not a drift state", seen=self.path, remedy=remedy) from error
        if state.watched != self._watched:
            say(f"{self.path} is for another artifact, reference or limits: detection starts over")
            return
        self.texts = state.texts
        for name, stored in state.shares.items():
            detector = self.detectors[name]
            levels = [NOTHING if level is None else level for level in stored.levels]
            if len(levels) == ALTERNATIVES:
                detector.levels, detector.is_alarmed = np.array(levels), stored.is_alarmed
