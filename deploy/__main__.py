"""`python -m deploy <verb>`: serve the archive, tune it, change its version, and watch it."""

from common.commands import run
from common.programs import Program, Verb

VERBS = (
    Verb("start", "start TorchServe and wait until it answers", "deploy.torchserve.command:start"),
    Verb("stop", "stop it and wait until it is gone", "deploy.torchserve.command:stop"),
    Verb(
        "status",
        "show ports, Java, and whether it answers; exit 1 where it hangs",
        "deploy.torchserve.command:status",
    ),
    Verb("app", "serve without TorchServe, by FastAPI and uvicorn", "deploy.app.command:app", "app"),
    Verb(
        "tune",
        "find the settings that suit this machine",
        "deploy.tuning.tune:tune",
        "serve,deploy",
    ),
    Verb(
        "rollout",
        "change the version that servers answer with, and back if it is worse; exit 1 if it was",
        "deploy.torchserve.rollout:rollout",
        "serve,deploy",
    ),
    Verb(
        "drift",
        "compare what is served with validation; exit 1 where it has drifted",
        "deploy.drift.command:drift",
        "monitor",
    ),
)
PROGRAM = Program("deploy", VERBS, "serve")
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
