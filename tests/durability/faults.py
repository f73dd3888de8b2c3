"""Calls to the system that fail, one at a time, under whole commands: a scoring job, an export, a training.

A first run, traced, finds the calls that touch the output (write, fsync, rename, open and their like); then
the command runs once for each of them and each error that it may give. Needs strace; leaves out calls that
fail for good from some moment on, which the tests of full disks make.

    python -m tests.durability.faults scoring --of ARTIFACT --folder /tmp/faults --trials 60
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from handler.artifact import DESCRIPTION, file_sha256, open_artifact
from handler.errors import UserError

ROOT = Path(__file__).parents[2]
DISK, NAMES = ("ENOSPC", "EIO"), ("EIO", "EROFS", "EACCES")
ERRORS = {
    "write": DISK,
    "pwrite64": DISK,
    "writev": DISK,
    "ftruncate": DISK,
    "sendfile": DISK,
    "copy_file_range": DISK,
    "fsync": DISK,
    "rename": NAMES,
    "renameat2": NAMES,
    "link": NAMES,
    "unlink": NAMES,
    "mkdir": (*NAMES, "ENOSPC"),
    "openat": (*NAMES, "ENOSPC", "EMFILE"),
}
# The same calls in the same order in every run; nothing is asked of the net.
SURROUNDINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LONGEST_S = 300
ROWS, PART_ROWS = 60, 20
YESTERDAY = b"of yesterday\n"
OLD_SEED, SEED = 3, 7


@dataclass(frozen=True)
class Point:
    """A call that touches the output: the `number`th of its name in its thread; and the error it gives."""

    call: str
    number: int
    error: str


@dataclass(frozen=True)
class Work:
    """`prepare` puts there what was there before, `command` does the work below a folder, and `seen` says
    what is there: old, new, or what is wrong."""

    command: Callable[[Path], list[str]]
    prepare: Callable[[Path], None]
    seen: Callable[[Path], str]


def scoring(folder: Path, artifact: Path, rows: int = ROWS) -> Work:
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"text": f"text {row}", "id": row}) + "\n" for row in range(rows)))

    def command(place: Path) -> list[str]:
        wanted = ["--artifact", artifact, "--file", source, "--output", place / "out.jsonl"]
        return ["handler", "predict", *map(str, wanted), "--part-rows", str(PART_ROWS), "--threads", "1"]

    def seen(place: Path) -> str:
        if not (place / "out.jsonl").is_file():
            return "nothing"
        content = (place / "out.jsonl").read_bytes()
        if content == YESTERDAY:
            return "old"
        try:
            found = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            return "neither"
        answered = [row["id"] for row in found if row["label"] and row["error"] is None]
        return "new" if answered == list(range(rows)) else "neither"

    def prepare(place: Path) -> None:
        (place / "out.jsonl").write_bytes(YESTERDAY)

    return Work(command, prepare, seen)


def export(folder: Path, checkpoint: Path) -> Work:
    kept = folder / "kept"

    def command(place: Path) -> list[str]:
        given = ["--checkpoint", checkpoint, "--artifacts", place / "artifacts"]
        return ["export", "build", "fp32", *map(str, given)]

    def prepare(place: Path) -> None:
        if not kept.exists():
            done = run(command(kept))
            assert done.returncode == 0, done.stderr
            description = kept / "artifacts" / "fp32" / DESCRIPTION
            meta = json.loads(description.read_text())
            description.write_text(json.dumps(meta | {"build": meta["build"] | {"inputs_sha256": "old"}}))
        shutil.copytree(kept / "artifacts", place / "artifacts")

    return Work(command, prepare, exported)


def exported(place: Path) -> str:
    try:
        artifact = open_artifact(place / "artifacts" / "fp32")  # checks every sum
    except UserError as error:
        return str(error)
    return "old" if artifact.meta.build.inputs_sha256 == "old" else "new"


def training(folder: Path, checkpoint: Path) -> Work:
    """A training whose figures and weights are known from a run without faults."""
    kept = {OLD_SEED: folder / "kept-old", SEED: folder / "kept-new"}

    def seeded(place: Path, seed: int) -> list[str]:
        recipe = ["--base", "random:tiny", "--epochs", "1", "--precision", "fp32", "--seed", str(seed)]
        return ["training", "--data", "demo", *recipe, "--output", str(place / "checkpoint")]

    def prepare(place: Path) -> None:
        for seed, there in kept.items():
            if not there.exists():
                done = run(seeded(there, seed))
                assert done.returncode == 0, done.stderr
        shutil.copytree(kept[OLD_SEED] / "checkpoint", place / "checkpoint")

    def seen(place: Path) -> str:
        for word, seed in (("old", OLD_SEED), ("new", SEED)):
            if sums(place / "checkpoint") == sums(kept[seed] / "checkpoint"):
                return word
        return "nothing" if not (place / "checkpoint").exists() else "neither"

    return Work(lambda place: seeded(place, SEED), prepare, seen)


def sums(folder: Path) -> dict[str, str]:
    """Of a checkpoint's files; of its figures and its page, which hold times, the seed."""
    found = {}
    for path in folder.rglob("*"):
        if path.name == "checkpoint.json":
            found[path.name] = str(json.loads(path.read_text())["seed"])
        elif path.name == "README.md":
            found[path.name] = "there"
        elif path.is_file():
            found[path.relative_to(folder).as_posix()] = file_sha256(path)
    return found


def run(command: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    """`python -m …` from the checkout, after the words of another program."""
    whole = [*before, sys.executable, "-m", *command]
    surroundings = os.environ | SURROUNDINGS
    pipe = subprocess.PIPE
    with subprocess.Popen(
        whole, cwd=ROOT, env=surroundings, stdout=pipe, stderr=pipe, text=True, process_group=0
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(whole, process.returncode, stdout, stderr)


def traced(command: list[str], traces: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """A command whose calls are written to `traces`, a file for each thread."""
    shutil.rmtree(traces, ignore_errors=True)
    traces.mkdir(parents=True)
    return run(
        command, "strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-s0", "-o", str(traces / "of"), *settings
    )


def calls(traces: Path) -> Iterator[tuple[str, int, str]]:
    """(call, its number in its thread, the whole line) of each call that was traced."""
    for file in sorted(traces.iterdir()):
        numbers: Counter[str] = Counter()
        for line in file.read_text(errors="replace").splitlines():
            if found := re.match(r"(\w+)\(", line):
                numbers[found[1]] += 1
                yield found[1], numbers[found[1]], line


def points(work: Work, folder: Path) -> list[Point]:
    """The calls of a run without faults that touch the output, in the order in which they are tried: each
    kind in turn, at random moments."""
    place = begun(work, folder)
    done = traced(work.command(place), folder / "traces", f"-etrace={','.join(ERRORS)}")
    assert done.returncode == 0, done.stderr
    assert work.seen(place) == "new", work.seen(place)
    (folder / "left.json").write_text(json.dumps(sorted(names(place))))
    kinds: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for call, number, line in calls(folder / "traces"):
        if f"{place}/" in line and not re.search(r"= -1 E", line):
            for error in ERRORS[call]:
                kinds[call, error].append(Point(call, number, error))
    for kind in kinds.values():
        random.shuffle(kind)
    return [point for turn in zip_longest(*kinds.values()) for point in turn if point]


def begun(work: Work, folder: Path) -> Path:
    """The folder of a trial, with what was there before."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    work.prepare(place)
    return place


def names(place: Path) -> set[str]:
    """What lies there but for what trackers write, whose names hold the time."""
    found = {path.relative_to(place).as_posix() for path in place.rglob("*")}
    return {name for name in found if not name.startswith("runs")}


def trial(work: Work, point: Point, folder: Path) -> str:
    """What comes of a command of which one call fails, and of the same command afterwards."""
    place = begun(work, folder)
    inject = f"-einject={point.call}:error={point.error}:when={point.number}"
    done = traced(work.command(place), folder / "traces", f"-etrace={point.call}", inject)
    failed = [line for _, _, line in calls(folder / "traces") if "(INJECTED)" in line]
    (folder / "last.txt").write_text("\n".join([str(point), *failed, done.stdout, done.stderr]))
    found = work.seen(place)
    if found not in ("old", "new"):
        return f"FAULT: {found}"
    if not done.returncode and found != "new":
        return f"FAULT: {found}, and it was called done"
    if not failed or not all(f"{place}/" in line for line in failed):
        return "another call failed, since this run made others: not counted"
    if "Traceback" in done.stderr:
        return "FAULT: a traceback"
    if done.returncode and not re.search(r"^error: .", done.stderr, re.MULTILINE):
        return f"FAULT: exit status {done.returncode} without a sentence"
    again = run(work.command(place))
    if again.returncode or work.seen(place) != "new":
        return f"FAULT: again: {again.returncode}, {work.seen(place)}: {again.stderr[-1000:]}"
    if left := names(place) - set(json.loads((folder / "left.json").read_text())):
        return f"FAULT: left about: {sorted(left)}"
    return f"{found}, {'a sentence' if done.returncode else 'done'}; again: new"


def lacking() -> str:
    """Why nothing can be tried here; empty where it can."""
    if not shutil.which("strace"):
        return "there is no strace"
    command = ["strace", "-f", "--seccomp-bpf", "-einject=fsync:error=EIO", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


WORKS = {"scoring": scoring, "export": export, "training": training}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--of", type=Path, help="scoring: an artifact; export: a tiny checkpoint")
    parser.add_argument("--folder", type=Path, required=True, help="for the output and the traces")
    parser.add_argument("--trials", type=int, help="default: every call, with every error")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if why := lacking():
        raise SystemExit(f"calls cannot be made to fail here: {why}")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    random.seed(arguments.seed)
    work = WORKS[arguments.work](folder, arguments.of and arguments.of.resolve())
    found = points(work, folder)
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with suppress(KeyboardInterrupt):  # the table is of what was tried
        for number, point in enumerate(found[: arguments.trials]):
            outcome = trial(work, point, folder)
            outcomes[point.call][outcome] += 1
            if "FAULT" in outcome:
                kept = folder / f"fault-{number}.txt"
                shutil.copy(folder / "last.txt", kept)
                print(f"{point}: {outcome} ({kept})", file=sys.stderr, flush=True)
    whole = sum(outcomes.values(), Counter())
    said = {"work": arguments.work, "calls": len(found), "trials": whole.total()}
    print(json.dumps(said | {"outcomes": dict(whole.most_common()), "by_call": outcomes}, indent=2))
    return int(any("FAULT" in outcome for outcome in whole))


if __name__ == "__main__":
    sys.exit(main())
