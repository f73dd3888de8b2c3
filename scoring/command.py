"""`python -m handler predict`: classify a text, a file or standard input without a server."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO

from tqdm import tqdm

from common.atomic import recover, replacing
from common.commands import emit, positive_int, say
from common.options import add_self_check, add_threads, tolerance_of
from common.signing import add_trusted_key, verify
from common.tables.layout import Reading
from handler.artifact import open_artifact
from handler.errors import Rejection, UserError
from handler.machine import available_cpus
from handler.predictor import Predictor
from handler.requests import Limits, read_text


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", help="one text; the answer is JSON on standard output")
    parser.add_argument(
        "--artifact", type=Path, default=Path("build/artifacts/fp32"), help="default: %(default)s"
    )
    parser.add_argument(
        "--file",
        help=".csv, .jsonl, .parquet or .txt (one text per line); a folder or a pattern of them; also s3://…",
    )
    parser.add_argument(
        "--output",
        help=".csv, .jsonl or .parquet, or a folder/ for parts; also s3://… (default: CSV on stdout)",
    )
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"), help="of parts (default: the input)")
    parser.add_argument("--text-column", default="text", help="default: %(default)s")
    parser.add_argument(
        "--encoding", help="of text files, such as cp1252 (default: from their first bytes, else UTF-8)"
    )
    parser.add_argument("--delimiter", help="of CSV files (default: from their header)")
    parser.add_argument(
        "--escape", help="the character before a quote within a text, '' for none (default: from the file)"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 if any row has no answer")
    add_threads(parser)
    add_self_check(parser)
    parser.add_argument(
        "--part-rows",
        type=positive_int,
        default=10_000,
        help="rows of a part; Parquet's row groups stay whole (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where to score; Ray listens on all addresses, guarded by a token (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, default=1, help="Ray workers (default: %(default)s)")
    parser.add_argument(
        "--address",
        help="of a Ray cluster, which must require a token (default: start Ray on this machine)",
    )
    add_trusted_key(parser)


def predict(arguments: argparse.Namespace) -> int:
    recover(arguments.artifact)
    verify(arguments.artifact, arguments.trusted_key)
    if arguments.text is not None and arguments.file is not None:
        raise UserError("a text and --file were both given", remedy="Give only one of them")
    if arguments.text is not None:
        text = read_text(arguments.text, Limits())
        if isinstance(text, Rejection):
            raise UserError(text.message, remedy="Give a text in quotes")
        predictor = _loaded(arguments)
        (prediction,) = predictor.predict([text])
        emit(predictor.answer(prediction))
        return 0
    if arguments.file is not None and arguments.output is not None:
        return _predict_job(arguments)
    if arguments.engine != "local" or arguments.format:
        raise UserError("--engine and --format need --file and --output", remedy="Give both")
    return _predict_stream(arguments)


def _predict_job(arguments: argparse.Namespace) -> int:
    """A file into a file, part by part; the same command again resumes an interrupted run."""
    from scoring.job import here, open_job, run_job

    job = open_job(
        arguments.file,
        arguments.output,
        open_artifact(arguments.artifact),
        arguments.text_column,
        arguments.format,
        arguments.part_rows,
        _reading(arguments),
    )
    if arguments.engine == "ray":
        from scoring.on_ray import on_ray

        threads = arguments.threads or max(1, available_cpus() // arguments.workers)
        engine = on_ray(arguments.address, arguments.workers, threads, tolerance_of(arguments))
    else:
        engine = here(Predictor(job.artifact, arguments.threads, tolerance=tolerance_of(arguments)))
    with redirect_stdout(sys.stderr):  # Ray tells of workers that died where we print JSON
        done = run_job(job, engine)
    say(f"{done['rows']:,} rows -> {done['output']}")
    emit(done)
    return _told_of_rejected(done["rejected"], arguments.strict)


def _predict_stream(arguments: argparse.Namespace) -> int:
    """Standard input, or a file, window by window; a file of output appears only when it is complete."""
    from common.tables.layout import OUTPUTS, file_format, piped
    from common.tables.records import runs
    from scoring.plan import plan, read_windows
    from scoring.rows import CsvWriter, JsonWriter, Window, Writer, classify, windows

    column = arguments.text_column
    output = arguments.output
    reading = _reading(arguments)
    written = "csv" if output is None else file_format(output, OUTPUTS)
    if written not in ("csv", "jsonl"):
        remedy = "Use .csv or .jsonl, or read from a --file"
        raise UserError("the output cannot have this format", seen=output, remedy=remedy)
    if output is not None and not Path(output).parent.is_dir():
        seen = Path(output).parent
        raise UserError("the folder of the output does not exist", seen=seen, remedy="Make it first")
    planned: int | None = None
    if arguments.file is not None:
        job = plan(arguments.file, column, arguments.part_rows, written, reading)
        columns = job.columns
        planned = job.rows
        read: Iterator[Window] = (window for part in job.parts for window in read_windows(part, column))
    else:
        if sys.stdin.isatty():
            say("reading one text per line from the keyboard; end with Ctrl-D")
        layout = piped(sys.stdin.buffer, reading)
        columns = (column,)
        read = windows(runs(sys.stdin.buffer, layout), layout, column)
    predictor = _loaded(arguments)
    count = rejected = 0
    with _open_output(output) as target, tqdm(total=planned, unit=" texts", disable=None) as bar:
        writer: Writer = CsvWriter(target, columns) if written == "csv" else JsonWriter(target)
        for window, results in classify(predictor, read):
            rejected += writer.write(window, results)
            count += len(results)
            bar.update(len(results))
        target.flush()
    if output is not None:
        say(f"{count:,} rows -> {output}")
    return _told_of_rejected(rejected, arguments.strict)


def _loaded(arguments: argparse.Namespace) -> Predictor:
    return Predictor.load(arguments.artifact, arguments.threads, tolerance=tolerance_of(arguments))


def _reading(arguments: argparse.Namespace) -> Reading:
    for name, given in (("delimiter", arguments.delimiter), ("escape", arguments.escape or None)):
        if given is not None and (len(given) != 1 or given in '"\r\n'):
            raise UserError(
                f"--{name} must be one character", seen=repr(given), remedy="Give one, such as ';'"
            )
    return Reading(arguments.encoding, arguments.delimiter, arguments.escape)


def _told_of_rejected(count: int, is_strict: bool) -> int:
    """Say how many rows have no answer; the exit status."""
    if count:
        say(f"{count:,} {'row has' if count == 1 else 'rows have'} no answer: see the error column")
    return int(bool(count) and is_strict)


@contextmanager
def _open_output(output: str | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    with replacing(Path(output)) as target:
        yield target
