"""`python -m handler predict|doctor`: classify texts without a server; find what keeps one from serving."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tqdm import tqdm

from common.atomic import recover, replacing
from common.commands import emit, positive_int, run, say
from common.signing import add_trusted_key, verify
from handler.artifact import open_artifact
from handler.errors import Rejection, UserError
from handler.machine import available_cpus
from handler.predictor import Predictor
from handler.requests import Limits, read_text

if TYPE_CHECKING:
    from common.tables.layout import Reading


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__)
    commands = parser.add_subparsers(required=True)
    predict = commands.add_parser("predict", help="classify a text, a file or standard input")
    predict.add_argument("text", nargs="?", help="one text; JSON answer on standard output")
    predict.add_argument(
        "--artifact", type=Path, default=Path("build/artifacts/fp32"), help="default: %(default)s"
    )
    predict.add_argument(
        "--file",
        help=".csv, .jsonl, .parquet or .txt (one text a line); a folder or a pattern of them; also s3://…",
    )
    predict.add_argument(
        "--output",
        help=".csv, .jsonl or .parquet, or a folder/ of parts; also s3://… (default: CSV on standard output)",
    )
    predict.add_argument("--format", choices=("csv", "jsonl", "parquet"), help="of parts (the input's)")
    predict.add_argument("--text-column", default="text", help="default: %(default)s")
    predict.add_argument(
        "--encoding", help="of text files, such as cp1252 (default: what their first bytes say, else UTF-8)"
    )
    predict.add_argument("--delimiter", help="of CSV files (default: what their header has)")
    predict.add_argument(
        "--escape", help="the character before a quote within a text, '' for none (default: what a CSV has)"
    )
    predict.add_argument("--strict", action="store_true", help="exit with 1 where a row has no answer")
    predict.add_argument("--threads", type=positive_int, help="default: all CPUs of this process")
    predict.add_argument(
        "--part-rows", type=positive_int, default=10_000, help="%(default)s; Parquet's row groups stay whole"
    )
    predict.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="Ray listens on all addresses, guarded by a token (default: %(default)s)",
    )
    predict.add_argument("--workers", type=positive_int, default=1, help="of Ray (default: %(default)s)")
    predict.add_argument(
        "--address",
        help="of a Ray cluster, which must ask for a token (default: one of its own, on this machine)",
    )
    add_trusted_key(predict)
    predict.set_defaults(command=_predict)
    doctor = commands.add_parser("doctor", help="look at all that TorchServe needs here, and say what to do")
    doctor.add_argument("--name", default="hate", help="of the archive: <name>.mar; default: %(default)s")
    doctor.set_defaults(command=_doctor)
    arguments = parser.parse_args(argv)
    return arguments.command(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something keeps the model from being served."""
    from common.doctor import examine, record, table  # yaml and psutil, which predicting does not need

    findings = examine(arguments.name)
    say(table(findings))
    emit(record(findings))
    return int(any(finding.status == "fail" for finding in findings))


def _predict(arguments: argparse.Namespace) -> int:
    recover(arguments.artifact)
    verify(arguments.artifact, arguments.trusted_key)
    if arguments.text is not None and arguments.file is not None:
        raise UserError("a text and --file were both given", remedy="Give one of them")
    if arguments.text is not None:
        text = read_text(arguments.text, Limits())
        if isinstance(text, Rejection):
            raise UserError(text.message, remedy="Give a text in quotes")
        predictor = Predictor.load(arguments.artifact, arguments.threads)
        (prediction,) = predictor.predict([text])
        emit(predictor.answer(prediction))
        return 0
    if arguments.file is not None and arguments.output is not None:
        return _predict_job(arguments)
    if arguments.engine != "local" or arguments.format:
        raise UserError("--engine and --format are for a --file with an --output", remedy="Give both")
    return _predict_stream(arguments)


def _predict_job(arguments: argparse.Namespace) -> int:
    """A file into a file, part by part: the same command again goes on where it was interrupted."""
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
        engine = on_ray(arguments.address, arguments.workers, threads)
    else:
        engine = here(Predictor(job.artifact, arguments.threads))
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

    column, output, reading = arguments.text_column, arguments.output, _reading(arguments)
    written = "csv" if output is None else file_format(output, OUTPUTS)
    if written not in ("csv", "jsonl"):
        remedy = "Use .csv or .jsonl, or read from a --file"
        raise UserError("standard input cannot be written as this", seen=output, remedy=remedy)
    if output is not None and not Path(output).parent.is_dir():
        seen = Path(output).parent
        raise UserError("the folder of the output does not exist", seen=seen, remedy="Make it first")
    planned: int | None = None
    if arguments.file is not None:
        job = plan(arguments.file, column, arguments.part_rows, written, reading)
        columns, planned = job.columns, job.rows
        read: Iterator[Window] = (window for part in job.parts for window in read_windows(part, column))
    else:
        if sys.stdin.isatty():
            say("reading one text a line from the keyboard; end with Ctrl-D")
        layout = piped(sys.stdin.buffer, reading)
        columns = (column,)
        read = windows(runs(sys.stdin.buffer, layout), layout, column)
    predictor = Predictor.load(arguments.artifact, arguments.threads)
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


def _reading(arguments: argparse.Namespace) -> "Reading":
    from common.tables.layout import Reading

    for name, given in (("delimiter", arguments.delimiter), ("escape", arguments.escape or None)):
        if given is not None and (len(given) != 1 or given in '"\r\n'):
            raise UserError(
                f"--{name} is not one character", seen=repr(given), remedy="Give one, such as ';'"
            )
    return Reading(arguments.encoding, arguments.delimiter, arguments.escape)


def _told_of_rejected(count: int, is_strict: bool) -> int:
    """Say how many rows have no answer; the exit status."""
    if count:
        say(f"{count:,} {'row has' if count == 1 else 'rows have'} no answer: see the column error")
    return int(bool(count) and is_strict)


@contextmanager
def _open_output(output: str | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    with replacing(Path(output)) as target:
        yield target


if __name__ == "__main__":
    run(main)
