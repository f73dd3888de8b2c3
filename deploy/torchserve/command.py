"""`python -m deploy start|stop|status`: the public TorchServe, as its configuration describes it."""

import argparse

from common.commands import emit, say
from common.options import CONFIG, add_config, add_name
from common.signing import add_trusted_key
from common.torchserve import is_taken, java_home, read_config
from deploy.torchserve import server
from deploy.torchserve.access import KEY_FILE, Access
from deploy.torchserve.rollout_note import note_file, read_note


def start_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_name(parser, "the model; serves <name>.mar")
    add_trusted_key(parser)


def start(arguments: argparse.Namespace) -> int:
    if arguments.config == CONFIG and not CONFIG.exists():
        server.write_config(CONFIG)
        say(f"wrote TorchServe's configuration to {CONFIG} and deploy/; you can change it")
    public = read_config(arguments.config)
    server.start(public, arguments.name, trusted_key=arguments.trusted_key)
    body = """'{"text": "text to classify"}'"""
    say(f"ready. Try it:\n  curl {public.url}/predictions/{arguments.name} --json {body}")
    if public.speaks_tls("inference_address") and public["certificate_file"]:
        say(f"  add --cacert {public['certificate_file']} if the certificate is self-signed")
    if public.wants_tokens:
        say(f'  add -H "Authorization: Bearer KEY": the key is under "inference" in {KEY_FILE}')
    if public.is_on("enable_model_api") and not public.wants_tokens:
        say("the model API is open without tokens: any web page in a browser here can register code")
    return 0


def stop_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def stop(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    stopped = server.stop(public)
    if taken := [str(port) for port in public.ports if is_taken(port)]:
        answers = Access.of(arguments.config).is_healthy()
        what = "a TorchServe that is not yours" if answers else "a process that is not your TorchServe"
        done = "stopped one, but" if stopped else "nothing was stopped:"
        say(f"{done} {', '.join(taken)} in use by {what}")
        return 1
    say("stopped" if stopped else "TorchServe was not running")
    return 0


def status_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_name(parser, "the model")


def status(arguments: argparse.Namespace) -> int:
    public = read_config(arguments.config)
    access = Access.of(arguments.config)
    ports = {port: "in use" if is_taken(port) else "free" for port in public.ports}
    runs = bool(server.serving(public))
    found = {
        "healthy": access.is_healthy(),
        "worker": access.worker_status(arguments.name),
        "answers": access.answers(arguments.name),
        "ports": ports,
        "java_home": java_home(),
    }
    if note := read_note(note_file(access, arguments.name)):
        found["rollout"] = str(note)
        say(str(note))
    emit(found)
    if not runs or found["answers"]:
        return 0
    if server.is_alive(access, arguments.name):
        say("the worker is busy, and answers slowly")
        return 0
    seen = f"no worker of {arguments.name} answers or is busy"
    say(f"TorchServe runs, but {seen}. Restart it: python -m deploy stop; python -m deploy start")
    return 1
