"""`python -m export package|promote|publish|fetch|verify|keygen|sign`: everything that handles archives."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import recover, recover_all
from common.commands import emit, positive_float, positive_int, say
from common.options import ARCHIVE, RESULTS, add_artifacts, add_ledger, add_name, add_store, ledger_of
from common.records import read
from common.signing import VARIABLE, add_trusted_key, make_keys, signature_of
from common.signing import sign as sign_file
from handler.artifact import DESCRIPTION, open_artifact
from handler.errors import UserError
from handler.records import plain

if TYPE_CHECKING:
    from training.measures.certificate import Certificate

SELECTION = RESULTS / "selection.json"


@dataclass(frozen=True)
class Selected:
    """A variant to promote. Of one that selection chose, the identity that was measured, and its certificate
    where there is one."""

    variant: str
    sha256: str | None = None
    certificate: "Certificate | None" = None


def package_arguments(parser: argparse.ArgumentParser) -> None:
    add_artifacts(parser)
    add_store(parser)
    add_name(parser)
    parser.add_argument("--version", default="1.0", help="version of the model; default: %(default)s")
    parser.add_argument(
        "--promote",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="promote the selected variant; use --no-promote before a rollout, so that a restart serves the "
        "old version",
    )
    parser.add_argument(
        "--tuning",
        type=Path,
        help="file written by python -m deploy tune; default: tuning.json next to --artifacts",
    )
    parser.add_argument("--sign-key", type=Path, metavar="FILE", help="secret key to sign each archive with")


def package(arguments: argparse.Namespace) -> int:
    from deploy.tuning.settings import settings_for
    from export.archives import package as packaging

    if arguments.tuning and not arguments.tuning.is_file():
        raise UserError(
            "the tuning file does not exist",
            seen=arguments.tuning,
            remedy="Make it: python -m deploy tune",
        )
    tuning = arguments.tuning or arguments.artifacts.parent / "tuning.json"
    recover_all(arguments.artifacts)
    folders = sorted(path.parent for path in arguments.artifacts.glob(f"[!.]*/{DESCRIPTION}"))
    if not folders:
        raise UserError(
            "there are no artifacts to package",
            seen=arguments.artifacts,
            remedy="Build them: python -m export build",
        )
    reference = open_artifact(arguments.artifacts / "fp32", verify=False).meta.build.checkpoint_sha256
    archives = {}
    for folder in folders:
        artifact = open_artifact(folder)
        if artifact.meta.build.checkpoint_sha256 != reference:
            say(f"{folder.name}: left out, not made from fp32's checkpoint; run python -m export build")
            continue
        tuned = settings_for(tuning, artifact.name, artifact.sha256)
        path = packaging.package(
            artifact, arguments.store, name=arguments.name, version=arguments.version, tuned=tuned
        )
        archives[folder.name] = str(path)
        if arguments.sign_key:
            sign_file(path, arguments.sign_key)
        say(f"{path} ({path.stat().st_size / 1e6:.1f} MB{', tuned' if tuned else ''})")
    promoted = None
    if arguments.promote:
        selected = _selected(arguments) or Selected("fp32")
        promoted = str(_promote_to(arguments, selected, arguments.store))
    emit({"archives": archives, "promoted": promoted})
    return 0


def promote_arguments(parser: argparse.ArgumentParser) -> None:
    add_artifacts(parser)
    add_store(parser)
    add_name(parser)
    parser.add_argument("variant", nargs="?", help="variant to promote; default: the selected one")
    parser.add_argument("--archives", type=Path, help="folder of the variants' archives; default: --store")
    add_ledger(parser)
    parser.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="secret key to sign the promoted archive with"
    )
    parser.add_argument("--force", action="store_true", help="even if it is not proven to be equal to fp32")
    add_trusted_key(parser)


def promote(arguments: argparse.Namespace) -> int:
    selected = Selected(arguments.variant) if arguments.variant else _selected(arguments)
    if selected is None:
        raise UserError(
            "no variant is selected",
            seen=SELECTION,
            remedy="Run python -m benchmarks select, or name a variant",
        )
    archives = arguments.archives or arguments.store
    promoted = _promote_to(
        arguments,
        selected,
        archives,
        ledger=None if selected.sha256 else ledger_of(arguments),
        force=arguments.force,
        trusted_key=arguments.trusted_key,
    )
    emit({"promoted": str(promoted)})
    return 0


def _promote_to(
    arguments: argparse.Namespace,
    selected: Selected,
    archives: Path,
    *,
    ledger: Path | None = None,
    force: bool = False,
    trusted_key: Path | None = None,
) -> Path:
    from export.archives.promote import promote as promote_archive

    recover(archives)
    certificate = selected.certificate
    archive = archives / f"{arguments.name}-{selected.variant}.mar"
    if certificate and not arguments.sign_key and signature_of(archive).is_file():
        say(f"{archive} is signed, so it is copied without its certificate; to have both, give --sign-key")
        certificate = None
    target = promote_archive(
        selected.variant,
        arguments.store,
        name=arguments.name,
        archives=archives,
        sha256=selected.sha256,
        ledger=ledger,
        force=force,
        trusted_key=trusted_key,
        certificate=certificate,
        sign_key=arguments.sign_key,
    )
    say(f"{target} is now {selected.variant}{', with its certificate' if certificate else ''}")
    return target


def _selected(arguments: argparse.Namespace) -> Selected | None:
    """What selection chose; None where it has changed since."""
    from training.measures.certificate import Certificate

    if not SELECTION.is_file():
        say("nothing is selected yet (python -m benchmarks run, then select)")
        return None
    try:
        choice = json.loads(SELECTION.read_text())
        variant = choice["selected"]
        sha256 = choice["artifact_sha256"]
        document = choice.get("certificate")
        certificate = None if document is None else read(document, Certificate)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the selection cannot be read", seen=SELECTION, remedy="Run python -m benchmarks select again"
        ) from error
    if variant is None:
        say("the last selection found no variant that qualifies")
        return None
    folder = arguments.artifacts / variant
    if not (folder / DESCRIPTION).is_file() or open_artifact(folder, verify=False).sha256 != sha256:
        say(f"{folder} has changed since {variant} was selected: run python -m benchmarks run, then select")
        return None
    return Selected(variant, sha256, certificate)


def publish_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_name(parser)
    parser.add_argument("destination", help="a path, s3://bucket/… or gs://bucket/…")
    parser.add_argument("variants", nargs="*", help="variants to publish; default: the served archive")
    parser.add_argument("--checkpoint", type=Path, help="folder of a checkpoint to publish as well")
    parser.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="secret key to sign archives and record with"
    )
    parser.add_argument("--force", action="store_true", help="replace what is published under this version")
    parser.add_argument(
        "--valid-s",
        type=positive_int,
        default=3600,
        help="seconds for which signed addresses of archives are valid; default: %(default)s",
    )


def publish(arguments: argparse.Namespace) -> int:
    from export.archives import publish as publishing

    names = [f"{arguments.name}-{variant}" for variant in arguments.variants] or [arguments.name]
    archives = [arguments.store / f"{name}.mar" for name in names]
    checkpoint = arguments.checkpoint
    if checkpoint is not None:
        from training.checkpoint import open_checkpoint

        open_checkpoint(checkpoint)  # what is none is not published
    published = publishing.publish(
        archives,
        arguments.destination,
        arguments.name,
        checkpoint=checkpoint,
        key=arguments.sign_key,
        force=arguments.force,
    )
    said = "published" if published.is_new else "already published with the same content"
    say(f"{published.place}: {said}, {len(published.record.files)} files with checksums")
    found = publishing.addresses(published, arguments.valid_s)
    emit({"place": published.place, **plain(published.record), "addresses": found})
    return 0


def fetch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", help="…/<name>/<version>")
    parser.add_argument(
        "--to", type=Path, default=Path("build/fetched"), help="folder to write; default: %(default)s"
    )
    parser.add_argument(
        "--most-gb", type=positive_float, default=20.0, help="largest version to accept; default: %(default)g"
    )
    parser.add_argument(
        "--self-check",
        action="store_true",
        help="load every archive, and see whether it gives the scores of its export here; this runs what is "
        "inside, so only for those whom you trust",
    )
    add_trusted_key(parser)


def fetch(arguments: argparse.Namespace) -> int:
    """Exit status 1 where an archive does not load here, or gives other scores."""
    from export.archives import publish as publishing

    key = arguments.trusted_key
    fetched = publishing.fetch(arguments.place, arguments.to, trusted_key=key, most_gb=arguments.most_gb)
    signed = f", signed by a key of {key}" if key else ""
    say(f"{arguments.to}: {len(fetched.record.files)} files, all checksums match{signed}")
    refused = False
    if arguments.self_check:
        from common.doctor import self_check

        for archive in sorted(arguments.to.glob("*.mar")):
            found = self_check(archive)
            fails = found.status == "fail"
            refused |= fails
            say(f"{archive}: {'NOT FOR THIS MACHINE: ' if fails else ''}{found.seen}")
    emit(fetched.record)
    return int(refused)


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, nargs="?", default=ARCHIVE, help="default: %(default)s")
    add_trusted_key(parser)


def verify(arguments: argparse.Namespace) -> int:
    from export.archives import verify as verifying

    verdict = verifying.verify(arguments.archive, arguments.trusted_key)
    outcome = "serves its artifact" if verdict.same else "DOES NOT SERVE its artifact"
    say(
        f"{arguments.archive} ({verdict.variant}) {outcome}: {verdict.texts} texts, "
        f"largest difference {verdict.max_diff:.1e}, allowed {verdict.bound:.1e}"
    )
    say(f"self-check: {verdict.self_check}")
    emit({**asdict(verdict), "same": verdict.same})
    return 0 if verdict.same else 1


def keygen_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "key",
        type=Path,
        nargs="?",
        default=Path("signing.key"),
        help="default: %(default)s, with .pub next to it",
    )


def keygen(arguments: argparse.Namespace) -> int:
    public = make_keys(arguments.key)
    say(f"{arguments.key} is the secret key: keep it private. {public} verifies: set {VARIABLE}={public}")
    emit({"secret": str(arguments.key), "public": str(public)})
    return 0


def sign_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=Path, nargs="+", help="what to sign, such as model_store/hate.mar")
    parser.add_argument("--key", type=Path, required=True, help="the secret key")


def sign(arguments: argparse.Namespace) -> int:
    signatures = {str(path): str(sign_file(path, arguments.key)) for path in arguments.paths}
    for signature in signatures.values():
        say(signature)
    emit(signatures)
    return 0
