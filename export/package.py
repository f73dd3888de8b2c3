"""Archives: an artifact, the handler that serves it, and TorchServe's settings, in one deterministic `.mar`.

The same artifact gives the same bytes. All archives carry the same model name, so promotion is a copy.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

from handler.artifact import DESCRIPTION, Artifact, open_artifact
from handler.errors import UserError

HANDLER = Path(__file__).parents[1] / "handler"

# What of `handler/` ships. No command line, no file reader: an archive holds only what serving needs.
SHIPPED = (
    "__init__.py",
    "artifact.py",
    "batching.py",
    "errors.py",
    "machine.py",
    "predictor.py",
    "requests.py",
    "runtimes.py",
)

# One worker with all threads beats two workers with half of them each on few cores; a delay of 1 ms
# drains what has queued while the last batch ran (0 would cap batches at 2) and costs a lone request 1 ms.
MODEL_CONFIG = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 32,
    "maxBatchDelay": 1,
    "responseTimeout": 60,
    "startupTimeout": 300,
    "deviceType": "cpu",
    "handler": {"threads": 0, "maxTexts": 256, "maxCharacters": 100_000},
}


def package(artifact: Artifact, store: Path, *, name: str = "hate", version: str = "1.0") -> Path:
    """Write `store/<name>-<variant>.mar` atomically and return its path."""
    store.mkdir(parents=True, exist_ok=True)
    target = store / f"{name}-{artifact.name}.mar"
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # A scratch folder of our own: the archiver stages under the model's name in the temporary folder,
    # where two runs at once would destroy each other.
    with tempfile.TemporaryDirectory(dir=store, prefix=".staging-") as scratch:
        tree = _archive_tree(artifact, Path(scratch), name, version)
        try:
            _write_zip(tree, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _archive_tree(artifact: Artifact, scratch: Path, name: str, version: str) -> Path:
    """Let torch-model-archiver lay out the archive as a folder; the path of that folder."""
    extra = scratch / "extra"
    (extra / "handler").mkdir(parents=True)
    for module in SHIPPED:
        shutil.copy(HANDLER / module, extra / "handler" / module)
    for path in (DESCRIPTION, *artifact.meta["files"]):
        destination = extra / "artifact" / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(artifact.folder / path, destination)
    config = scratch / "model-config.yaml"
    config.write_text(yaml.safe_dump(MODEL_CONFIG, sort_keys=False))
    staging, laid_out = scratch / "staging", scratch / "laid-out"
    staging.mkdir()
    laid_out.mkdir()
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--archive-format", "no-archive"]
    command += ["--model-name", name, "--version", version, "--handler", str(HANDLER / "hate_handler.py")]
    command += ["--extra-files", str(extra), "--config-file", str(config), "--export-path", str(laid_out)]
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(staging)}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            "torch-model-archiver failed",
            seen=done.stderr.strip()[-500:],
            remedy="Check the free disk space and make install",
        )
    manifest = laid_out / name / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["createdOn"] = "01/01/1980 00:00:00"  # the one thing that differs between two runs
    manifest.write_text(json.dumps(content, indent=2))
    return laid_out / name


def _link_or_copy(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without hard links
        shutil.copy(source, destination)


def _write_zip(tree: Path, target: Path) -> None:
    """Sorted entries, fixed dates, no compression: weights hardly shrink, and workers start sooner."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix())  # dated 1980, the zip format's zero
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as destination:
                shutil.copyfileobj(source, destination, 1 << 20)


def promote(variant: str, store: Path, artifacts: Path, *, name: str = "hate", force: bool = False) -> Path:
    """Make `<name>-<variant>.mar` the archive that is served as `<name>.mar`.

    Raises `UserError` when there is no such archive, or when its check says that it is not equal to fp32.
    """
    archive = store / f"{name}-{variant}.mar"
    if not archive.is_file():
        raise UserError("there is no such archive", seen=archive, remedy="Build it: make export package")
    check = open_artifact(artifacts / variant, verify=False).meta["check"]
    if not check["equal"] and not force:
        raise UserError(
            f"{variant} is not equal to fp32 by its check and is not promoted",
            seen=f"macro-F1 drop {check['macro_f1_drop']}, label agreement {check['label_agreement']}",
            remedy="Choose another variant, or promote it all the same with --force",
        )
    target = store / f"{name}.mar"
    partial = store / f".{target.name}.{os.getpid()}.partial"
    try:
        shutil.copyfile(archive, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def archived_artifact(archive: Path) -> dict:
    """The `artifact.json` inside an archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return json.loads(opened.read(f"artifact/{DESCRIPTION}"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            "this is not an archive of ours", seen=archive, remedy="Build it: make package"
        ) from error
