"""Servers that others would pick, each as its documentation shows, with batches, in its own environment.

What they serve is one of `served_model`: transformers' pipeline on the checkpoint, a Predictor of this
project, or a constant.
"""

import http.client
import json
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.baselines.environments import SILENT, Environment, found, install
from benchmarks.baselines.handlers.served_model import BATCH_DELAY_MS, BATCH_SIZE
from benchmarks.in_process.worker import OURS
from benchmarks.served.run import READY_S, Running
from common.environment import ROOT, is_checkout
from common.proxies import open_direct
from deploy.torchserve.server import free_ports
from handler.errors import UserError

FOLDER = "servers"  # below that of the baselines
APPS = "benchmarks.baselines.handlers"
HANDLERS = Path(__file__).parent / "handlers"
END_S = 20
ASK_S = 60
Command = Callable[[int, Path, Path], list[str]]


def _text(text: str) -> Any:
    return {"text": text}


def _itself(answer: Any) -> Any:
    return answer


def _tensor(text: str) -> Any:
    """A text in the Open Inference Protocol."""
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}


def _row(text: str) -> Any:
    """The same for Triton, which counts rows."""
    return {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}


def _output(answer: Any) -> Any:
    return json.loads(answer["outputs"][0]["data"][0])


def _app(name: str, *options: str) -> Command:
    """`python -m` one of our files, with the port in its options."""
    return lambda port, scratch, folder: [
        f"-m{APPS}.{name}",
        *(option.format(port=port) for option in options),
    ]


def _bentoml(port: int, scratch: Path, folder: Path) -> list[str]:
    service = f"{APPS}.bentoml_service:Classifier"
    return ["-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)]


def _mlserver(port: int, scratch: Path, folder: Path) -> list[str]:
    grpc, metrics = free_ports(2)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics}
    (scratch / "settings.json").write_text(json.dumps({**settings, "debug": False}))
    model = {"name": "classifier", "implementation": f"{APPS}.mlserver_runtime.Classifier"}
    batches = {"max_batch_size": BATCH_SIZE, "max_batch_time": BATCH_DELAY_MS / 1000}
    (scratch / "model-settings.json").write_text(json.dumps(model | batches))
    return ["-c", "from mlserver.cli import main; main()", "start", str(scratch)]


def _infinity(port: int, scratch: Path, folder: Path) -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    model = ["--model-id", str(folder), "--served-model-name", "classifier"]
    engine = [
        "--engine",
        "torch",
        "--device",
        "cpu",
        "--batch-size",
        str(BATCH_SIZE),
        "--no-bettertransformer",
    ]
    return [f"-m{APPS}.infinity_app", "v2", *address, *model, *engine]


@dataclass(frozen=True)
class PublicServer:
    """`packages` go into its environment; `command(port, scratch, folder)` is what its interpreter runs,
    `path` where it is asked, `body` a request of one text and `answer` what is in a response;
    `patch` is what its interpreters run first."""

    name: str
    summary: str
    documentation: str
    packages: tuple[str, ...]
    command: Command
    path: str
    body: Callable[[str], Any] = _text
    answer: Callable[[Any], Any] = _itself
    patch: Path | None = None

    def bodies(self, texts: Sequence[str]) -> list[bytes]:
        """A request for each text."""
        return [json.dumps(self.body(text)).encode() for text in texts]


PUBLIC_SERVERS = {
    server.name: server
    for server in (
        PublicServer(
            "litserve",
            "LitServe, one worker",
            "https://lightning.ai/docs/litserve/features/batching",
            ("litserve",),
            _app("litserve_app"),
            "/predict",
        ),
        PublicServer(
            "bentoml",
            "BentoML with adaptive batching, one worker",
            "https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html",
            ("bentoml",),
            _bentoml,
            "/classify",
            body=lambda text: {"texts": [text]},
            answer=lambda answer: answer[0],
        ),
        PublicServer(
            "ray-serve",
            "Ray Serve, one replica",
            "https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
            ("ray[serve]",),
            _app("ray_app"),
            "/",
        ),
        PublicServer(
            "mlserver",
            "MLServer with a custom runtime and adaptive batching",
            "https://mlserver.readthedocs.io/en/latest/user-guide/adaptive-batching.html",
            ("mlserver", "uvloop<0.22"),  # its workers expect asyncio as it was
            _mlserver,
            "/v2/models/classifier/infer",
            body=_tensor,
            answer=_output,
        ),
        PublicServer(
            "mosec",
            "mosec, one worker",
            "https://mosecorg.github.io/mosec/examples/echo.html",
            ("mosec",),
            _app("mosec_app", "--address", "127.0.0.1", "--port", "{port}", "--timeout", "60000"),
            "/inference",
        ),
        PublicServer(
            "infinity",
            "infinity, its torch engine for the pipeline",
            "https://michaelfeil.eu/infinity/latest/cli_v2/",
            ("infinity-emb[server,torch]", "pandas<3", "pyarrow<21"),  # of its numpy 1
            _infinity,
            "/classify",
            body=lambda text: {"model": "classifier", "input": [text]},
            answer=lambda answer: max(answer["data"][0], key=lambda label: label["score"]),
        ),
        PublicServer(
            "triton",
            "Triton by PyTriton with its dynamic batcher",
            "https://triton-inference-server.github.io/pytriton/latest/binding_models/",
            ("nvidia-pytriton",),
            _app("pytriton_app"),
            "/v2/models/classifier/infer",
            body=_row,
            answer=_output,
            patch=HANDLERS / "triton_start.py",
        ),
    )
}


def environment_of(server: PublicServer, baselines: Path) -> Environment:
    """What is installed for it, below the folder of the baselines."""
    return found(baselines / FOLDER / server.name, server.packages)


def install_each(names: Sequence[str], baselines: Path) -> dict[str, Environment]:
    """Each in an environment of its own."""
    servers = {name: PUBLIC_SERVERS[name] for name in names}
    return {
        name: install(baselines / FOLDER / name, server.packages, server.patch)
        for name, server in servers.items()
    }


@contextmanager
def serve_public(
    server: PublicServer, environment: Environment, model: str, folder: Path
) -> Iterator[Running]:
    """The server with a `model` of `served_model` on `folder`, from its first right status until it ended."""
    (port,) = free_ports(1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"{server.name}-") as name:
        scratch = Path(name)
        own = {"MODEL": model, "FOLDER": str(folder.resolve()), "PORT": str(port), "TMPDIR": name}
        own |= {
            "PYTHONPATH": str(ROOT) if is_checkout() else "",
            "BENTOML_HOME": name,
            "RAY_raylet_start_wait_time_s": "120",
            **SILENT,
        }
        command = [str(environment.python.absolute()), *server.command(port, scratch, folder.resolve())]
        inherited = {key: value for key, value in os.environ.items() if key not in OURS}
        log = scratch / "log"
        with log.open("wb") as output:
            process = psutil.Popen(
                command,
                cwd=scratch,
                env=inherited | own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}{server.path}"
            _wait(process, url, server, log, begun + READY_S)
            yield Running(url, time.perf_counter() - begun, process)
        finally:
            end(process)


def _wait(process: psutil.Popen, url: str, server: PublicServer, log: Path, deadline: float) -> None:
    """Until it answers a text."""
    (body,) = server.bodies(["warm"])
    while True:
        with suppress(OSError, http.client.HTTPException, ValueError):
            ask(url, body)
            return
        if process.poll() is not None or time.perf_counter() > deadline:
            written = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
            raise UserError(f"{server.name} did not start", seen=written[-1][:300], remedy="Try again")
        time.sleep(0.2)


def ask(url: str, body: bytes) -> Any:
    """The JSON in a response with status 200. Raises `OSError` for others."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with open_direct(request, ASK_S) as response:
        return json.loads(response.read())


def tree(root: psutil.Process) -> list[psutil.Process]:
    """It and all below it that run."""
    with suppress(psutil.Error):
        return [root, *root.children(recursive=True)]
    return []


def end(process: psutil.Popen) -> None:
    """Ask it to end, and end what is left of its tree."""
    processes = tree(process)
    with suppress(psutil.Error):
        process.terminate()
    _, alive = psutil.wait_procs(processes, END_S)
    for left in alive:
        with suppress(psutil.Error):
            left.kill()
    psutil.wait_procs(alive, END_S)
