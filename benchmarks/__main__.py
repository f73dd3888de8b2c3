"""`python -m benchmarks <verb>`: is it still my classifier, and how fast is it?"""

from common.commands import run
from common.programs import Program, Verb

EXTRAS = "serve,app,train,deploy,benchmark"
FOLDER = "benchmarks.verbs"
VERBS = (
    Verb(
        "run",
        "measure variants side by side",
        f"{FOLDER}.measuring:run",
        renamed={"--peers": "--baselines", "--peers-folder": "--baselines-folder"},
    ),
    Verb(
        "head-to-head",
        "compare this project's servers with those that others would write",
        f"{FOLDER}.serving:head_to_head",
    ),
    Verb(
        "servers",
        "compare this project's servers with those that people pick, with the same model behind each",
        f"{FOLDER}.serving:servers",
    ),
    Verb(
        "install-servers",
        "install these servers, each in an environment of its own",
        f"{FOLDER}.serving:install_servers",
    ),
    Verb(
        "overload",
        "see what a server does under more load than it can take, and when a worker dies",
        f"{FOLDER}.serving:overload",
    ),
    Verb(
        "attack",
        "see what an honest client notices while another client attacks",
        f"{FOLDER}.serving:attack",
    ),
    Verb(
        "power",
        "simulate how often the verdicts are wrong, or plan how many labels one takes (--texts)",
        f"{FOLDER}.judging:power",
    ),
    Verb(
        "flips",
        "label only texts whose label a variant changes, and judge every variant by them",
        f"{FOLDER}.labelling:flips",
    ),
    Verb(
        "compress",
        "search for the fastest combination of pruning, re-check and first stage that is likely to pass",
        f"{FOLDER}.compressing:compress",
    ),
    Verb("select", "pick the fastest variant that is proven the same", f"{FOLDER}.judging:select"),
    Verb(
        "certify",
        "recompute an archive's certificate: from itself, from the ledger, or from the gate's texts",
        f"{FOLDER}.certifying:certify",
    ),
    Verb("conclude", "say in five lines what the last run found", f"{FOLDER}.judging:conclude"),
    Verb("plan", "see how many replicas a load needs, and what they cost", f"{FOLDER}.planning:plan"),
    Verb("cache", "see what a cache of answers would save on your texts", f"{FOLDER}.planning:cache"),
    Verb("compare", "compare two reports of one run", f"{FOLDER}.reporting:compare"),
    Verb(
        "compare-machines",
        "put runs of several machines into one table, such as a CPU server's and a GPU server's",
        f"{FOLDER}.reporting:compare_machines",
    ),
    Verb("publish", "commit a report: figures only", f"{FOLDER}.reporting:publish"),
    Verb(
        "tables",
        "write the tables of README.md and docs/ from published reports",
        f"{FOLDER}.reporting:tables",
    ),
    Verb("gpus", "list the GPUs that a run would measure; exit 2 if none", f"{FOLDER}.measuring:gpus"),
)
MOVED = {"plan-check": "benchmarks.studies.plan_check", "beside": "compare-machines"}
PROGRAM = Program("benchmarks", VERBS, EXTRAS, moved=MOVED)
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
