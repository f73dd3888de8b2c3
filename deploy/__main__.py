"""`python -m deploy <verb>`: serve the archive, tune it, roll out new versions, and watch for drift."""

from common.commands import run
from common.programs import Program, Verb

VERBS = (
    Verb("start", "start TorchServe and wait until it answers", "deploy.torchserve.command:start"),
    Verb("stop", "stop TorchServe and wait until it has ended", "deploy.torchserve.command:stop"),
    Verb(
        "status",
        "show ports, Java, and whether TorchServe answers; exit status 1 if it hangs",
        "deploy.torchserve.command:status",
    ),
    Verb("app", "serve without TorchServe, with FastAPI and uvicorn", "deploy.app.command:app", "app"),
    Verb("key", "draw a key for the app, and its hash for --keys", "deploy.app.keys:key", "app"),
    Verb(
        "tune",
        "find the settings that suit this machine",
        "deploy.tuning.tune:tune",
        "serve,deploy",
    ),
    Verb(
        "rollout",
        "roll out a new version, and roll it back if it is worse (exit status 1)",
        "deploy.torchserve.rollout:rollout",
        "serve,deploy",
    ),
    Verb(
        "drift",
        "compare the traffic with the validation texts; exit status 1 if it has drifted",
        "deploy.drift.command:drift",
        "monitor",
    ),
)
PROGRAM = Program("deploy", VERBS, "serve")
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
