"""`python -m deploy tune`: the worker, thread, batch and delay settings that suit an archive on this machine.

Starting from the archive's own settings, one setting changes at a time. A candidate's server runs next to the
best one's, and both are measured in turn, so that other load on the machine affects both alike.
"""

import argparse
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tabulate import tabulate
from tqdm import tqdm

from common.atomic import write_json, write_text
from common.commands import emit, positive_float, positive_int, say
from common.options import add_archive, add_config, add_texts
from common.signing import add_trusted_key, verify
from common.torchserve import MODEL_CONFIG, Config, model_config, read_config, threads_of
from deploy.torchserve.server import Server, private_server
from deploy.tuning.load import closed_loop
from deploy.tuning.sample import sample
from deploy.tuning.settings import SCHEMA, machine, read
from handler.artifact import archived_artifact
from handler.errors import UserError, first_line
from handler.machine import available_cpus

# A candidate takes the place of the best where it answered more in every round: of two that do not differ one
# does so by chance once in 2^rounds. What was chosen is measured against the settings at the start once more.
# The queue is set so that no request waits longer than asked for: one that would is refused. Packaging
# applies what is found to this artifact's archives on this kind of machine.

OUTPUT = Path("build/tuning.json")
BATCH_SIZES = (8, 16, 32, 64)
BATCH_DELAYS_MS = (1, 5, 20)  # 0 would cap batches at 2
NETTY_THREADS = (1, 2, 4)
NETTY = "number_of_netty_threads"
WARM_S = 0.5


@dataclass(frozen=True)
class Settings:
    """What is varied: all of the archive's model-config.yaml, but for TorchServe's Netty threads."""

    workers: int
    threads: int
    batch_size: int
    batch_delay_ms: int
    netty_threads: int

    def model_config(self) -> dict[str, Any]:
        """As in the archive; threads are 0, which means all CPUs, if they use all of this machine's."""
        threads = 0 if self.workers * self.threads == available_cpus() else self.threads
        return {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.batch_delay_ms,
            "handler": {"threads": threads},
        }


@dataclass
class Candidate:
    """A running server with its settings, and what was measured against the best one so far."""

    settings: Settings
    server: Server
    rates: list[float] = field(default_factory=list)  # requests a second, one entry a round
    latencies_ms: list[float] = field(default_factory=list)

    def ask(self, bodies: Sequence[bytes], concurrency: int, seconds: float) -> None:
        load = closed_loop(self.server.predictions, bodies, concurrency, seconds, WARM_S)
        if load.errors:
            seen = ", ".join(f"{count} x {what}" for what, count in load.errors.items())
            raise UserError("some requests failed", seen=seen, remedy="Lower --concurrency")
        self.rates.append(load.requests_per_second)
        self.latencies_ms += load.latencies_ms

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.latencies_ms, 99))


def tune_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "TorchServe's configuration, with the Netty threads to start from")
    add_archive(parser)
    add_texts(parser)
    parser.add_argument("--concurrency", type=positive_int, default=32, help="clients at once (%(default)s)")
    parser.add_argument("--p99-ms", type=positive_float, help="avoid settings that are slower than this")
    parser.add_argument(
        "--max-wait-ms", type=positive_float, default=1000.0, help="longest wait in the queue (%(default)s)"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="rounds per comparison (%(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=3.0, help="length of a round (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    add_trusted_key(parser)
    parser.add_argument("--apply", action="store_true", help="write Netty's threads to the configuration")


def tune(arguments: argparse.Namespace) -> int:
    """Search, compare the result with the start, write it, and print it."""
    verify(arguments.archive, arguments.trusted_key)
    artifact = archived_artifact(arguments.archive)
    texts = sample(arguments.archive, arguments.texts)
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    start = settings_of(arguments.archive, read_config(arguments.config))
    content = _earlier(arguments.output)  # before minutes are spent: it may be damaged
    tried, chosen = search(arguments, start, bodies)
    against = _measured_again(arguments, start, chosen, bodies)
    if against is None or not is_confirmed(against, arguments.p99_ms):
        chosen = start
    rate = _rate(tried, against, chosen != start)  # a second
    queue = max(chosen.batch_size, int(rate * arguments.max_wait_ms / 1000))
    found = {
        "artifact_sha256": artifact.sha256,
        "settings": {**chosen.model_config(), "jobQueueSize": queue},
        "netty_threads": chosen.netty_threads,
        "concurrency": arguments.concurrency,
        "max_wait_ms": arguments.max_wait_ms,
        "texts": "synthetic, of the validation texts' lengths" if arguments.texts is None else "the user's",
        "against_start": against,
        "start": asdict(start),
        "tried": tried,
    }
    content["archives"][artifact.name] = found
    write_json(arguments.output, content)
    say(table(tried))
    say(verdict(start, chosen, against))
    met = (row[name] for row in tried for name in ("p99_ms", "beside_p99_ms") if name in row)
    if arguments.p99_ms is not None and min(met) > arguments.p99_ms:
        say(f"no tried settings keep p99 within {arguments.p99_ms:g} ms")
    say(f"a queue of {queue} takes {arguments.max_wait_ms:g} ms to work off")
    say(f"wrote {arguments.output}; to apply it: python -m export package")
    if chosen.netty_threads != start.netty_threads:
        if arguments.apply:
            set_netty_threads(arguments.config, chosen.netty_threads)
        done = "written" if arguments.apply else "add this line, or run with --apply"
        say(f"{arguments.config}: {NETTY}={chosen.netty_threads} ({done})")
    emit(found)
    return 0


def _earlier(output: Path) -> dict[str, Any]:
    """Earlier results for this kind of machine, to add to."""
    content = read(output)
    if content is not None and content["machine"] == machine():
        return content
    if content is not None:
        say(f"{output} was tuned on another kind of machine: starting over")
    return {"schema": SCHEMA, "machine": machine(), "archives": {}}


def _measured_again(
    arguments: argparse.Namespace, start: Settings, chosen: Settings, bodies: Sequence[bytes]
) -> dict[str, Any] | None:
    """The choice against the start, in twice as many rounds, since the choice itself was partly luck; None
    where nothing else was chosen, or it could not be measured."""
    if chosen == start:
        return None
    try:
        with served(arguments.archive, start) as old, served(arguments.archive, chosen) as new:
            compare(old, new, bodies, arguments, times=2)
            return _row(old, new)
    except UserError as error:
        say(f"the faster settings could not be measured again: {error}")
        return None


def _rate(tried: Sequence[Mapping[str, Any]], against: Mapping[str, Any] | None, is_new: bool) -> float:
    """Requests a second with the settings that hold: new ones, or those of the start."""
    rates = [row["beside_rps"] for row in tried if "beside_rps" in row]
    if not rates:
        seen = tried[-1]["verdict"] if tried else "nothing to try"
        raise UserError(
            "no candidate could be measured", seen=seen, remedy="Fix the error above and run it again"
        )
    if against is None:
        return float(np.median(rates))
    return float(against["rps" if is_new else "beside_rps"])


def settings_of(archive: Path, config: Config) -> Settings:
    """Those that an archive has and the configuration gives."""
    said = model_config(archive)
    batches = said.get("batchSize", 1), said.get("maxBatchDelay", 100)
    return Settings(said.get("minWorkers", 1), threads_of(said), *batches, int(config[NETTY] or 0))


def repacked(archive: Path, settings: Settings, folder: Path) -> Path:
    """The archive with other settings, in `folder`."""
    said = model_config(archive)
    own = settings.model_config()
    content = said | own | {"handler": (said.get("handler") or {}) | own["handler"]}
    content.pop("jobQueueSize", None)  # tuned for another load; the configuration's holds
    target = folder / archive.name
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as opened:
        for entry in source.infolist():
            with source.open(entry) as old, opened.open(entry.filename, "w", force_zip64=True) as new:
                if entry.filename == MODEL_CONFIG:
                    new.write(yaml.safe_dump(content).encode())
                else:
                    shutil.copyfileobj(old, new, 1 << 20)
    return target


def steps(cpus: int) -> list[list[dict[str, int]]]:
    """Changes to try, of one kind after the other."""
    split = [1 << power for power in range(cpus.bit_length()) if 1 << power <= cpus]
    workers = [{"workers": number, "threads": cpus // number} for number in split]
    if cpus > 1:
        workers.append({"workers": 1, "threads": cpus - 1})  # one is left to the server itself
    return [
        workers,
        [{"batch_size": size} for size in BATCH_SIZES],
        [{"batch_delay_ms": delay} for delay in BATCH_DELAYS_MS],
        [{"netty_threads": number} for number in NETTY_THREADS if number <= max(2, cpus)],
    ]


def search(
    arguments: argparse.Namespace, start: Settings, bodies: Sequence[bytes]
) -> tuple[list[dict[str, Any]], Settings]:
    """Every candidate with what became of it, and the best settings."""
    changes = [change for step in steps(available_cpus()) for change in step]
    tried: list[dict[str, Any]] = []
    seen = {start}
    with ExitStack() as kept:
        best = kept.enter_context(served(arguments.archive, start))
        for change in tqdm(changes, unit=" settings", disable=None):
            settings = replace(best.settings, **change)
            if settings in seen:
                continue
            seen.add(settings)
            with ExitStack() as own:
                try:
                    other = own.enter_context(served(arguments.archive, settings))
                    compare(best, other, bodies, arguments)
                except UserError as error:
                    tried.append({**asdict(settings), "verdict": first_line(error)})
                    continue
                won = is_better(best, other, arguments.p99_ms)
                tried.append(_row(best, other) | {"verdict": "faster" if won else "not faster"})
                if won:
                    kept.close()  # what was the best has served its time
                    kept.push(own.pop_all())
                    best = other
    return tried, best.settings


@contextmanager
def served(archive: Path, settings: Settings) -> Iterator[Candidate]:
    """A server of the archive with other settings, on free ports."""
    with tempfile.TemporaryDirectory(prefix="tune-") as folder:
        own = {NETTY: str(settings.netty_threads)}
        with private_server(repacked(archive, settings, Path(folder)), settings=own) as server:
            yield Candidate(settings, server)


def compare(
    best: Candidate, other: Candidate, bodies: Sequence[bytes], arguments: argparse.Namespace, times: int = 1
) -> None:
    """Measure both in turn, each first in every second round; earlier measurements are dropped."""
    for candidate in (best, other):
        candidate.rates = []
        candidate.latencies_ms = []
    for turn in range(times * arguments.rounds):
        for candidate in (best, other) if turn % 2 else (other, best):
            candidate.ask(bodies, arguments.concurrency, arguments.seconds)


def is_better(best: Candidate, other: Candidate, p99_ms: float | None) -> bool:
    """Whether `other` answered more in every round, within the objective where there is one."""
    if p99_ms is not None and (best.p99_ms > p99_ms) != (other.p99_ms > p99_ms):
        return other.p99_ms <= p99_ms
    return all(new > old for old, new in zip(best.rates, other.rates, strict=True))


def is_confirmed(against: Mapping[str, Any], p99_ms: float | None) -> bool:
    """Whether the choice is still the better one when both are measured again."""
    if p99_ms is not None:
        kept = bool(against["p99_ms"] <= p99_ms)
        kept_before = bool(against["beside_p99_ms"] <= p99_ms)
        if kept != kept_before:
            return kept
    return bool(against["ratio"] > 1)


def _row(best: Candidate, other: Candidate) -> dict[str, Any]:
    """A candidate against the best: medians over rounds, and the smallest and largest ratio of a round."""
    ratios = [new / old for old, new in zip(best.rates, other.rates, strict=True)]
    return {
        **asdict(other.settings),
        "rps": float(np.median(other.rates)),
        "beside_rps": float(np.median(best.rates)),
        "ratio": float(np.median(ratios)),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "p99_ms": other.p99_ms,
        "beside_p99_ms": best.p99_ms,
        "memory_mb": other.server.resident_mb(),
    }


def table(tried: Sequence[Mapping[str, Any]]) -> str:
    """For people: one row a candidate, in the order of trying."""
    columns = ("workers", "threads", "batch_size", "batch_delay_ms", "netty_threads", "rps", "p99_ms")
    rows = [
        [*(row.get(name) for name in columns), _spread(row), row.get("memory_mb"), row["verdict"]]
        for row in tried
    ]
    headers = ["workers", "threads", "batch", "delay ms", "netty", "requests/s", "p99 ms"]
    return tabulate(rows, [*headers, "vs the best (range)", "MB", ""], floatfmt=".0f", missingval="–")


def _spread(row: Mapping[str, Any]) -> str | None:
    return (
        f"{row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if "ratio" in row else None
    )


def verdict(start: Settings, chosen: Settings, against: Mapping[str, Any] | None) -> str:
    if against is None:
        return "nothing changes: no settings were faster in every round"
    if chosen == start:
        return f"nothing changes: the best settings were not faster when measured again ({_spread(against)})"
    changed = ", ".join(
        f"{name} {old} -> {new}"
        for (name, old), new in zip(asdict(start).items(), asdict(chosen).values(), strict=True)
        if old != new
    )
    return f"chosen: {changed}; measured again: {_spread(against)}"


def set_netty_threads(config: Path, number: int) -> None:
    """Replace that line of a `config.properties`, or add it; the rest stays as it is."""
    line = f"{NETTY}={number}"
    content = config.read_text(encoding="utf-8").rstrip("\n")
    changed, found = re.subn(rf"(?m)^[ \t]*{NETTY}[ \t]*=.*$", line, content)
    write_text(config, changed + ("\n" if found else f"\n{line}\n"))
