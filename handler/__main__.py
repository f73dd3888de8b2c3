"""`python -m handler <verb>`: classify without a server, and find what stops a server from working."""

from common.commands import run
from common.programs import Program, Verb

VERBS = (
    Verb("predict", "classify a text, a file or standard input", "scoring.command:predict"),
    Verb("doctor", "check what TorchServe needs, and say how to fix it", "common.doctor:doctor", "serve"),
)
PROGRAM = Program("handler", VERBS)
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
