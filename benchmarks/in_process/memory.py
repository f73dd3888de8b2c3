"""What it costs to run a variant: start-up time, memory, disk.

Every figure comes from a fresh process per variant (`worker`), so it includes no import and no page of
another variant. The files were read before, when their checksums were verified, so start times are those of a
warm page cache.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.in_process.pool import Pool
from benchmarks.in_process.worker import ROOT
from benchmarks.names import REFERENCE
from benchmarks.progress import Step
from handler.artifact import Artifact

MB = 1e6


def start(
    pool: Pool,
    artifacts: Mapping[str, Artifact],
    baselines: Mapping[str, Path],
    threads: int | None,
    first_text: str,
    step: Step,
) -> dict[str, dict[str, Any]]:
    """Load every variant, then every baseline, one after the other; `load_s`, `warm_s`, `first_answer_ms` and
    so on by name. Baselines get as many threads as the variants. The pool knows from then on who is on a
    GPU."""
    started = {}
    for name in [name for name in pool.names if name in artifacts]:
        folder = str(artifacts[name].folder.resolve())
        with step(f"start of {name}"):
            answer = pool.load(name, "load", folder=folder, threads=threads, first_text=first_text)
        if answer is not None:
            started[name] = answer
    alike = {"threads": started[REFERENCE]["threads"], "max_length": artifacts[REFERENCE].max_length}
    for name in pool.baselines:
        folder = str(baselines[name].resolve())
        with step(f"start of {name}"):
            answer = pool.load(
                name, "load_baseline", baseline=name, folder=folder, first_text=first_text, **alike
            )
        if answer is not None:
            started[name] = answer
    pool.on_cuda = frozenset(name for name, facts in started.items() if facts["device"].startswith("cuda"))
    return started


def finish(
    pool: Pool, started: Mapping[str, dict[str, Any]], sizes: Mapping[str, int], archives: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """The report's `resources` of every variant and baseline still there, peak memory included; `sizes` are
    bytes on disk."""
    bare = bare_interpreter_bytes()
    resources = {}
    for name in pool.rows:
        peak = pool.ask(name, "peak")
        if peak is None:
            continue
        resources[name] = started[name] | {
            "peak_rss_mb": peak / MB,
            "bare_interpreter_mb": bare / MB,
            "peak_above_bare_mb": (peak - bare) / MB,
            "artifact_mb": sizes[name] / MB,
            "archive_mb": archives[name].stat().st_size / MB if name in archives else None,
        }
    return resources


def bare_interpreter_bytes() -> int:
    """Peak memory of a Python that has loaded nothing of a model."""
    program = "from benchmarks.in_process.worker import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return int(done.stdout)
