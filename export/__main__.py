"""`python -m export <verb>`: from a checkpoint to artifacts, and on to archives."""

from common.commands import run
from common.programs import Program, Verb

ARCHIVES = "export.archives.command"
VERBS = (
    Verb("list", "show every variant, and what this machine lacks for it", "export.command:list_variants"),
    Verb("build", "build variants, prove and check them", "export.command:build"),
    Verb("package", "make archives (.mar) from artifacts, and promote one", f"{ARCHIVES}:package"),
    Verb("promote", "make one variant the served archive", f"{ARCHIVES}:promote"),
    Verb(
        "publish",
        "copy archives, and the checkpoint, to a folder or an object store",
        f"{ARCHIVES}:publish",
    ),
    Verb("fetch", "fetch a published version and check its sums", f"{ARCHIVES}:fetch"),
    Verb(
        "verify",
        "ask an archive on a private server and compare with its artifact in process",
        f"{ARCHIVES}:verify",
    ),
    Verb("keygen", "make a secret key to sign with, and its public key", f"{ARCHIVES}:keygen"),
    Verb("sign", "sign archives, or folders of artifacts, as minisign does", f"{ARCHIVES}:sign"),
)
PROGRAM = Program("export", VERBS, extras="serve,train,export", default="list")
main = PROGRAM.main

if __name__ == "__main__":
    run(main)
