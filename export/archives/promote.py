"""Promotion: make an archive the served one, if its variant is proven to be equal to fp32."""

import shutil
from pathlib import Path

from common.atomic import make_folder, replacing
from common.signing import signature_of, verify
from export.archives.package import CHUNK
from handler.artifact import archived_artifact
from handler.errors import UserError
from training.measures.gate_ledger import look_at, read_ledger
from training.measures.noninferiority import MAY_HAVE_SEEN, PASS, SHOW_UNSEEN, UNPROVEN


def promote(
    variant: str,
    store: Path,
    *,
    name: str = "hate",
    archives: Path | None = None,
    sha256: str | None = None,
    ledger: Path | None = None,
    force: bool = False,
    trusted_key: Path | None = None,
) -> Path:
    """Copy `<name>-<variant>.mar` from the folder `archives` (None: `store`) to `store` as `<name>.mar`, the
    archive that is served.

    The archive's content decides; its signature is copied too. Raises `UserError` if there is no such
    archive, if no `trusted_key` signed it, if it does not hold the artifact `sha256` (if given), if the
    screen at export found that it is not equal to fp32, or if the gate's `ledger` (if given) has no PASS for
    it.
    """
    archive = (archives or store) / f"{name}-{variant}.mar"
    if not archive.is_file():
        raise UserError("there is no such archive", seen=archive, remedy="Build it: python -m export package")
    verify(archive, trusted_key)
    inside = archived_artifact(archive)
    if sha256 is not None and inside.sha256 != sha256:
        raise UserError(
            "the archive does not hold the artifact that was measured",
            seen=archive,
            remedy="Package and measure again: python -m export package, python -m benchmarks run and select",
        )
    check = inside.meta.check
    if not check.equal and not force:
        raise UserError(
            f"{variant} is not promoted",
            seen=check.note,
            remedy="Choose another variant, or promote it anyway with --force",
        )
    if ledger is not None and not force and inside.meta.parent is not None:
        _require_pass(variant, inside.sha256, ledger)
    make_folder(store)
    target = store / f"{name}.mar"
    with archive.open("rb") as source, replacing(target) as file:
        shutil.copyfileobj(source, file, CHUNK)
        signature_of(target).unlink(missing_ok=True)  # never that of another archive
    if signature_of(archive).is_file():
        with signature_of(archive).open("rb") as source, replacing(signature_of(target)) as file:
            shutil.copyfileobj(source, file, CHUNK)
    return target


def _require_pass(variant: str, sha256: str, path: Path) -> None:
    """Refuse a variant that was not proven on the gate's texts."""
    ledger = read_ledger(path)
    found = look_at(ledger, sha256) if ledger else None
    if found is None:
        raise UserError(
            f"nothing proves that {variant} is equal to fp32",
            seen=f"no verdict on it in {path}",
            remedy=f"Measure it: python -m benchmarks run {variant}; or promote it anyway with --force",
        )
    look, run = found
    if look.verdict == UNPROVEN:
        raise UserError(
            f"{variant} is not proven to be equal to fp32",
            seen=f"{look.verdict}: {MAY_HAVE_SEEN}",
            remedy=f"Either {SHOW_UNSEEN}, or promote it anyway with --force",
        )
    if look.verdict != PASS:
        raise UserError(
            f"{variant} is not proven to be equal to fp32",
            seen=f"{look.verdict} at a margin of {run.margin:g} (p = {look.p:.2g}, {look.level:.2g} needed)",
            remedy="Choose another variant, or promote it anyway with --force",
        )
