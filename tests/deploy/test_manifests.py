"""Containers and manifests: valid by their published schemas, and in agreement with each other and the code.

Gateway API's and KServe's own kinds are in no schema that pip brings; of KServe's the pod within is checked.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from common.torchserve import Config, read_config
from deploy.torchserve.access import PATIENCE_S
from deploy.torchserve.container import EVERY_S, MOST_FAILURES
from deploy.torchserve.server import WATCH_S
from export.archives.package import MODEL_CONFIG
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSION = "1.34"  # the first whose preStop sleep is stable
OWN_KINDS = {"Kustomization", "HTTPRoute", "BackendTLSPolicy", "InferenceService"}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
CONTAINER = DEPLOY / "container.properties"
BASE = KUBERNETES / "base" / "config.properties"
KSERVE = KUBERNETES / "kserve" / "config.properties"
EXIT = "-XX:+ExitOnOutOfMemoryError"


def documents() -> dict[str, dict]:
    """Every manifest by its path."""
    paths = sorted(KUBERNETES.rglob("*.yaml"))
    read = {path.relative_to(KUBERNETES).as_posix(): yaml.safe_load(path.read_text()) for path in paths}
    return {path: content for path, content in read.items() if "kind" in content}


def pods() -> dict[str, dict]:
    """The two pod specifications: the Deployment's, and the one that KServe makes of its predictor."""
    found = documents()
    predictor = found["kserve/inferenceservice.yaml"]["spec"]["predictor"]
    outside = {"canaryTrafficPercent", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"}
    return {
        "base": found["base/deployment.yaml"]["spec"]["template"]["spec"],
        "kserve": {key: value for key, value in predictor.items() if key not in outside},
    }


@pytest.mark.parametrize(
    "path", [path for path, manifest in documents().items() if manifest["kind"] not in OWN_KINDS]
)
def test_every_manifest_is_valid_by_kubernetes_own_schema(path: str) -> None:
    kubernetes_validate.validate(documents()[path], VERSION, strict=True)


@pytest.mark.parametrize("place", ["base", "kserve"])
def test_every_pod_is_valid_and_confined(place: str) -> None:
    pod = pods()[place]
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hate"}, "spec": pod}
    kubernetes_validate.validate(manifest, VERSION, strict=True)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in DOCKERFILE


def test_compose_is_valid_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfiles_have_nothing_to_complain_about() -> None:
    files = [str(DEPLOY / name) for name in ("Dockerfile", "Dockerfile.train")]
    lint = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([lint, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_mounts_what_there_is() -> None:
    """But for the certificate, which is the reader's own."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    named = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    files = {name for name in named if name.startswith(".")} - {"../tls"}
    assert not {name for name in files if not (DEPLOY / name).exists()}
    assert {"127.0.0.1"} == {
        port.split(":")[0] for service in services.values() for port in service.get("ports", [])
    }


@pytest.mark.parametrize(
    ("path", "differs"),
    [
        (CONTAINER, set()),
        (BASE, {"disable_token_authorization", "token_expiration_min", "metrics_address"}),
        (
            KSERVE,
            {"disable_token_authorization", "token_expiration_min", "metrics_address", "inference_address"}
            | {"private_key_file", "certificate_file"},
        ),
    ],
    ids=["container", "base", "kserve"],
)
def test_each_place_is_configured_as_production_but_for_what_it_says(path: Path, differs: set[str]) -> None:
    production = read_config(DEPLOY / "production.properties").values
    here = {key: value.replace("/srv/", "") for key, value in read_config(path).values.items()}
    here["vmargs"] = here["vmargs"].replace(f"{EXIT} ", "")
    everything = production.keys() | here.keys()
    assert {key for key in everything if production.get(key) != here.get(key)} == differs


@pytest.mark.parametrize(("place", "path"), [("base", BASE), ("kserve", KSERVE)])
def test_ports_and_files_of_a_pod_are_those_of_its_configuration(place: str, path: Path) -> None:
    config, pod = read_config(path), pods()[place]
    (container,) = pod["containers"]
    inference, _, metrics, *_ = config.ports
    assert {port["containerPort"] for port in container["ports"]} <= {inference, metrics}
    assert inference in {port["containerPort"] for port in container["ports"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"{Path(value['value']).parent}" for value in container["env"]} <= mounts
    if certificate := config["certificate_file"]:
        assert str(Path(certificate).parent) in mounts
    assert {"/tmp", workdir()} <= mounts, "what TorchServe writes to"


def test_the_image_holds_what_its_configuration_names() -> None:
    config = read_config(CONTAINER)
    assert f"EXPOSE {config.ports[0]}" in DOCKERFILE
    for place in named_files(config):
        assert f"deploy/{Path(place).name}" in DOCKERFILE, place
    assert f"COPY ${{ARCHIVE}} {config['model_store']}/" in DOCKERFILE


def test_the_network_lets_the_gateway_to_inference_and_prometheus_to_metrics_alone() -> None:
    inference, _, metrics, *_ = read_config(BASE).ports
    found = documents()
    rules = found["base/networkpolicy.yaml"]["spec"]["ingress"]
    allowed = {port["port"]: rule["from"][0] for rule in rules for port in rule["ports"]}
    assert allowed.keys() == {inference, metrics}
    assert "prometheus" in str(allowed[metrics])
    assert "egress" not in found["base/networkpolicy.yaml"]["spec"]
    annotations = found["base/deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(metrics)
    (served,) = found["base/service.yaml"]["spec"]["ports"]
    (container,) = pods()["base"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]}[
        served["targetPort"]
    ] == inference


@pytest.mark.parametrize("place", ["base", "kserve"])
def test_a_worker_has_as_many_threads_as_the_pod_has_cpus(place: str) -> None:
    """Zero threads in the archive are as many as the quota has whole CPUs (handler/machine.py)."""
    assert MODEL_CONFIG["handler"]["threads"] == 0  # type: ignore[index]
    assert MODEL_CONFIG["minWorkers"] == 1
    (container,) = pods()[place]["containers"]
    resources = container["resources"]
    assert re.fullmatch(r"[1-9]\d*", resources["limits"]["cpu"]), "whole CPUs"
    assert resources["requests"] == resources["limits"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    "path",
    [
        "deploy/.env",
        ".env",
        ".env.local",
        "key_file.json",
        "one/key_file.json",
        "tls/tls.key",
        "one/tls/tls.crt",
        "own.pem",
    ],
)
def test_no_secret_gets_into_git_or_an_image(path: str) -> None:
    if (ROOT / ".git").exists():
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
    left_out = (ROOT / ".dockerignore").read_text().split()
    parts = [Path(*Path(path).parts[:count]) for count in range(1, len(Path(path).parts) + 1)]
    assert any(
        part.match(pattern.removeprefix("**/"))
        for part in parts
        for pattern in left_out
        if pattern.startswith("**/")
    )


def test_java_ends_for_want_of_memory_where_something_starts_it_again_and_nowhere_else() -> None:
    for path in (CONTAINER, BASE, KSERVE):
        assert EXIT in read_config(path)["vmargs"].split()
    for path in (ROOT / "config.properties", DEPLOY / "production.properties"):
        assert EXIT not in read_config(path)["vmargs"]


@pytest.mark.parametrize("place", ["base", "kserve"])
def test_liveness_asks_the_worker_and_has_time_to(place: str) -> None:
    """A look takes up to twice the patience with an answer, and a while of watching."""
    (container,) = pods()[place]["containers"]
    alive, ready = container["livenessProbe"], container["readinessProbe"]
    assert alive["exec"]["command"][-1] == "alive"
    assert ready["exec"]["command"][-1] == "probe"
    for probe in (alive, ready):
        assert probe["timeoutSeconds"] > 2 * PATIENCE_S + WATCH_S
    own = EVERY_S * MOST_FAILURES
    assert alive["periodSeconds"] * alive["failureThreshold"] > own, "the container ends by itself first"
    assert ready["periodSeconds"] * ready["failureThreshold"] < own or place == "kserve"


def test_a_pod_waits_for_its_queue_before_it_ends() -> None:
    pod = pods()["base"]
    (container,) = pod["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert waits < pod["terminationGracePeriodSeconds"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes_of_one_that_torchserve_has() -> None:
    (metric,) = documents()["base/horizontalpodautoscaler.yaml"]["spec"]["metrics"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    counters = yaml.safe_load((DEPLOY / "metrics.yaml").read_text())["ts_metrics"]["counter"]
    assert rule["seriesQuery"].split("{")[0] in {counter["name"] for counter in counters}


def test_the_canarys_route_names_the_services_that_there_are() -> None:
    found = documents()
    name = found["base/service.yaml"]["metadata"]["name"]
    suffix = found["canary/second/kustomization.yaml"]["nameSuffix"]
    (rule,) = found["canary/httproute.yaml"]["spec"]["rules"]
    backends = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert backends.keys() == {name, name + suffix}
    assert sum(backends.values()) == 100
    trusted = {target["name"] for target in found["canary/backendtlspolicy.yaml"]["spec"]["targetRefs"]}
    assert trusted == backends.keys()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("folder", ["base", "canary", "kserve"])
def test_kustomize_builds_it_and_the_selectors_are_filled(folder: str) -> None:
    built = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    made = list(yaml.safe_load_all(built.stdout))
    for manifest in made:
        if manifest["kind"] not in OWN_KINDS:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        if manifest["kind"] == "Deployment":
            track = manifest["spec"]["selector"]["matchLabels"]["track"]
            assert manifest["spec"]["template"]["metadata"]["labels"]["track"] == track
    configs = [manifest["metadata"]["name"] for manifest in made if manifest["kind"] == "ConfigMap"]
    assert all(built.stdout.count(name) == 2 for name in configs), "made, and mounted"


def workdir() -> str:
    (folder,) = re.findall(r"^WORKDIR (\S+)", DOCKERFILE, re.MULTILINE)
    return folder


def named_files(config: Config) -> list[str]:
    return re.findall(r"/srv/deploy/[\w.]+", " ".join(config.values.values()))
