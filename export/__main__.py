"""`python -m export build|package|promote|sign|publish|fetch|verify`: from a checkpoint to archives."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

import export.variants  # noqa: F401 - registers the variants
from common.atomic import recover, recover_all
from common.commands import emit, positive_float, positive_int, run, say
from common.signing import VARIABLE, add_trusted_key, make_keys, sign
from export.registry import VARIANTS, choose, kind_of
from handler.artifact import DESCRIPTION, Artifact, open_artifact
from handler.errors import UnsupportedError, UserError

CHECKPOINT = Path("build/checkpoint")
SELECTION = Path("benchmarks/results/selection.json")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    return arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument(
        "--list", action="store_const", const=_list, dest="command", help="show every variant"
    )
    commands = parser.add_subparsers()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--artifacts", type=Path, default=Path("build/artifacts"), help="default: %(default)s"
    )

    build = commands.add_parser("build", parents=[common], help="build variants, prove and check them")
    build.add_argument("variants", nargs="*", help="names, default, all, cpu or gpu (default: default)")
    build.add_argument(
        "--checkpoint",
        help="ours, or a folder or hub name of any fine-tuned encoder classifier; default: build/checkpoint",
    )
    build.add_argument(
        "--keep",
        type=_share,
        default=0.5,
        help="share of the encoder that pruning leaves; default: %(default)s",
    )
    build.add_argument(
        "--unlabelled",
        type=Path,
        metavar="FILE",
        help="one text a line, like those you will serve: pruned models learn from fp32 on these as well",
    )
    elsewhere = build.add_argument_group("for a classifier that was not trained here")
    elsewhere.add_argument("--data", help="to judge it on, as in training; default: texts without labels")
    elsewhere.add_argument("--data-dir", default=os.environ.get("DATA_DIR") or "data", help="of named data")
    elsewhere.add_argument("--text-column", default="text", help="default: %(default)s")
    elsewhere.add_argument("--label-column", default="label", help="default: %(default)s")
    elsewhere.add_argument("--labels", default="", help="label names in the model's order, parted by commas")
    elsewhere.add_argument(
        "--positive-label", default="", help="the one that is looked for; default: a guess, which is said"
    )
    elsewhere.add_argument(
        "--max-length", type=positive_int, help="in tokens; default: 128, or what the model can read"
    )
    elsewhere.add_argument(
        "--task",
        choices=("single-label", "multi-label"),
        help="whether labels exclude each other, where the model's configuration does not say",
    )
    build.set_defaults(command=_build)

    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", type=Path, default=Path("model_store"), help="default: %(default)s")
    store.add_argument("--name", default="hate", help="of the model and its archives; default: %(default)s")

    package = commands.add_parser(
        "package", parents=[common, store], help="artifacts -> .mar, and promote one"
    )
    package.add_argument("--version", default="1.0", help="of the model; default: %(default)s")
    package.add_argument(
        "--promote",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the selected variant; --no-promote before a rollout, so that a restart serves the old version",
    )
    package.add_argument(
        "--tuning", type=Path, help="of python -m deploy tune (default: tuning.json beside --artifacts)"
    )
    package.add_argument("--sign-key", type=Path, metavar="FILE", help="a secret key, to sign each archive")
    package.set_defaults(command=_package)

    promote = commands.add_parser(
        "promote", parents=[common, store], help="make one variant the served archive"
    )
    promote.add_argument("variant", nargs="?", help="default: the selected one")
    promote.add_argument("--archives", type=Path, help="where those of the variants lie; default: --store")
    promote.add_argument(
        "--force", action="store_true", help="even if its check says that it is not equal to fp32"
    )
    add_trusted_key(promote)
    promote.set_defaults(command=_promote)

    keygen = commands.add_parser("keygen", help="a key to sign with, and the public one that others trust")
    keygen.add_argument(
        "key",
        type=Path,
        nargs="?",
        default=Path("signing.key"),
        help="default: %(default)s, with .pub beside it",
    )
    keygen.set_defaults(command=_keygen)

    signing = commands.add_parser("sign", help="sign archives, or artifacts' folders, as minisign does")
    signing.add_argument("paths", type=Path, nargs="+", help="such as model_store/hate.mar")
    signing.add_argument("--key", type=Path, required=True, help="the secret key")
    signing.set_defaults(command=_sign)

    publish = commands.add_parser(
        "publish", parents=[store], help="archives, and the checkpoint, to a folder or an object store"
    )
    publish.add_argument("destination", help="a path, s3://bucket/… or gs://bucket/…")
    publish.add_argument("variants", nargs="*", help="default: the archive that is served")
    publish.add_argument("--checkpoint", type=Path, help="the folder of a checkpoint to publish as well")
    publish.add_argument(
        "--sign-key", type=Path, metavar="FILE", help="a secret key, to sign what is published"
    )
    publish.add_argument("--force", action="store_true", help="replace what is published under this version")
    publish.add_argument(
        "--valid-s",
        type=positive_int,
        default=3600,
        help="how long the signed addresses of archives work; default: %(default)s",
    )
    publish.set_defaults(command=_publish)

    fetch = commands.add_parser("fetch", help="a published version to this machine, its sums checked")
    fetch.add_argument("place", help="…/<name>/<version>")
    fetch.add_argument("--to", type=Path, default=Path("build/fetched"), help="default: %(default)s")
    fetch.add_argument("--most-gb", type=positive_float, default=20.0, help="default: %(default)g")
    add_trusted_key(fetch)
    fetch.set_defaults(command=_fetch)

    verify = commands.add_parser("verify", help="ask an archive on a private server, compare with in process")
    verify.add_argument("archive", type=Path, nargs="?", default=Path("model_store/hate.mar"))
    add_trusted_key(verify)
    verify.set_defaults(command=_verify)
    parser.set_defaults(command=_list)
    return parser


def _list(_: argparse.Namespace) -> int:
    rows = [
        {
            "variant": one.name,
            "runtime": one.runtime,
            "devices": ", ".join(one.devices),
            "parent": one.parent or "",
            "what it is": one.summary,
            "by default": "yes" if one.default else "",
            "can be built and run here": "; ".join(lacking) if (lacking := one.lacks()) else "yes",
        }
        for one in sorted(VARIANTS.values(), key=lambda one: one.parent is not None)  # the reference first
    ]
    say(tabulate(rows, headers="keys"))
    return 0


def _build(arguments: argparse.Namespace) -> int:
    choose(arguments.variants)  # a name that nobody has is told before anything is loaded
    from export.build import build
    from export.source import Source, read_unlabelled
    from training.checkpoint import load_data

    checkpoint = _checkpoint(arguments)
    kind = kind_of(json.loads((checkpoint.folder / "config.json").read_text()))
    chosen, left_out = choose(arguments.variants, kind)
    for name, lacking in left_out.items():
        say(f"{name}: left out, it needs {'; '.join(lacking)}")
    dataset = load_data(checkpoint)
    unlabelled: tuple[str, ...] = ()
    if arguments.unlabelled is not None:
        unlabelled = read_unlabelled(arguments.unlabelled, dataset)
        say(f"{len(unlabelled):,} unlabelled texts to distil on; those of the data's own splits are left out")
    source = Source(checkpoint, dataset, arguments.artifacts, arguments.keep, unlabelled)
    built: list[Artifact] = []
    failed: dict[str, str] = {}
    unfit: set[str] = set()
    for one in chosen:
        if one.parent in unfit:
            say(f"{one.name}: left out, since {one.parent} is")
            unfit.add(one.name)
            continue
        if one.parent in failed:
            failed[one.name] = f"its parent {one.parent} failed"
            continue
        try:
            built.append(build(one, source, say))
        except UnsupportedError as error:  # seen while building, such as a model of another form
            if one.parent is None or len(chosen) <= 2:
                raise
            say(f"{one.name}: left out, {error}")
            unfit.add(one.name)
        except UserError as error:
            if one.parent is None or len(chosen) <= 2:  # nothing can be built without the reference
                raise
            say(f"{one.name}: FAILED, {error}")
            failed[one.name] = str(error)
    say("\n" + _checks(built))
    say("\n" + _proofs(built))
    for note in dict.fromkeys(one.meta["check"]["note"] for one in built if one.meta["check"]["equal"]):
        say(f"({note})")
    for artifact in built:
        if not artifact.meta["check"]["equal"]:
            say(f"{artifact.name} is {artifact.meta['check']['note']}")
    for name, message in failed.items():
        say(f"{name} failed: {message}")
    emit({one.name: {"folder": str(one.folder), "check": one.meta["check"]} for one in built})
    return 1 if failed else 0


def _checkpoint(arguments: argparse.Namespace):
    """The checkpoint that is asked for; one that was trained elsewhere is made one of ours first."""
    from training.checkpoint import META_FILE, open_checkpoint
    from training.data.sources import Columns

    place = Path(arguments.checkpoint or CHECKPOINT)
    # A name like owner/model may be the hub's, but what training writes (BUILD=…) is never asked for there;
    # anything else that is no folder is a path that is wrong.
    could_be_hubs = place.name != CHECKPOINT.name and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(place))
    if (place / META_FILE).is_file() or not (place.is_dir() or (could_be_hubs and not place.parent.is_dir())):
        checkpoint = open_checkpoint(place)
        if arguments.positive_label not in ("", checkpoint.positive_label):
            raise UserError(
                "The positive label of a checkpoint is that of its training, which fitted its threshold",
                seen=f"{checkpoint.positive_label}, not {arguments.positive_label}",
                remedy="Train, or take over, with --positive-label",
            )
        return checkpoint
    from export.adoption.adopt import adopt

    folder = arguments.artifacts.parent / "adopted" / place.name
    labels = tuple(label.strip() for label in arguments.labels.split(",") if label.strip())
    columns = Columns(
        arguments.text_column, arguments.label_column, labels, positive_label=arguments.positive_label
    )
    data = (arguments.data, arguments.data_dir, columns)
    checkpoint = adopt(arguments.checkpoint, folder, *data, arguments.max_length, arguments.task)
    say(f"{arguments.checkpoint} is now {folder}; to the stages after this one give CHECKPOINT={folder}")
    return checkpoint


def _checks(built: Sequence[Artifact]) -> str:
    """What the checks found, one row an artifact."""
    rows = []
    for artifact in built:
        check = artifact.meta["check"]
        drop = check["macro_f1_drop"]
        row = {
            "variant": artifact.name,
            "equal": "yes" if check["equal"] else "NO",
            "labels agree": f"{check['label_agreement']:.2%}",
            "macro-F1 drop, 95 %": f"{drop[0]:+.3f} to {drop[1]:+.3f}" if drop else "not proven",
            "max prob. diff": f"{check['max_prob_diff']:.4f}",
            "mean": f"{check['mean_prob_diff']:.4f}",
            "batch mates": f"{check['batch_mate_diff']:.1e}",
        }
        rows.append(row)
    return tabulate(rows, headers="keys")


def _proofs(built: Sequence[Artifact]) -> str:
    """What the runtimes showed, one row an artifact."""
    rows = [
        {
            "variant": artifact.name,
            "proof": artifact.meta["proof"]["summary"],
            "MB": f"{artifact.bytes / 1e6:.1f}",
            "seconds": f"{artifact.meta['build']['seconds']:.0f}",
        }
        for artifact in built
    ]
    return tabulate(rows, headers="keys")


def _share(text: str) -> float:
    """argparse type of a share above 0 and up to 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value


def _package(arguments: argparse.Namespace) -> int:
    from deploy.tuning.settings import settings_for
    from export.archives.package import package

    if arguments.tuning and not arguments.tuning.is_file():
        raise UserError("there is no such tuning", seen=arguments.tuning, remedy="python -m deploy tune")
    tuning = arguments.tuning or arguments.artifacts.parent / "tuning.json"
    recover_all(arguments.artifacts)
    folders = sorted(path.parent for path in arguments.artifacts.glob(f"[!.]*/{DESCRIPTION}"))
    if not folders:
        raise UserError(
            "there are no artifacts to package", seen=arguments.artifacts, remedy="Build them: make export"
        )
    reference = open_artifact(arguments.artifacts / "fp32", verify=False).meta["build"]["checkpoint_sha256"]
    archives = {}
    for folder in folders:
        artifact = open_artifact(folder)
        if artifact.meta["build"]["checkpoint_sha256"] != reference:
            say(f"{folder.name}: left out, made from another checkpoint than fp32: make export")
            continue
        tuned = settings_for(tuning, artifact.name, artifact.sha256)
        path = package(artifact, arguments.store, name=arguments.name, version=arguments.version, tuned=tuned)
        archives[folder.name] = str(path)
        if arguments.sign_key:
            sign(path, arguments.sign_key)
        say(f"{path} ({path.stat().st_size / 1e6:.1f} MB{', tuned' if tuned else ''})")
    promoted = None
    if arguments.promote:
        variant, sha256 = _selected(arguments) or ("fp32", None)
        promoted = str(_promote_to(arguments, variant, arguments.store, sha256=sha256))
    emit({"archives": archives, "promoted": promoted})
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    if arguments.variant:
        variant, sha256 = arguments.variant, None
    elif selected := _selected(arguments):
        variant, sha256 = selected
    else:
        raise UserError("no variant is selected", seen=SELECTION, remedy="Run make select, or name a variant")
    archives = arguments.archives or arguments.store
    promoted = _promote_to(
        arguments, variant, archives, sha256=sha256, force=arguments.force, trusted_key=arguments.trusted_key
    )
    emit({"promoted": str(promoted)})
    return 0


def _keygen(arguments: argparse.Namespace) -> int:
    public = make_keys(arguments.key)
    say(
        f"{arguments.key} signs: keep it to yourself. {public} is for those who trust it: {VARIABLE}={public}"
    )
    emit({"secret": str(arguments.key), "public": str(public)})
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    signatures = {str(path): str(sign(path, arguments.key)) for path in arguments.paths}
    for signature in signatures.values():
        say(signature)
    emit(signatures)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from export.archives.verify import verify

    verdict = verify(arguments.archive, arguments.trusted_key)
    outcome = "serves its artifact" if verdict.same else "DOES NOT SERVE its artifact"
    say(
        f"{arguments.archive} ({verdict.variant}) {outcome}: {verdict.texts} texts, "
        f"largest difference {verdict.max_diff:.1e}, allowed {verdict.bound:.1e}"
    )
    emit({**asdict(verdict), "same": verdict.same})
    return 0 if verdict.same else 1


def _publish(arguments: argparse.Namespace) -> int:
    from export.archives.publish import addresses, publish

    names = [f"{arguments.name}-{variant}" for variant in arguments.variants] or [arguments.name]
    archives = [arguments.store / f"{name}.mar" for name in names]
    checkpoint = arguments.checkpoint
    if checkpoint is not None:
        from training.checkpoint import open_checkpoint

        open_checkpoint(checkpoint)  # what is none is not published
    published = publish(
        archives,
        arguments.destination,
        arguments.name,
        checkpoint=checkpoint,
        key=arguments.sign_key,
        force=arguments.force,
    )
    said = "published" if published.is_new else "is published already, the same"
    say(f"{published.place}: {said}, {len(published.record['files'])} files with their sums")
    found = addresses(published, arguments.valid_s)
    emit({"place": published.place, **published.record, "addresses": found})
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from export.archives.publish import fetch

    key = arguments.trusted_key
    fetched = fetch(arguments.place, arguments.to, trusted_key=key, most_gb=arguments.most_gb)
    signed = f", signed by a key of {key}" if key else ""
    say(f"{arguments.to}: {len(fetched.record['files'])} files, their sums are right{signed}")
    emit(fetched.record)
    return 0


def _promote_to(
    arguments: argparse.Namespace,
    variant: str,
    archives: Path,
    *,
    sha256: str | None,
    force: bool = False,
    trusted_key: Path | None = None,
) -> Path:
    from export.archives.package import promote

    recover(archives)
    target = promote(
        variant,
        arguments.store,
        name=arguments.name,
        archives=archives,
        sha256=sha256,
        force=force,
        trusted_key=trusted_key,
    )
    say(f"{target} is now {variant}")
    return target


def _selected(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """The variant that selection chose and the identity that was measured; None where it has changed."""
    if not SELECTION.is_file():
        say("nothing is selected yet (make benchmark select)")
        return None
    try:
        choice = json.loads(SELECTION.read_text())
        variant, sha256 = choice["selected"], choice["artifact_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the selection cannot be read", seen=SELECTION, remedy="Run make select again"
        ) from error
    if variant is None:
        say("the last selection found no variant that qualifies")
        return None
    folder = arguments.artifacts / variant
    if not (folder / DESCRIPTION).is_file() or open_artifact(folder, verify=False).sha256 != sha256:
        say(f"{variant} was selected, but is not what stands in {folder} now; make benchmark select")
        return None
    return variant, sha256


if __name__ == "__main__":
    run(main)
