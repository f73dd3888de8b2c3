"""A roll-out asks an app that compares the old and the new version on live texts, and ends with its alarm."""

import argparse
import time
from pathlib import Path
from typing import Any

import requests

from common.commands import not_negative_float, say
from common.shares import share_interval
from handler.errors import UserError, refusals

START_IT = "Start it with both: python -m deploy app --archive OLD.mar --shadow NEW.mar --shadow-share 1"
STAYS = "The old version stays"
PATIENCE_S = 10
LOOK_S = 1.0
MOST_KEY = 1024  # characters


def add_shadow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow",
        metavar="URL",
        help="an app that compares both versions on live texts, with --shadow; its alarm ends the roll-out",
    )
    parser.add_argument(
        "--shadow-s",
        type=not_negative_float,
        default=600,
        help="seconds of live texts before the first server answers with it (default: %(default)s)",
    )
    parser.add_argument(
        "--shadow-key", type=Path, metavar="FILE", help="its first line is a key, where that app wants one"
    )


def read_key(path: Path | None) -> str | None:
    """`UserError` where the file cannot be read, or has none."""
    if path is None:
        return None
    remedy = "Choose another --shadow-key"
    with (
        refusals("the key cannot be read", path, remedy),
        path.open(encoding="utf-8", errors="replace") as file,
    ):
        key = file.readline(MOST_KEY).strip()
    if not key.isascii() or not key:
        raise UserError("the first line is no key", seen=path, remedy=remedy)
    return key


class Shadow:
    """The app at `url`. The first time that it is consulted it is watched for `seconds`."""

    def __init__(self, url: str, name: str, seconds: float, key: str | None = None) -> None:
        self._place = f"{url.rstrip('/')}/models/{name}"
        self._seconds = seconds
        self._looked_at = float("-inf")
        self._session = requests.Session()
        self._session.trust_env = False  # as the servers: no proxy
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"
        self._found: dict[str, Any] = {}

    def consult(self, old: str, new: str, max_flip: float) -> dict[str, Any]:
        """What it has found for the versions of these digests; `UserError` if it compares others, is alarmed,
        or has seen too few live texts."""
        described = self._describe()
        seen = described["artifact_sha256"], described["shadow"]["artifact_sha256"]
        wanted = old, new
        if seen != wanted:
            shown = ", not ".join(" and ".join(each[:12] for each in pair) for pair in (seen, wanted))
            raise UserError("the shadow compares other versions", seen=shown, remedy=START_IT)
        self._wait()
        texts, flipped = self._counted()
        high = share_interval(flipped, texts)[1] if texts else 1.0
        if high > max_flip:
            bound = f"up to {high:.1%} at 95 % confidence, the limit is {max_flip:.1%}"
            shown = f"{flipped} of {texts} live labels differ ({bound})"
            raise UserError("the shadow does not show that labels stay", seen=shown, remedy=STAYS)
        return {"texts": texts, "flips": flipped / texts, "flips_high": high}

    def look(self) -> None:
        """`UserError` if it is alarmed or has ended; asks at most once in `LOOK_S`."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._found = self._describe()["shadow"]
        self._looked_at = time.monotonic()
        if not self._found["is_up"]:
            raise UserError("the shadow compares nothing", seen=self._place, remedy="See the app's output")
        if alarms := [share for kind in self._found["kinds"].values() for share in kind["alarms"]]:
            texts, flipped = self._counted()
            seen = f"{flipped} of {texts} labels differ; alarm of: {', '.join(alarms)}"
            raise UserError("live texts get other labels", seen=seen, remedy=STAYS)

    def _wait(self) -> None:
        """As long as it is to be watched, once."""
        if self._seconds:
            say(f"live texts are compared at {self._place} for {self._seconds:,.0f} s")
        deadline = time.monotonic() + self._seconds
        self._seconds = 0
        self.look()
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left_s))
            self.look()

    def _counted(self) -> tuple[int, int]:
        """Texts, and those whose label differs."""
        return self._found["compared"], self._found["kinds"]["flips"]["flipped"]

    def _describe(self) -> dict[str, Any]:
        try:
            answer = self._session.get(self._place, timeout=PATIENCE_S)
            if answer.status_code == 401:
                remedy = "Give --shadow-key FILE, with a key that the app knows"
                raise UserError("the shadow's app wants a key", seen=self._place, remedy=remedy)
            answer.raise_for_status()
            described = dict(answer.json())
        except (requests.RequestException, ValueError, TypeError) as error:
            seen = f"{self._place}: {type(error).__name__}"
            raise UserError("the shadow does not answer", seen=seen, remedy=START_IT) from error
        if "shadow" not in described:
            raise UserError("this app has no shadow", seen=self._place, remedy=START_IT)
        return described
