"""Archives: an artifact, the handler that serves it, and TorchServe's settings, in one deterministic `.mar`.

The same artifact gives the same bytes. All archives carry the same model name, so promotion is a copy.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from common.atomic import make_folder, replacing
from common.signing import signature_of
from handler.artifact import CERTIFICATE, DESCRIPTION, Artifact, check_identifier
from handler.errors import UserError

HANDLER = Path(__file__).parents[2] / "handler"

# The folder ships without its command line. TorchServe gets the handler itself by name.
ENTRY = "classifier_handler.py"
SHIPPED = tuple(sorted({path.name for path in HANDLER.glob("*.py")} - {"__main__.py", ENTRY}))

# One worker with all threads beats two workers with half of them each on few cores; a delay of 1 ms
# drains what has queued while the last batch ran (0 would cap batches at 2) and costs a lone request 1 ms.
MODEL_CONFIG: dict[str, Any] = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 32,
    "maxBatchDelay": 1,
    # A full batch of full requests, 32 x 128 texts of full length, takes fp32 of 66 M about 160 s on 2 cores.
    "responseTimeout": 300,
    "startupTimeout": 300,
    # TorchServe restarts a worker that dies, in the end every 89 s, and gives up for good after this time. A
    # week: with its default of five minutes, a short lack of memory or disk would end the service.
    "maxRetryTimeoutInSec": 604_800,
    "deviceType": "cpu",
    "handler": {
        "threads": 0,
        "maxTexts": 128,
        "maxCharacters": 100_000,
        "maxRequestCharacters": 500_000,
        "maxExplained": 2,
        "maxExplainedMs": 500,
        "maxCached": 0,
    },
}

# Settings that differ on GPUs. Without numbers of workers, TorchServe starts one for each GPU that nvidia-smi
# shows, assigns the GPUs to them in turn, and warns of an invalid model config (seen with TorchServe 0.12 and
# an nvidia-smi that reported three). default_workers_per_model in config.properties overrides the number. The
# batch size is a guess and not measured: 32 texts hardly use a GPU.
ON_GPU: dict[str, Any] = {"deviceType": "gpu", "batchSize": 256}
WORKERS = ("minWorkers", "maxWorkers")
CHUNK = 1 << 20  # bytes that are copied at once


def package(
    artifact: Artifact,
    store: Path,
    *,
    name: str = "hate",
    version: str = "1.0",
    tuned: Mapping[str, Any] | None = None,
) -> Path:
    """Write `store/<name>-<variant>.mar` atomically and return its path; `tuned` settings override ours."""
    for given in (name, version):
        try:
            check_identifier(given)
        except ValueError as error:
            remedy = "Choose another --name or --version"
            raise UserError("an archive cannot have this name", seen=error, remedy=remedy) from error
    make_folder(store)
    target = store / f"{name}-{artifact.name}.mar"
    # A scratch folder of our own: the archiver stages under the model's name in the temporary folder,
    # where two runs at once would destroy each other.
    with tempfile.TemporaryDirectory(prefix="package-") as scratch:
        ours = MODEL_CONFIG
        if "cpu" not in artifact.meta.devices:
            ours = {key: value for key, value in ours.items() if key not in WORKERS} | ON_GPU
        handler = MODEL_CONFIG["handler"] | (tuned or {}).get("handler", {})
        settings = ours | dict(tuned or {}) | {"handler": handler}
        code = _lay_out(Path(scratch), name, version, settings)
        files = {path.relative_to(code).as_posix(): path for path in code.rglob("*") if path.is_file()}
        files |= {f"artifact/{path}": artifact.folder / path for path in (DESCRIPTION, *artifact.meta.files)}
        with replacing(target) as file:
            _write_zip(files, file)
            signature_of(target).unlink(missing_ok=True)  # of what stood there
    return target


def _lay_out(scratch: Path, name: str, version: str, settings: Mapping[str, Any]) -> Path:
    """Let torch-model-archiver lay out handler, settings and manifest; the folder in which they lie."""
    extra = scratch / "extra"
    staging = scratch / "staging"
    laid_out = scratch / "laid-out"
    for folder in (extra / "handler", staging, laid_out):
        folder.mkdir(parents=True)
    for module in SHIPPED:
        shutil.copy(HANDLER / module, extra / "handler" / module)
    config = scratch / "model-config.yaml"
    config.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--archive-format", "no-archive"]
    command += ["--model-name", name, "--version", version, "--handler", str(HANDLER / ENTRY)]
    command += ["--extra-files", str(extra), "--config-file", str(config), "--export-path", str(laid_out)]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(staging)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(
            "torch-model-archiver failed",
            seen=done.stderr.strip()[-500:],
            remedy="Check the free disk space, and that torch-model-archiver is installed",
        )
    manifest = laid_out / name / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["createdOn"] = "01/01/1980 00:00:00"  # the one thing that differs between two runs
    manifest.write_text(json.dumps(content, indent=2))
    return laid_out / name


def _write_zip(files: Mapping[str, Path], target: IO[bytes]) -> None:
    """Sorted entries, fixed dates, no compression: weights hardly shrink, and workers start sooner."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(files.items()):
            with path.open("rb") as source:
                _add_entry(archive, name, source)


def _add_entry(archive: zipfile.ZipFile, name: str, source: IO[bytes]) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980, the zip format's zero
    entry.external_attr = 0o644 << 16
    with archive.open(entry, "w", force_zip64=True) as destination:
        shutil.copyfileobj(source, destination, CHUNK)


def write_certified(archive: Path, certificate: str, target: IO[bytes]) -> None:
    """Copy an archive to `target` with this certificate, its last entry, in the place of any other."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if name != CERTIFICATE:
                with old.open(name) as source:
                    _add_entry(new, name, source)
        _add_entry(new, CERTIFICATE, io.BytesIO(certificate.encode()))
