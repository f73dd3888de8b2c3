"""`python -m export <verb>`: from a checkpoint to artifacts, and on to archives."""

from common.commands import run
from common.programs import Program, Verb

ARCHIVES = "export.archives.command"
VERBS = (
    Verb("list", "list all variants, and what this machine lacks for each", "export.command:list_variants"),
    Verb("build", "build variants, and prove and check each", "export.command:build"),
    Verb("package", "make archives (.mar) from artifacts, and promote one", f"{ARCHIVES}:package"),
    Verb("promote", "make one variant's archive the served one", f"{ARCHIVES}:promote"),
    Verb(
        "publish",
        "copy archives, and the checkpoint, to a folder or an object store",
        f"{ARCHIVES}:publish",
    ),
    Verb("fetch", "fetch a published version and verify its checksums", f"{ARCHIVES}:fetch"),
    Verb(
        "verify",
        "serve an archive on a private server and compare its scores with its artifact's",
        f"{ARCHIVES}:verify",
    ),
    Verb("keygen", "make a secret key for signing, and its public key", f"{ARCHIVES}:keygen"),
    Verb("sign", "sign archives or artifact folders in minisign's format", f"{ARCHIVES}:sign"),
)
PROGRAM = Program("export", VERBS, extras="serve,train,export", default="list")
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
