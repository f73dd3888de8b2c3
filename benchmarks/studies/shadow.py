"""What does a shadow cost, and how soon does it find a damaged version? The app under an open loop, in turns.

Damaged versions are fp32 with noise on one layer's weights. Each is also compared off line, in many orders of
the texts, with the app's own comparison.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import psutil
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from benchmarks.sameness.shadows import NAME, Cost, Damage, Shadowed, excerpt
from benchmarks.served.open_loop import open_loop
from benchmarks.served.run import as_bodies, launched
from common.atomic import write_json
from common.commands import emit, not_negative_int, positive_float, positive_int, run, say, share
from common.environment import machine
from common.flips import flips_of, ways
from common.options import add_results
from common.proxies import open_url
from common.records import plain, read
from common.tables.texts import read_texts
from deploy.app.shadow import BATCH
from deploy.drift.judge import Counts, Rule
from deploy.drift.shares import FLIPS, count_flips, flip_shares
from deploy.drift.watch import Detectors
from deploy.torchserve.server import free_ports
from handler.artifact import DESCRIPTION, Artifact, describe_files, open_artifact, read_json
from handler.predictor import Predictor
from handler.self_check import FILE as SELF_CHECK

WARM_S = 3.0
LOOK_S = 0.2
READY_S = 300


@dataclass(frozen=True)
class App:
    """A running app."""

    address: str
    process: psutil.Process

    def shadow(self) -> dict[str, Any]:
        with open_url(f"{self.address}/models/hate", 10) as response:
            return dict(json.load(response).get("shadow", {}))

    def shadow_cpu_s(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in self.process.children())


@contextmanager
def app(served: Path, shadow: Path | None, drawn: float) -> Iterator[App]:
    (port,) = free_ports(1)
    command = ["-m", "deploy", "app", "--artifact", str(served), "--port", str(port)]
    if shadow:
        command += ["--shadow", str(shadow), "--shadow-share", str(drawn)]
    with launched(command, port, "/ready", "", os.environ) as running:
        found = App(running.predictions, running.worker)
        deadline = time.monotonic() + READY_S
        while shadow and not found.shadow()["is_up"] and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        yield found


def costs(served: Path, shadow: Path, bodies: Sequence[bytes], options: argparse.Namespace) -> list[Cost]:
    """Without the shadow and with it, in turns there and back, on two apps that are up all the time."""
    found: dict[str, list[list[float]]] = {"none": [], shadow.name: []}
    errors = dict.fromkeys(found, 0)
    with app(served, None, 0) as plain_app, app(served, shadow, options.share) as shadowed:
        apps = {"none": plain_app, shadow.name: shadowed}
        before = shadowed.shadow_cpu_s()
        for turn in tqdm(range(options.turns), unit=" turns", disable=None):
            for name in list(apps)[:: 1 if turn % 2 else -1]:
                seconds = options.seconds / options.turns
                url = f"{apps[name].address}/predict"
                load = open_loop(url, bodies, options.rate, seconds, turn, warm_s=WARM_S)
                found[name].append([each for each in load.latencies_ms if each is not None])
                errors[name] += sum(load.errors.values())
        state = shadowed.shadow()
        asked_s = options.seconds + WARM_S * options.turns
        cpus = (shadowed.shadow_cpu_s() - before) / asked_s
    return [
        Cost(
            shadow=name,
            answers=sum(map(len, turns)),
            errors=errors[name],
            p50_ms=float(np.percentile(np.concatenate(turns), 50)),
            p99_ms=float(np.percentile(np.concatenate(turns), 99)),
            p99_by_turn_ms=[float(np.percentile(each, 99)) for each in turns],
            compared=state["compared"] if name != "none" else 0,
            dropped=state["dropped"] if name != "none" else 0,
            shadow_cpus=cpus if name != "none" else 0.0,
        )
        for name, turns in found.items()
    ]


def damaged(fp32: Artifact, layer: str, noise: float, folder: Path) -> Artifact:
    """Without its self-check, which would refuse it."""
    shutil.copytree(fp32.folder, folder)
    (folder / SELF_CHECK).unlink(missing_ok=True)
    weights = load_file(folder / "model.safetensors")
    own = weights[layer]
    drawn = np.random.default_rng(0).normal(size=own.shape)
    weights[layer] = (own + noise * own.std() * drawn).astype(own.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    meta = json.loads((folder / DESCRIPTION).read_text())
    write_json(folder / DESCRIPTION, meta | {"files": describe_files(folder)})
    return open_artifact(folder)


def labels(artifact: Artifact, texts: Sequence[str]) -> list[str]:
    predictor = Predictor(artifact)
    predictions = tqdm(predictor.stream(texts), artifact.folder.name, len(texts), disable=None)
    return [str(predictor.answer(each)["label"]) for each in predictions]  # type: ignore[typeddict-item]


def to_alarm(before: Sequence[str], after: Sequence[str], kinds: Sequence[tuple[str, str]]) -> int | None:
    """Texts until the alarm, in batches as they are compared live."""
    detectors = Detectors(flip_shares({FLIPS: kinds}, Rule()), Rule())
    for start in range(0, len(before), BATCH):
        counts = Counts()
        for one, other in zip(before[start : start + BATCH], after[start : start + BATCH], strict=True):
            count_flips(counts, FLIPS, one, other)
        detectors.add(counts)
        if detectors.alarmed():
            return start + BATCH
    return None


def off_line(noise: float, served: Sequence[str], found: Sequence[str], of: Artifact, orders: int) -> Damage:
    rng = np.random.default_rng(0)
    kinds = ways(of.labels, of.multi_label)
    taken = []
    for _ in tqdm(range(orders), f"orders, noise {noise:g}", disable=None):
        order = rng.permutation(len(served))
        before, after = ([each[place] for place in order] for each in (served, found))
        taken.append(to_alarm(before, after, kinds))
    ordered = sorted(each if each is not None else np.inf for each in taken)
    middle, late = ordered[len(ordered) // 2], ordered[int(0.9 * len(ordered))]
    went = [way for one, other in zip(served, found, strict=True) for way in flips_of(one, other)]
    return Damage(
        noise=noise,
        texts=len(served),
        flips=len(went) / len(served),
        one_way=max((went.count(way) for way in set(went)), default=0) / max(1, len(went)),
        alarms=sum(each is not None for each in taken) / orders,
        median_texts=int(middle) if np.isfinite(middle) else None,
        p90_texts=int(late) if np.isfinite(late) else None,
    )


def live(served: Path, shadow: Path, bodies: Sequence[bytes], options: argparse.Namespace) -> int | None:
    """How many texts were compared when the alarm was first seen."""
    seen: list[int] = []
    with app(served, shadow, options.share) as running:
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(LOOK_S):
                try:
                    state = running.shadow()
                except HTTPError:  # the app has no connection left for it
                    continue
                if not seen and any(kind["alarms"] for kind in state["kinds"].values()):
                    seen.append(state["compared"])

        looking = threading.Thread(target=look)
        looking.start()
        begun = time.monotonic()
        while not seen and time.monotonic() - begun < options.seconds:
            open_loop(f"{running.address}/predict", bodies, options.rate, 10, int(time.monotonic() - begun))
        is_over.set()
        looking.join()
    return seen[0] if seen else None


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    texts = read_texts(options.texts)
    bodies = as_bodies(texts)
    found = costs(options.served, options.shadow, bodies, options) if options.turns else []
    few = texts[: options.most_texts]
    result = Shadowed(
        served=f"{options.served.name} beside {options.shadow.name}",
        machine=machine(),
        rate=options.rate,
        seconds=options.seconds,
        share=options.share,
        layer=options.layer,
        costs=found,
        damages=damages(few, bodies, options) if options.noise else [],
    )
    path = options.results / f"{NAME}.json"
    if path.is_file():
        _keep(read(read_json(path), Shadowed), result)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain(result))
    say(excerpt(result))
    emit(plain(result))
    return 0


def _keep(before: Shadowed, result: Shadowed) -> None:
    """What this run left out, if the same was served on the same machine before."""
    if (before.served, before.machine) != (result.served, result.machine):
        return
    result.damages = result.damages or before.damages
    if not result.costs:
        result.costs = before.costs
        result.rate, result.seconds, result.share = before.rate, before.seconds, before.share


def damages(texts: Sequence[str], bodies: Sequence[bytes], options: argparse.Namespace) -> list[Damage]:
    """Without noise, and with each."""
    served = open_artifact(options.served)
    fp32 = open_artifact(options.shadow)
    own = labels(served, texts)
    found = [off_line(0.0, own, labels(fp32, texts), served, options.orders)]
    with tempfile.TemporaryDirectory() as scratch:
        for noise in options.noise:
            version = damaged(fp32, options.layer, noise, Path(scratch, f"noise-{noise:g}"))
            found.append(off_line(noise, own, labels(version, texts), served, options.orders))
            if noise in options.live:
                found[-1].live_texts = live(options.served, version.folder, bodies, options)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.shadow", description=__doc__.split("\n")[0]
    )
    add_results(parser)
    parser.add_argument("--served", type=Path, default=Path("build/artifacts/openvino-int8"), help="a folder")
    parser.add_argument("--shadow", type=Path, default=Path("build/artifacts/fp32"), help="fp32's folder")
    parser.add_argument("--texts", type=Path, required=True, help="one per line")
    parser.add_argument("--rate", type=positive_float, default=200, help="requests per second (%(default)s)")
    parser.add_argument("--seconds", type=positive_float, default=300, help="of each side (%(default)s)")
    parser.add_argument(
        "--turns", type=not_negative_int, default=5, help="of each side; 0: no latencies (%(default)s)"
    )
    parser.add_argument("--share", type=share, default=0.1, help="that is compared (%(default)s)")
    parser.add_argument(
        "--layer", default="distilbert.transformer.layer.3.ffn.lin1.weight", help="that is damaged"
    )
    parser.add_argument("--noise", type=float, nargs="*", default=(0.5, 1.0, 2.0), help="%(default)s")
    parser.add_argument("--orders", type=positive_int, default=100, help="off line (%(default)s)")
    parser.add_argument("--most-texts", type=positive_int, default=6000, help="off line (%(default)s)")
    parser.add_argument("--live", type=float, nargs="*", default=(), help="noises that are served, too")
    return parser


if __name__ == "__main__":
    run(main)
