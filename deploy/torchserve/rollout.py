"""`python -m deploy rollout`: roll out a new version, and roll it back if it is worse.

One server after the other: the new version is registered next to the old one, both classify the same texts,
and if they agree and the new one is not slower, it becomes the default and is watched. Any failure on any
server brings the old version back on all of them; a roll-out that was killed is undone by the next one, or by
`--back`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import requests
from requests.adapters import HTTPAdapter
from tabulate import tabulate
from tqdm import tqdm

from common.commands import (
    emit,
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    say,
    share,
)
from common.flips import OneWay
from common.options import default_config
from common.shares import share_interval
from common.signing import add_trusted_key, trusted_keys, verify
from common.torchserve import read_config
from deploy.torchserve.access import Access
from deploy.torchserve.rollout_note import Note, note_file, read_note, write_note
from deploy.torchserve.rollout_shadow import Shadow, add_shadow, read_key
from deploy.torchserve.rollout_texts import Asked, Flipping, Flips, Sample, decision, drawn, recorded, words
from handler.errors import UserError

NUMBER = "Package it with a new version number: python -m export package --version 1.1"
RESPONSE_S = 300  # the longest that an archive's worker is given for a batch
TIMEOUT_S = 600  # of a registration: the worker loads, and warms every shape
POLL_S = 0.2
ROLLED_BACK = "The old version stays"


@dataclass(frozen=True)
class Limits:
    """How much a new version may differ, and how long it is watched. `alpha` is the chance that balanced
    flips are taken for a shift to one side, and that a watched version is wrongly taken for a worse one."""

    max_flip: float
    max_shift: float
    max_slowdown: float
    watch_s: float
    alpha: float = 0.01


@dataclass(frozen=True)
class Comparison:
    """The old and the new version on the same texts, in turn. `flips` is the share of labels that differ,
    with the upper end of its 95 % interval and the direction of most; `fp32` is the same against fp32's
    recorded labels, or None without them; `shift` is the mean distance of scores; `slowdown` is the median
    ratio of the times of lone requests."""

    texts: int
    flips: float
    flips_high: float
    way: OneWay | None
    fp32: Flips | None
    shift: float
    old_p50_ms: float
    new_p50_ms: float
    slowdown: float

    def objections(self, limits: Limits) -> list[str]:
        """Why the new version must not serve; empty where it may."""
        found = []
        of_old = Flips(self.texts, self.flips, self.flips_high, self.way)
        for flips, whose in ((of_old, ""), (self.fp32, " from fp32's")):
            if flips and flips.high > limits.max_flip:
                differing = f"{flips.share:.1%} of labels differ{whose}"
                bound = f"(up to {flips.high:.1%} at 95 % confidence)"
                found.append(f"{differing} {bound}, the limit is {limits.max_flip:.1%}")
            if flips and flips.way and flips.way.p < limits.alpha:
                found.append(f"{words(flips.way)}{whose and ', against fp32'} (p = {flips.way.p:.2g})")
        if self.shift > limits.max_shift:
            found.append(f"scores differ by {self.shift:.3f} on average, the limit is {limits.max_shift:g}")
        if self.slowdown > limits.max_slowdown:
            times = f"{self.slowdown:.2f} times as long ({self.new_p50_ms:.1f} ms)"
            found.append(f"a lone request takes {times}, the limit is {limits.max_slowdown:g}")
        return found


class _Tls(HTTPAdapter):
    """Trusts what `Access` does."""

    def __init__(self, access: Access) -> None:
        self._access = access
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._access.context(), assert_hostname=False, **kwargs)


class Front:
    """One TorchServe and its model `name`."""

    def __init__(self, access: Access, name: str) -> None:
        self.access = access
        self.name = name
        self.inference = access.config.endpoint("inference_address")
        self.management = access.config.endpoint("management_address")
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, and no other credentials, for a server of this machine
        self.session.mount("https://", _Tls(access))

    @property
    def note_file(self) -> Path:
        return note_file(self.access, self.name)

    def versions(self) -> dict[str, dict[str, Any]]:
        """What is registered, by version."""
        found = self._manage("GET", f"/models/{self.name}/all")
        return {version["modelVersion"]: version for version in found}

    def default(self) -> str:
        return str(self._manage("GET", f"/models/{self.name}")[0]["modelVersion"])

    def register(self, url: str, workers: int) -> None:
        options = {
            "url": url,
            "model_name": self.name,
            "initial_workers": str(workers),
            "synchronous": "true",
        }
        self._manage("POST", "/models", options)

    def set_default(self, version: str) -> None:
        self._manage("PUT", f"/models/{self.name}/{version}/set-default")

    def remove(self, version: str, patience_s: float = RESPONSE_S) -> None:
        """Unregister a version when nothing waits for it, since TorchServe would fail what does; `UserError`
        where something still waits after `patience_s`. What a worker has in its hands is in no queue: one
        request a worker is asked behind it, and when these are answered so is that."""
        deadline = time.monotonic() + patience_s
        while (model := self._describe(version)).get("jobQueueStatus", {}).get("pendingRequests", 0):
            if time.monotonic() > deadline:
                remedy = f"Remove it later: curl -X DELETE {self.management}/models/{self.name}/{version}"
                raise UserError("requests are still waiting for a version", seen=version, remedy=remedy)
            time.sleep(POLL_S)
        for _ in model["workers"]:
            with suppress(UserError):  # a version that cannot answer holds nothing
                self.ask("is anything left", version)
        self._manage("DELETE", f"/models/{self.name}/{version}")

    def identity(self, version: str) -> str:
        """The digest of what a version computes, by its worker's own description."""
        path, options = f"/models/{self.name}/{version}", {"customized": "true"}
        return str(self._manage("GET", path, options)[0]["customizedMetadata"]["artifact_sha256"])

    def _describe(self, version: str) -> dict[str, Any]:
        return dict(self._manage("GET", f"/models/{self.name}/{version}")[0])

    def self_check(self, version: str) -> str:
        """What the model found on this machine when it was loaded; empty where its archive is older."""
        (found,) = self._manage("GET", f"/models/{self.name}/{version}", {"customized": "true"})
        described = found.get("customizedMetadata") or {}
        return str(described.get("self_check", {}).get("note", ""))

    def ask(self, text: str, version: str | None = None) -> tuple[dict[str, Any], float]:
        """The answer and the milliseconds that it took; `UserError` where it was not 200."""
        place = f"{self.inference}/predictions/{self.name}" + (f"/{version}" if version else "")
        headers = self.access.headers("inference_address")
        begun = time.perf_counter()
        try:
            answer = self.session.post(place, json={"text": text}, headers=headers, timeout=60)
        except requests.RequestException as error:
            raise UserError(
                "the server does not answer", seen=f"{place}: {type(error).__name__}", remedy="Is it running?"
            ) from error
        taken_ms = 1000 * (time.perf_counter() - begun)
        if answer.status_code != 200:
            raise UserError(
                "a request failed", seen=f"{place}: {answer.status_code}", remedy="See the server's log"
            )
        return answer.json(), taken_ms

    def _manage(self, method: str, path: str, options: dict[str, str] | None = None) -> Any:
        try:
            place = self.management + path
            headers = self.access.headers("management_address")
            answer = self.session.request(method, place, params=options, headers=headers, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise UserError(
                "the management API does not answer",
                seen=f"{self.management}: {type(error).__name__}",
                remedy="Start the server, or set its --config",
            ) from error
        if answer.status_code == 405:
            remedy = "Start it with enable_model_api=true and its management address on loopback"
            raise UserError("the server's model API is closed", seen=self.management, remedy=remedy)
        if answer.status_code == 409:
            raise UserError("this version is already registered", seen=self.management, remedy=NUMBER)
        if not answer.ok:
            seen = f"{method} {path}: {answer.status_code} {answer.text.strip()[:300]}"
            raise UserError("TorchServe refused the request", seen=seen, remedy="See its log")
        try:
            return answer.json()
        except ValueError as error:
            raise UserError(
                "this is not TorchServe", seen=self.management, remedy="Check --config"
            ) from error


def go_back(front: Front) -> str | None:
    """Undo a roll-out that was cut off, or one that kept the old version: that one is the default again, and
    what it added is removed. What was done, in words; None where there was nothing to undo."""
    if (note := read_note(front.note_file)) is None:
        return None
    if note.is_under_way:
        seen, remedy = f"process {note.pid}", "Wait for it, or kill it: it then rolls back by itself"
        raise UserError("a roll-out is under way on this server", seen=seen, remedy=remedy)
    present = front.versions()
    if note.old not in present:
        front.note_file.unlink()
        return f"{front.management}: restarted since its roll-out, with version {front.default()}"
    front.set_default(note.old)
    for version in present.keys() - {*note.known}:
        front.remove(version)
    front.note_file.unlink()
    return f"{front.management}: version {note.old} is the default again, and {note.url} is removed"


def rollout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", help="the new version: a file in the model store, or an allowed address"
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        help="a server's configuration; repeat it for several servers (default: the usual one)",
    )
    parser.add_argument(
        "--back", action="store_true", help="undo a roll-out that was interrupted, or one with --keep-old"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--texts", type=Path, help="texts to compare the versions on, one per line")
    source.add_argument(
        "--fp32",
        type=Path,
        metavar="FILE",
        help="texts with fp32's labels, from python -m handler predict, to compare with as well",
    )
    parser.add_argument(
        "--count", type=positive_int, default=500, help="texts, drawn at random (default: %(default)s)"
    )
    parser.add_argument("--seed", type=not_negative_int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--name", default="hate", help="name of the model (default: %(default)s)")
    parser.add_argument("--workers", type=positive_int, default=1, help="of the new version (%(default)s)")
    parser.add_argument(
        "--max-flip", type=share, default=0.05, help="allowed share of other labels (default: %(default)s)"
    )
    parser.add_argument(
        "--alpha",
        type=share,
        default=Limits.alpha,
        help="chance of a false alarm about the direction of flips, and of one while watching; with 0, flips "
        "may all go one way (default: %(default)s)",
    )
    parser.add_argument(
        "--max-shift", type=share, default=0.05, help="allowed mean change of scores (default: %(default)s)"
    )
    parser.add_argument(
        "--max-slowdown",
        type=positive_float,
        default=1.5,
        help="allowed slowdown of a request, as a factor (default: %(default)s)",
    )
    add_shadow(parser)
    parser.add_argument(
        "--watch-s", type=not_negative_float, default=10, help="seconds to watch it afterwards (%(default)s)"
    )
    add_trusted_key(parser)
    parser.add_argument("--keep-old", action="store_true", help="keep it registered, to go back to it")


def rollout(options: argparse.Namespace) -> int:
    """Exit status 1 where the new version was rolled back."""
    configs = options.config or [default_config()]
    fronts = [Front(Access.of(path), options.name) for path in configs]
    if options.back:
        done = [words for front in fronts if (words := go_back(front))]
        say("\n".join(done) or "there is no roll-out to undo")
        emit({"back": done})
        return int(not done)
    if options.url is None or not (options.texts or options.fp32):
        remedy = "Give URL and --texts or --fp32, or --back"
        raise UserError("a roll-out needs a new version and texts", remedy=remedy)
    for path in configs:
        _verify(options.url, read_config(path).model_store, options.trusted_key)
    limits = Limits(options.max_flip, options.max_shift, options.max_slowdown, options.watch_s, options.alpha)
    sample = drawn(options.texts, options.fp32, options.count, options.seed)
    say(f"drew {len(sample.compared):,} texts from {options.texts or options.fp32}, seed {options.seed}")
    shadow = None
    if options.shadow:
        shadow = Shadow(options.shadow, options.name, options.shadow_s, read_key(options.shadow_key))
    outcome = roll_out(fronts, options.url, sample, limits, options.workers, options.keep_old, shadow)
    say(table(outcome))
    emit({"seed": options.seed, **outcome})
    return int(not outcome["done"])


def _verify(url: str, store: Path, trusted_key: Path | None) -> None:
    """`UserError` if a key is trusted that did not sign the archive, or if that cannot be checked."""
    if trusted_key is not None and "://" in url:
        trusted_keys(trusted_key)
        raise UserError(
            "a trusted key is configured, but an archive that the server fetches itself cannot be verified",
            seen=url.partition("?")[0],
            remedy=f"Fetch it (python -m export fetch), put the archive and its signature into {store}, and "
            "give its file name",
        )
    verify(store / url, trusted_key)


def roll_out(
    fronts: Sequence[Front],
    url: str,
    sample: Sample,
    limits: Limits,
    workers: int,
    keep_old: bool,
    shadow: Shadow | None = None,
) -> dict[str, Any]:
    """`done`: whether all servers answer with the new version; if not, `why` none does; `servers`: the
    comparisons; `shadow`: what it found, if there is one; `not_rolled_back` and `left`: servers where the old
    version could not be restored, and where an unused version could not be removed."""
    texts = len(sample.compared)
    if (least := share_interval(0, texts)[1]) > limits.max_flip:
        seen = f"{texts} texts: even if no label differs, up to {least:.1%} might"
        raise UserError("there are too few texts", seen=seen, remedy="Give more, or raise --max-flip")
    _undo_interrupted(fronts)
    olds = [front.default() for front in fronts]  # before anything is touched: every server must be there
    outcome: dict[str, Any] = {"done": False, "why": None, "servers": [], "not_rolled_back": [], "left": []}
    changed: list[tuple[Front, str, str]] = []  # server, old version, new version
    try:
        for front, old in zip(tqdm(fronts, unit=" servers", disable=None), olds, strict=True):
            write_note(front.note_file, Note.of(old, front.versions(), url))
            new = add_version(front, url, workers)
            changed.append((front, old, new))
            found = compare(front, old, new, sample.compared)
            outcome["servers"].append(
                {
                    "server": front.inference,
                    "old": old,
                    "new": new,
                    "self_check": front.self_check(new),
                    **asdict(found),
                }
            )
            if objections := found.objections(limits):
                raise UserError(
                    f"version {new} is not served", seen="; ".join(objections), remedy=ROLLED_BACK
                )
            if shadow:
                outcome["shadow"] = shadow.consult(front.identity(old), front.identity(new), limits.max_flip)
            front.set_default(new)
            watch(front, old, new, sample, found, limits, shadow)
    except BaseException as error:
        outcome |= _rolled_back(fronts, changed)
        outcome["why"] = str(error) if isinstance(error, UserError) else "interrupted"
        if not isinstance(error, UserError | KeyboardInterrupt):
            say(table(outcome))
            raise
        return outcome
    outcome["left"] = _settled(fronts, changed, keep_old)
    return outcome | {"done": True}


def _undo_interrupted(fronts: Sequence[Front]) -> None:
    for front in fronts:
        note = read_note(front.note_file)
        if note is not None and not note.is_done and (words := go_back(front)):
            say(f"an earlier roll-out was interrupted. {words}")


def _rolled_back(fronts: Sequence[Front], changed: Sequence[tuple[Front, str, str]]) -> dict[str, Any]:
    """Bring the old version back on every server; where that failed."""
    not_rolled_back = _each(changed, lambda front, old, new: front.set_default(old))
    left = _each(changed, lambda front, old, new: front.remove(new))
    if not not_rolled_back and not left:
        for front in fronts:
            front.note_file.unlink(missing_ok=True)
    return {"not_rolled_back": not_rolled_back, "left": left}


def _settled(
    fronts: Sequence[Front], changed: Sequence[tuple[Front, str, str]], keep_old: bool
) -> list[dict[str, str]]:
    """Keep the old version for `--back`, or remove it; where that failed."""
    for front in fronts:
        if keep_old and (note := read_note(front.note_file)) is not None:
            write_note(front.note_file, replace(note, is_done=True))
        else:
            front.note_file.unlink(missing_ok=True)
    return [] if keep_old else _each(changed, lambda front, old, new: front.remove(old))


def _each(
    changed: Sequence[tuple[Front, str, str]], do: Callable[[Front, str, str], None]
) -> list[dict[str, str]]:
    """Do it on every server, and say where it failed: one that is gone keeps no other from it."""
    failed = []
    for front, old, new in changed:
        try:
            do(front, old, new)
        except (UserError, KeyboardInterrupt, SystemExit) as error:  # a second signal cuts off this one alone
            failed.append(
                {
                    "server": front.management,
                    "why": str(error) if isinstance(error, UserError) else "interrupted",
                }
            )
    return failed


def add_version(front: Front, url: str, workers: int) -> str:
    """Register, wait until it is loaded and warm, and say which version it is."""
    before = set(front.versions())
    try:
        front.register(url, workers)
        added = set(front.versions()) - before
    except BaseException:
        with suppress(UserError):
            for version in set(front.versions()) - before:
                front.remove(version)  # one whose workers died is registered all the same
        raise
    if len(added) != 1:
        raise UserError("the archive has no new version", seen=", ".join(sorted(before)), remedy=NUMBER)
    return added.pop()


def compare(front: Front, old: str, new: str, texts: Sequence[Asked]) -> Comparison:
    """Ask both versions for every text, the one and the other first in turn."""
    flips, of_fp32, shifts = Flipping(1, 0), Flipping(1, 0), []
    times: dict[str, list[float]] = {old: [], new: []}
    for number, asked in enumerate(texts):
        answers = {}
        for version in (old, new) if number % 2 else (new, old):
            answers[version], taken_ms = front.ask(asked.text, version)
            times[version].append(taken_ms)
        flips.add(decision(answers[old]), answers[new])
        if (fp32 := recorded(asked, answers[new])) is not None:
            of_fp32.add(fp32, answers[new])
        shifts.append(_shift(answers[old]["scores"], answers[new]["scores"]))
    ratios = [after / before for before, after in zip(times[old], times[new], strict=True)]
    found = flips.found()
    assert found is not None
    return Comparison(
        texts=found.texts,
        flips=found.share,
        flips_high=found.high,
        way=found.way,
        fp32=of_fp32.found(),
        shift=float(np.mean(shifts)),
        old_p50_ms=median(times[old]),
        new_p50_ms=median(times[new]),
        slowdown=median(ratios),
    )


def _shift(old: dict[str, float], new: dict[str, float]) -> float:
    """The largest distance of a label's score; of a version with other labels, all of it."""
    return max(abs(old[label] - new[label]) for label in old) if old.keys() == new.keys() else 1.0


def watch(
    front: Front,
    old: str,
    new: str,
    sample: Sample,
    found: Comparison,
    limits: Limits,
    shadow: Shadow | None = None,
) -> None:
    """Send normal requests to the server for a while. `UserError` if one fails, if they get slow, if the
    labels of texts that were not compared before differ too much, or if the shadow is alarmed.

    The labels are tested after each text, by tests that are valid at any time.
    """
    deadline = time.monotonic() + limits.watch_s
    times = []
    flips, of_fp32 = (Flipping(limits.max_flip, limits.alpha / 2) for _ in range(2))
    for number in count():
        is_fresh = number < len(sample.fresh)
        asked = sample.fresh[number] if is_fresh else sample.compared[number % len(sample.compared)]
        answer, taken_ms = front.ask(asked.text)
        times.append(taken_ms)
        if answer["model"]["version"] != new:
            raise UserError("another version answers", seen=answer["model"]["version"], remedy=ROLLED_BACK)
        if is_fresh:
            flips.add(decision(front.ask(asked.text, old)[0]), answer)
            if (fp32 := recorded(asked, answer)) is not None:
                of_fp32.add(fp32, answer)
            for flipping, whose in ((flips, "the old version's"), (of_fp32, "fp32's")):
                if objection := flipping.objection():
                    raise UserError(f"labels differ from {whose}", seen=objection, remedy=ROLLED_BACK)
        if shadow:
            shadow.look()
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S / 10)
    if limits.watch_s and median(times) > limits.max_slowdown * found.old_p50_ms:
        seen = f"{median(times):.1f} ms, {found.old_p50_ms:.1f} ms before"
        raise UserError("the new version is slow as the default", seen=seen, remedy=ROLLED_BACK)


def table(outcome: dict[str, Any]) -> str:
    """For people: one row a server, and what came of it."""
    rows = [
        [
            row["server"],
            f"{row['old']} -> {row['new']}",
            f"{row['flips']:.1%} (up to {row['flips_high']:.1%})",
            f"{row['fp32']['share']:.1%} (up to {row['fp32']['high']:.1%})" if row["fp32"] else "–",
            f"{row['shift']:.4f}",
            f"{row['old_p50_ms']:.1f} -> {row['new_p50_ms']:.1f} ({row['slowdown']:.2f}x)",
        ]
        for row in outcome["servers"]
    ]
    heads = ["server", "version", "labels that differ", "from fp32's", "score shift", "lone request, ms"]
    shown = tabulate(rows, heads)
    said = "done" if outcome["done"] else f"the old version stays: {outcome['why']}"
    if outcome["not_rolled_back"]:
        said = f"NOT ROLLED BACK EVERYWHERE, after: {outcome['why']}"
    lines = [f"{row['server']}: {row['self_check']}" for row in outcome["servers"] if row["self_check"]]
    lines += [
        f"{failure['server']} could not be rolled back: {failure['why']}"
        for failure in outcome["not_rolled_back"]
    ]
    lines += [
        f"{leftover['server']} still has the version that is no longer used: {leftover['why']}"
        for leftover in outcome["left"]
    ]
    return "\n".join([shown, said, *lines])
