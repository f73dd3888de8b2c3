"""`python -m handler predict|doctor`: classify texts without a server; find what keeps one from serving."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from handler.commands import emit, positive_int, run, say
from handler.errors import Rejection, UserError
from handler.files import classify, file_format, read_rows, write_rows
from handler.predictor import Predictor
from handler.requests import Limits, read_text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__)
    commands = parser.add_subparsers(required=True)
    predict = commands.add_parser("predict", help="classify a text, a file or standard input")
    predict.add_argument("text", nargs="?", help="one text; JSON answer on standard output")
    predict.add_argument(
        "--artifact", type=Path, default=Path("build/artifacts/fp32"), help="default: %(default)s"
    )
    predict.add_argument("--file", type=Path, help=".csv, .jsonl or .txt (one text a line)")
    predict.add_argument("--output", type=Path, help=".csv or .jsonl; default: CSV on standard output")
    predict.add_argument("--text-column", default="text", help="default: %(default)s")
    predict.add_argument("--threads", type=positive_int, help="default: all CPUs of this process")
    predict.set_defaults(command=_predict)
    doctor = commands.add_parser("doctor", help="look at all that TorchServe needs here, and say what to do")
    doctor.add_argument("--name", default="hate", help="of the archive: <name>.mar; default: %(default)s")
    doctor.set_defaults(command=_doctor)
    arguments = parser.parse_args(argv)
    return arguments.command(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something keeps the model from being served."""
    from handler.doctor import examine, record, table  # yaml and psutil, which predicting does not need

    findings = examine(arguments.name)
    say(table(findings))
    emit(record(findings))
    return int(any(finding.status == "fail" for finding in findings))


def _predict(arguments: argparse.Namespace) -> int:
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
    return _predict_rows(arguments)


def _predict_rows(arguments: argparse.Namespace) -> int:
    """Every row of the file or of standard input; the output appears only when it is complete."""
    form, output = "txt", arguments.output
    written = "csv" if output is None else file_format(output)
    if written == "txt":
        raise UserError(
            "the output keeps columns, which .txt cannot", seen=output, remedy="Use .csv or .jsonl"
        )
    if arguments.file is not None:
        form = file_format(arguments.file)
        if not arguments.file.is_file():
            raise UserError("there is no such file", seen=arguments.file, remedy="Check --file")
    if output is not None and not output.parent.is_dir():
        raise UserError("the folder of the output does not exist", seen=output.parent, remedy="Make it first")
    if arguments.file is None and sys.stdin.isatty():
        say("reading one text a line from the keyboard; end with Ctrl-D")
    predictor = Predictor.load(arguments.artifact, arguments.threads)
    partial = output and output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with (
            _open_input(arguments.file) as source,
            partial.open("w", encoding="utf-8", newline="") if partial else nullcontext(sys.stdout) as target,
        ):
            rows = classify(predictor, read_rows(source, form, arguments.text_column), arguments.text_column)
            count = write_rows(target, written, tqdm(rows, unit=" texts", disable=None))
        if partial:
            partial.replace(output)
            say(f"{count} rows -> {output}")
    finally:
        if partial:
            partial.unlink(missing_ok=True)
    return 0


def _open_input(path: Path | None):
    # Bytes that are not UTF-8 are read as U+FFFD: they spoil a character, never the run.
    if path is None:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace", newline="\n")  # type: ignore[union-attr]
        return nullcontext(sys.stdin)
    # utf-8-sig: Excel writes a BOM.
    return path.open(encoding="utf-8-sig", errors="replace", newline="" if path.suffix == ".csv" else "\n")


if __name__ == "__main__":
    run(main)
