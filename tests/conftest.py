"""One tiny classifier for the whole run: trained and exported once, by whichever worker needs it first.

It has two layers of 32 and learns the demo corpus in seconds to a macro-F1 near 0.8: small, but with
scores from 0 to 1, so that a variant that computes something else is seen.
Sizes and texts come from the embedded demo data; nothing is downloaded.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test needs the hub
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: before torch and NumPy start their threads
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}

import export.variants  # noqa: F401 - registers the variants
from common.atomic import write_json
from common.commands import run
from common.proxies import spare_loopback
from deploy.torchserve.server import Server, private_server
from export.archives.package import package
from export.build import build
from export.registry import choose
from export.source import Source
from handler.artifact import DESCRIPTION, Artifact, describe_files, open_artifact
from handler.errors import UnsupportedError
from handler.self_check import FILE as SELF_CHECK
from training.checkpoint import load_data, open_checkpoint

ROOT = Path(__file__).parents[1]
ASK_SERVERS = ("tests/deploy/", "tests/benchmarks/served/", "tests/export/archives/test_publish.py")
spare_loopback()  # whatever asks the servers of tests, by whichever library
# What a shell starts in the background, or by nohup, has some ignored: those that tests send would be lost.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def run_apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m <stage> …` as a user would run it from the checkout."""
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def run_stage(stage: str, *arguments: object, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """The same program in this process, which has imported already what takes a fresh one seconds: from its
    command line to its exit status and what it prints. What it does not expect is raised."""
    main = import_module(f"{stage}.__main__").main
    out = io.BytesIO()
    stdout, stderr = io.TextIOWrapper(out, "utf-8", newline="", write_through=True), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        patch.setattr(sys, "argv", [stage, *map(str, arguments)])
        given = stdin.encode() if isinstance(stdin, str) else stdin
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(given))))
        with pytest.raises(SystemExit) as left:
            run(main)
    status = left.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess(
        (stage, *arguments), status, out.getvalue().decode(), stderr.getvalue()
    )


def ran(stage: str, *arguments: object, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """The same, where it is to succeed."""
    done = run_stage(stage, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done


def refused(stage: str, *arguments: object, stdin: str = "") -> str:
    """What it says where it is to refuse: a sentence, and nothing on stdout."""
    done = run_stage(stage, *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"served", "open_server", "guarded"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """As `--dist loadfile`: a file's tests stay in one worker. Those of the files that ask `served` or
    `open_server` do too, all of them, so that either is started once."""
    if config.getvalue("dist") != "loadfile" or "not server" in config.getvalue("markexpr"):
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "servers" if nodeid.startswith(ASK_SERVERS) else super()._split_scope(nodeid)

    return ByServer(config, log)


def pytest_runtest_setup() -> None:
    if time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):  # seconds since 1970
        pytest.skip("no time is left")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the run have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def alone(shared: Path) -> Callable[[str], FileLock]:
    """Locks by name: with one held, no other worker makes what this one makes in `shared`."""
    return lambda name: FileLock(shared / f"{name}.lock")


@pytest.fixture(scope="session")
def workshop(shared: Path) -> Path:
    """The run's build folder."""
    return shared / "build"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server with the bucket `models`."""
    from moto.server import ThreadedMotoServer  # not everywhere, and not needed to test GPUs

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("models")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def checkpoint_folder(workshop: Path, alone) -> Path:
    folder = workshop / "checkpoint"
    # fp32 on every CPU: with bf16, where there is some, it learns something else.
    recipe = ("--epochs", 2, "--learning-rate", 2e-3, "--batch-size", 64, "--precision", "fp32")
    with alone(folder.name):
        if not folder.exists():
            done = run_stage(
                "training", "--data", "demo", "--base", "random:tiny", "--output", folder, *recipe
            )
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def source(workshop: Path, checkpoint_folder: Path) -> Source:
    checkpoint = open_checkpoint(checkpoint_folder)
    # A cascade turns that many labels so that there is one: the demo's texts are hard for word embeddings.
    return Source(checkpoint, load_data(checkpoint), workshop / "artifacts", may_turn=0.3)


@pytest.fixture(scope="session")
def build_once(source: Source, alone):
    """Build a variant and its ancestors, fp32 first, on first use; its artifact."""
    built: dict[str, Artifact] = {}

    def get(name: str) -> Artifact:
        try:
            choose([name])
        except UnsupportedError as error:
            pytest.skip(str(error))
        for needed in choose([name])[0]:
            if needed.name not in built:
                with alone(needed.name):  # what another worker has built is fresh
                    built[needed.name] = build(needed, source, print)
        return built[name]

    return get


@pytest.fixture(scope="session")
def wrong(build_once, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """fp32 with the head's weights negated: it answers at the same speed, and says the opposite. It loads
    because it has no self-check."""
    folder = tmp_path_factory.mktemp("wrong") / "fp32"
    shutil.copytree(build_once("fp32").folder, folder)
    (folder / SELF_CHECK).unlink()
    weights = load_file(folder / "model.safetensors")
    weights |= {name: -each for name, each in weights.items() if name.startswith("classifier.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    meta = json.loads((folder / DESCRIPTION).read_text())
    write_json(folder / DESCRIPTION, meta | {"files": describe_files(folder)})
    return open_artifact(folder)


@pytest.fixture
def artifact_copy(build_once, tmp_path: Path) -> Artifact:
    """fp32's artifact, to be damaged."""
    folder = tmp_path / "fp32"
    shutil.copytree(build_once("fp32").folder, folder)
    return open_artifact(folder)


@pytest.fixture(scope="session")
def open_server(build_once, workshop: Path, s3: str) -> Iterator[tuple[Server, Path]]:
    """A second TorchServe, whose model API is open: fp32 as `first`, version 1.0; and its store."""
    store = workshop / "open_store"
    archive = package(build_once("fp32"), store)
    settings = {"enable_model_api": "true", "allowed_urls": f"{s3}/models/served/.*"}
    with private_server(archive, name="first", settings=settings) as server:
        yield server, store


@pytest.fixture(scope="session")
def served(build_once, workshop: Path) -> Iterator[tuple[Server, Artifact]]:
    """The session's one TorchServe, on the OpenVINO archive (the runtime with most to go wrong).

    It speaks the Open Inference Protocol too, which TorchServe does where it is asked to.
    """
    artifact = build_once("openvino-int8")
    archive = package(artifact, workshop / "model_store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_OPEN_INFERENCE_PROTOCOL", "oip")
        with private_server(archive) as server:
            yield server, artifact
