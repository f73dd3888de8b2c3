"""Promotion: make an archive the served one, if its variant is proven to be equal to fp32."""

import json
import shutil
from pathlib import Path

from common.atomic import make_folder, replacing
from common.records import plain
from common.signing import SecretKey, sign, signature_of, verify
from export.archives.package import CHUNK, write_certified
from handler.artifact import Artifact, archived_artifact
from handler.errors import UserError
from training.measures.certificate import Certificate, archived, faults, strangers
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
    certificate: Certificate | None = None,
    sign_key: Path | None = None,
) -> Path:
    """Copy `<name>-<variant>.mar` from the folder `archives` (None: `store`) to `store` as `<name>.mar`, the
    archive that is served.

    The archive's content decides. Its signature is copied too, unless it gets a `certificate`: then it is
    signed anew with the `sign_key`, or not at all. Raises `UserError` if there is no such archive, if no
    `trusted_key` signed it, if it does not hold the artifact `sha256` (if given) or that of the certificate,
    if the screen at export found that it is not equal to fp32, or if the gate's `ledger` (if given) has no
    PASS for it; where there is no such file, if its own certificate has none.
    """
    if sign_key is not None:
        SecretKey.read(sign_key)  # before anything is written
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
        _require_pass(variant, inside, ledger)
    if certificate is not None and (differing := strangers(certificate, inside)):
        raise UserError(
            "the certificate is not that of the archive",
            seen=f"{archive}: {'; '.join(differing)}",
            remedy="Select again: python -m benchmarks select",
        )
    make_folder(store)
    target = store / f"{name}.mar"
    _write(archive, target, certificate, sign_key)
    return target


def _write(archive: Path, target: Path, certificate: Certificate | None, sign_key: Path | None) -> None:
    with archive.open("rb") as source, replacing(target) as file:
        if certificate is None:
            shutil.copyfileobj(source, file, CHUNK)
        else:
            write_certified(archive, json.dumps(plain(certificate), indent=2, ensure_ascii=False), file)
        signature_of(target).unlink(missing_ok=True)  # never that of another archive
    if sign_key is not None:
        sign(target, sign_key)
    elif certificate is None and signature_of(archive).is_file():
        with signature_of(archive).open("rb") as source, replacing(signature_of(target)) as file:
            shutil.copyfileobj(source, file, CHUNK)


def _require_pass(variant: str, inside: Artifact, path: Path) -> None:
    """Refuse a variant that was not proven on the gate's texts: by the ledger at `path`, or by the archive's
    certificate where there is no ledger."""
    ledger = read_ledger(path)
    if ledger is None and (certificate := archived(inside.folder)):
        if wrong := strangers(certificate, inside) + faults(certificate):
            raise UserError(
                f"the certificate of {variant} proves nothing",
                seen="; ".join(wrong),
                remedy="Fetch the archive again, or promote it anyway with --force",
            )
        return
    found = look_at(ledger, inside.sha256) if ledger else None
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
