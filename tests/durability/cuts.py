"""Power cuts at random moments of a scoring job, an export and a training, and what they leave.

The work writes to an ext4 file system in an image, which the kernel's own switch (EXT4_IOC_SHUTDOWN) ends at
once; the image is then mounted again, its journal replayed, and looked at. Leaves out: devices that lose what
they have acknowledged.

    unshare -m python -m tests.durability.cuts scoring --cuts 100 --folder /tmp/cuts
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

os.environ["OMP_NUM_THREADS"] = "1"  # processes are forked

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_FLUSH = 2  # not even of the journal
IMAGE_BYTES = 96 << 20
# By default ext4 writes the data of a file before a rename onto another; others do not, so neither here.
MOUNTS = ("noauto_da_alloc", "noauto_da_alloc,data=writeback,commit=1")
AFTER = 1.2  # some cuts fall after the work is done
ROWS, PART_ROWS = 1500, 50
SENTENCE = 2
SEED = 7  # of the training that is cut off


class Disk:
    """An ext4 file system that can be cut off."""

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "image", folder / "disk"
        self.place.mkdir(parents=True, exist_ok=True)

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"loop,{options}", self.image, self.place], check=True)

    def cut(self) -> None:
        descriptor = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_FLUSH))
        os.close(descriptor)

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)


@dataclass(frozen=True)
class Work:
    """`prepare` puts there what was there before, `do` works, `seen` says what is there: old, new, or what is
    wrong. `again` does it once more after the cut, where the same command goes on, and says what came of
    it."""

    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    seen: Callable[[Path], str]
    again: Callable[[Path], str] | None = None


def forked(task: Callable[[], None], log: Path) -> int:
    """Start `task` in a process of its own; exit status 2 is a sentence."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        from handler.errors import UserError

        with log.open("w") as said, redirect_stdout(said), redirect_stderr(said):
            try:
                task()
                status = 0
            except UserError as error:
                print(error)
                status = SENTENCE
            except BaseException:
                import traceback

                traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int) -> int | None:
    """The exit status of a process that has ended by itself."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def bystander(place: Path) -> None:
    """Another program that syncs a file of its own: the journal, with everybody's names, goes to the disk."""
    while True:
        with (place / "bystander").open("w") as file:
            file.write("x")
            file.flush()
            os.fsync(file.fileno())
        time.sleep(random.uniform(0.005, 0.1))


def one_cut(disk: Disk, work: Work, moment_s: float, options: str, log: Path) -> str:
    """What is found after a cut `moment_s` seconds into the work."""
    disk.make()
    disk.mount(options)
    work.prepare(disk.place)
    os.sync()
    other = forked(lambda: bystander(disk.place), log.with_suffix(".bystander"))
    worker = forked(lambda: work.do(disk.place), log)
    deadline = time.monotonic() + moment_s
    status = None
    while time.monotonic() < deadline and status is None:
        status = ended(worker)
        time.sleep(0.002)
    disk.cut()
    for pid in (other, *([] if status is not None else [worker])):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    disk.unmount()
    disk.mount("defaults")
    try:
        found = work.seen(disk.place)
        if status not in (None, 0):
            return f"FAULT: it failed before the cut: {log.read_text()[-2000:]}"
        if status == 0 and found != "new":
            return f"FAULT: {found}, and it had been called done"
        if found not in ("old", "new"):
            return f"FAULT: {found}"
        outcome = f"{found}, called done" if status == 0 else found
        if work.again:
            outcome += f"; {work.again(disk.place)}"
        return outcome
    finally:
        disk.unmount()


def scoring(folder: Path, artifact_folder: Path) -> Work:
    from handler.artifact import open_artifact
    from handler.predictor import Predictor
    from scoring.job import here, open_job, run_job
    from tests.durability import faults

    work = faults.scoring(folder, artifact_folder, ROWS)

    def do(place: Path) -> None:
        artifact = open_artifact(artifact_folder)
        source, output = folder / "in.jsonl", place / "out.jsonl"
        job = open_job(str(source), str(output), artifact, "text", None, PART_ROWS)
        run_job(job, here(Predictor(artifact, threads=1)))

    def again(place: Path) -> str:
        log = folder / "again.log"
        _, status = os.waitpid(forked(lambda: do(place), log), 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0 and work.seen(place) == "new":
            return "again: every row once"
        return f"again: {log.read_text()}" if code == SENTENCE else f"FAULT: again: {code} {log.read_text()}"

    return Work(work.prepare, do, work.seen, again)


def export(folder: Path, checkpoint_folder: Path) -> Work:
    """A build whose files are those of an earlier one, so that most of it is writing."""
    import export.build as building
    import export.variants  # noqa: F401 - registers the variants
    from common.atomic import write_json
    from export.registry import VARIANTS
    from export.source import Source
    from handler.artifact import DESCRIPTION
    from tests.durability.faults import exported
    from training.checkpoint import load_data, open_checkpoint

    checkpoint = open_checkpoint(checkpoint_folder)
    dataset = load_data(checkpoint)

    def do(place: Path) -> None:
        source = Source(checkpoint, dataset, place / "artifacts")
        building.build(VARIANTS["fp32"], source, lambda _: None)

    def copy_into(place: Path, *given: object) -> None:
        for path in (kept / "fp32").iterdir():
            if path.name != DESCRIPTION:
                shutil.copyfile(path, place / path.name)
        write_json(place / DESCRIPTION, new)

    kept = once(folder / "kept-artifact", do) / "artifacts"
    new = json.loads((kept / "fp32" / DESCRIPTION).read_text())
    old = new | {"build": new["build"] | {"inputs_sha256": "old"}}
    building._build_into = copy_into

    def prepare(place: Path) -> None:
        shutil.copytree(kept, place / "artifacts")
        (place / "artifacts" / "fp32" / DESCRIPTION).write_text(json.dumps(old))

    return Work(prepare, do, exported)


def training(folder: Path, checkpoint_folder: Path) -> Work:
    """The end of a training: the model, its tokenizer and the figures become the checkpoint."""
    import torch

    from handler.artifact import file_sha256
    from handler.errors import UserError
    from training.checkpoint import load_model, open_checkpoint, write_checkpoint

    former = open_checkpoint(checkpoint_folder)
    model, tokenizer = load_model(former)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    meta = structs.replace(former.meta, seed=SEED)

    def do(place: Path) -> None:
        write_checkpoint(place / "checkpoint", model, tokenizer, meta)

    new = file_sha256(once(folder / "kept-training", do) / "checkpoint" / "model.safetensors")
    old = file_sha256(checkpoint_folder / "model.safetensors")

    def seen(place: Path) -> str:
        try:
            checkpoint = open_checkpoint(place / "checkpoint")
            found = file_sha256(checkpoint.folder / "model.safetensors")
            load_model(checkpoint)  # its tokenizer and configuration, too
        except (UserError, OSError, ValueError):
            return "neither"
        kinds = {(old, former.meta.seed): "old", (new, SEED): "new"}
        return kinds.get((found, checkpoint.meta.seed), "neither")

    return Work(lambda place: copied(checkpoint_folder, place / "checkpoint"), do, seen)


def once(folder: Path, do: Callable[[Path], None]) -> Path:
    """Where the work was done once without a cut."""
    if not folder.exists():
        folder.mkdir()
        log = folder.with_suffix(".log")
        _, status = os.waitpid(forked(lambda: do(folder), log), 0)
        if status:
            shutil.rmtree(folder)
            raise SystemExit(log.read_text())
    return folder


def copied(source: Path, place: Path) -> None:
    shutil.copytree(source, place)


def duration_s(work: Work, folder: Path) -> float:
    """How long the work takes here, without a cut."""
    place = folder / "uncut"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    work.prepare(place)
    started = time.monotonic()
    log = folder / "uncut.log"
    _, status = os.waitpid(forked(lambda: work.do(place), log), 0)
    if status:
        raise SystemExit(log.read_text())
    assert work.seen(place) == "new"
    return time.monotonic() - started


WORKS = {"scoring": scoring, "export": export, "training": training}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--of", type=Path, required=True, help="scoring: an artifact; else a tiny checkpoint")
    parser.add_argument("--folder", type=Path, required=True, help="for the image and the logs")
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", type=float, default=0, dest="start", help="share of it before a cut")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = WORKS[arguments.work](folder, arguments.of.resolve())
    whole_s = duration_s(work, folder)
    moments = random.Random(arguments.seed)
    outcomes: Counter[str] = Counter()
    for number in range(arguments.cuts):
        moment_s = moments.uniform(arguments.start, AFTER) * whole_s
        mount = MOUNTS[number % len(MOUNTS)]
        outcome = one_cut(Disk(folder), work, moment_s, mount, folder / f"cut-{number}.log")
        outcomes[outcome] += 1
        if "FAULT" in outcome:
            print(f"cut {number} at {moment_s:.2f} s of {whole_s:.2f} s: {outcome}", file=sys.stderr)
    found = {"work": arguments.work, "seconds": round(whole_s, 2), "outcomes": dict(outcomes.most_common())}
    print(json.dumps(found, indent=2))
    return int(any("FAULT" in outcome for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
