"""`python -m benchmarks certify`: recompute what an archive's certificate says."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.names import REFERENCE
from benchmarks.verbs.labelling import shown
from common.commands import emit, say
from common.options import ARCHIVE, ARTIFACTS, add_threads
from common.records import plain
from common.signing import add_trusted_key, verify
from handler.artifact import open_artifact, unpacked
from handler.errors import UserError

if TYPE_CHECKING:
    from benchmarks.certificate import Check
    from training.measures.certificate import Certificate


def certify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, nargs="?", default=ARCHIVE, help="default: %(default)s")
    parser.add_argument(
        "--ledger", type=Path, help="the gate's ledger, to see whether the certificate has all of its looks"
    )
    parser.add_argument(
        "--gate",
        type=Path,
        metavar="FOLDER|FILE",
        help="the gate's texts and labels, to have them answered anew: the checkpoint, whose data has them "
        "(DATA_DIR), or a table with the columns text and label",
    )
    parser.add_argument(
        "--fp32",
        type=Path,
        default=ARTIFACTS / REFERENCE,
        help="with --gate, the artifact of fp32; default: %(default)s",
    )
    add_threads(parser)
    add_trusted_key(parser)


def certify(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something contradicts the certificate."""
    from benchmarks.certificate import check_alone, check_ledger, read_certificate
    from benchmarks.report.certificate_card import card
    from training.measures.gate_ledger import read_ledger

    archive = arguments.archive
    verify(archive, arguments.trusted_key)
    certificate = read_certificate(archive)
    checks = check_alone(archive, certificate)
    if arguments.ledger:
        if (ledger := read_ledger(arguments.ledger)) is None:
            remedy = "Check the path"
            raise UserError("there is no ledger", seen=arguments.ledger, remedy=remedy)
        checks.append(check_ledger(certificate, ledger))
    if arguments.gate:
        checks += _answered_anew(arguments, certificate)
    say("\n".join(f"{name:<12} {words}" for name, words in card(certificate)) + "\n")
    for check in checks:
        say(f"against {check.against}: {'; '.join(check.faults) or f'it holds ({check.found})'}")
    if arguments.trusted_key is None:
        say("nobody vouches for its counts but who wrote the archive: no --trusted-key was given")
    contradicting = [check for check in checks if check.faults]
    holds = not contradicting
    say(_conclusion(contradicting))
    emit({"holds": holds, "checks": [asdict(check) for check in checks], "certificate": plain(certificate)})
    return 0 if holds else 1


def _conclusion(contradicting: "list[Check]") -> str:
    if not contradicting:
        return "the certificate holds"
    if all(check.is_outdated for check in contradicting):
        return "the certificate is out of date"
    return "THE CERTIFICATE DOES NOT HOLD"


def _answered_anew(arguments: argparse.Namespace, certificate: "Certificate") -> "list[Check]":
    """The gate's texts, answered by the archive's variant and by fp32 on this machine."""
    from benchmarks.certificate import check_texts, read_gate

    reference = open_artifact(arguments.fp32)
    gate = read_gate(arguments.gate, certificate)
    with tempfile.TemporaryDirectory(prefix="certify-") as scratch:
        artifact = unpacked(arguments.archive, Path(scratch))
        return check_texts(certificate, artifact, reference, gate, arguments.threads, shown)
