"""`python -m deploy app`: serve an artifact or an archive without TorchServe."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common.commands import not_negative_float, not_negative_int, positive_float, positive_int, share
from common.options import add_self_check
from common.signing import add_trusted_key
from deploy.app.application import PAGES
from deploy.app.connections import Bounds
from deploy.app.keys import VARIABLE, Keys
from deploy.app.logs import FORMATS, logging_as
from deploy.app.model import Opener, Source
from deploy.app.request_bodies import MOST_HELD
from deploy.app.server import Beside, Settings, serve
from deploy.app.tls import Pair
from deploy.app.traces import VARIABLES
from deploy.app.workers import serve_by_workers
from handler.errors import UserError


def app_arguments(parser: argparse.ArgumentParser) -> None:
    # Both may be given more than once, and mixed.
    served: dict[str, Any] = {"dest": "sources", "action": "append", "type": _source}
    parser.add_argument(
        "--artifact",
        metavar="FOLDER",
        help="such as build/artifacts/openvino-int8; NAME=FOLDER serves it by another name than hate",
        **served,
    )
    parser.add_argument(
        "--archive",
        metavar="FILE",
        help="such as model_store/hate.mar; its settings apply; give several models for several, "
        "of which the first answers at /predict",
        **served,
    )
    parser.add_argument("--watch", action="store_true", help="reload what changes, as SIGHUP does")
    add_trusted_key(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument(
        "--port", type=not_negative_int, default=8080, help="0 picks a free one; default: %(default)s"
    )
    parser.add_argument(
        "--grpc-port", type=not_negative_int, help="of the Open Inference Protocol; default: no gRPC"
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        help="processes that share the port, each with all models and every limit; default: %(default)s",
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        help="of each worker; default: the archive's, or its share of all CPUs",
    )
    parser.add_argument("--batch-size", type=positive_int, help="default: the archive's, or 32")
    parser.add_argument("--batch-delay-ms", type=not_negative_float, help="default: the archive's, or 1")
    parser.add_argument("--queue-size", type=positive_int, help="default: the archive's, or 256")
    _add_bounds(parser)
    add_self_check(parser, "default: the archive's, or")
    parser.add_argument("--no-explanations", action="store_true", help="refuse explanations")
    parser.add_argument("--without", nargs="+", choices=PAGES, default=(), help="pages to leave out")
    parser.add_argument(
        "--drain-s",
        type=not_negative_float,
        default=0.0,
        help="seconds to go on answering after SIGTERM, with 503 at /ready; default: %(default)g",
    )
    _add_watching(parser)
    _add_access(parser)
    _add_shadow(parser)
    _add_cache(parser)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    usual = Bounds()
    parser.add_argument(
        "--connections", type=positive_int, default=usual.total, help="most at once; default: %(default)s"
    )
    parser.add_argument(
        "--connections-per-client",
        type=positive_int,
        default=usual.per_client,
        help="most from one address; behind a proxy, use as many as --connections; default: %(default)s",
    )
    parser.add_argument(
        "--body-memory-mib",
        type=positive_int,
        default=MOST_HELD // (1024 * 1024),
        help="memory for request bodies that arrive or wait; default: %(default)s",
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--p99-ms", type=positive_float, help="limit to alert on; default: what the certificate promises"
    )
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        default=FORMATS[0],
        help="json: requests, too; default: %(default)s",
    )
    parser.add_argument(
        "--traces",
        metavar="ENDPOINT",
        help=f"OpenTelemetry's, such as http://127.0.0.1:4318; default: that of {VARIABLES[0]}, or none",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help=f"keys, or hashes of them, one a line: requests need one; default: those in {VARIABLE}, or none",
    )
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="with those of its issuers")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the certificate's")


def _add_shadow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow",
        type=Path,
        metavar="ARTIFACT",
        help="a folder or an archive that a share of the texts goes to as well, to count labels that differ",
    )
    parser.add_argument(
        "--shadow-share", type=share, default=0.1, help="of the texts that it gets; default: %(default)s"
    )
    parser.add_argument(
        "--shadow-max-flip",
        type=share,
        default=0.05,
        help="share of labels that may differ without an alarm; default: %(default)s",
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=not_negative_int,
        metavar="TEXTS",
        help="remember the answers of so many texts; how fast an answer comes then tells if the text "
        "came before; default: the archive's, or 0",
    )


def app(options: argparse.Namespace) -> int:
    if not options.sources:
        raise UserError("no model is given", remedy="Give at least one --archive or --artifact")
    if options.shadow and len(options.sources) > 1:
        seen = f"{len(options.sources)} models"
        raise UserError("a shadow goes with one model", seen=seen, remedy="Serve that one by itself")
    with tempfile.TemporaryDirectory(prefix="app-") as scratch:
        if options.workers > 1:
            return _serve_by_workers(options, Path(scratch))
        opener = Opener(Path(scratch), options.trusted_key)
        opened = [opener.open(source) for source in options.sources]
        shadow = None
        if options.shadow:
            beside = opener.open(Source(options.shadow)).model.artifact
            shadow = Beside(beside, options.shadow_share, options.shadow_max_flip)
        serve(opened, opener, _settings(options, shadow))
    return 0


def _serve_by_workers(options: argparse.Namespace, folder: Path) -> int:
    if options.shadow:
        seen = f"--workers {options.workers}"
        raise UserError("a shadow goes with one worker", seen=seen, remedy="Leave --shadow or --workers out")
    settings = _settings(options, None)
    with logging_as(options.log_format):
        return serve_by_workers(options.sources, options.trusted_key, settings, options.workers, folder)


def _source(text: str) -> Source:
    try:
        return Source.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _settings(options: argparse.Namespace, shadow: Beside | None) -> Settings:
    return Settings(
        options.host,
        options.port,
        options.threads,
        options.drain_s,
        Bounds(options.connections, options.connections_per_client),
        options.body_memory_mib * 1024 * 1024,
        tuple(options.without),
        not options.no_explanations,
        options.self_check_flips,
        options.on_mismatch,
        options.batch_size,
        None if options.batch_delay_ms is None else options.batch_delay_ms / 1000,
        options.queue_size,
        shadow,
        options.watch,
        Keys.read(options.keys),
        _tls(options.tls_certificate, options.tls_key),
        options.grpc_port,
        options.cache,
        options.p99_ms / 1000 if options.p99_ms else None,
        options.log_format,
        options.traces,
    )


def _tls(certificate: Path | None, key: Path | None) -> Pair | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        remedy = "Give --tls-certificate and --tls-key"
        raise UserError("TLS needs a certificate and its key", seen=certificate or key, remedy=remedy)
    return Pair(certificate, key)
