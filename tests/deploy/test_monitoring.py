"""Monitoring is run for real: Prometheus scrapes the session's TorchServe and the drift exporter, and every
query of the dashboard and of the rules is asked."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml

from common.proxies import open_url
from deploy.drift import sources
from deploy.drift.judge import Counts
from deploy.torchserve.server import Server, free_ports
from handler.artifact import Artifact
from tests.asking import PREDICT, ask_json, wait_until
from tests.conftest import ROOT, run_stage

MONITORING = ROOT / "deploy" / "monitoring"
RULES = ("recording.yml", "alerts.yml")
CONFIGURATIONS = ("prometheus.yml", "prometheus-app.yml")
EMPTY = {
    "ServerUnwatched",  # the alert on what a healthy server does not lack
    "SelfCheckMismatch",  # no worker found one
    # A model of one stage asks no other.
    "instance_stage:texts_asked_again:ratio_rate1h",
    "Texts truncated, or asked of another stage B",
    # TorchServe has no shadow.
    "ShadowDown",
    "ShadowFlips",
    *(f"Shadow: texts whose label differs {place}" for place in "ABC"),
    # --p99-ms says nothing of a rate.
    "LoadBeyondPromise",
    "instance_ModelName:requests_beyond_promise:rate5m",
    "p99: promise against present C",
    # An artifact without bands decides nothing.
    "instance_decision:texts:ratio_rate1h",
    "Labels and decisions B",
}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (on Debian: apt-get install prometheus)")
    return found


def rules() -> list[dict]:
    groups = [group for name in RULES for group in yaml.safe_load((MONITORING / name).read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads((MONITORING / "dashboard.json").read_text())["panels"]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_promtool_takes_the_configuration_and_its_rules(configuration: str) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "config", MONITORING / configuration], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("SUCCESS") >= 2


def test_every_alert_fires_on_its_case_and_none_on_a_healthy_server() -> None:
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fired = re.findall(r'exp_samples: .*alertname="(\w+)"|labels: .*alertname="(\w+)"', alert_cases())
    assert {first or second for first, second in fired} == {
        rule["alert"] for rule in rules() if "alert" in rule
    }


def alert_cases() -> str:
    return (MONITORING / "alerts_test.yml").read_text()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule
        assert rule["annotations"].keys() == {"summary", "action"}, rule
        assert rule.get("for") or rule["alert"] == "WorkerRestarted", rule


def test_every_panel_has_its_place_and_a_sentence() -> None:
    places = set()
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_what_is_recorded_is_read() -> None:
    read = json.dumps(panels()) + "".join(rule["expr"] for rule in rules())
    assert [rule["record"] for rule in rules() if rule.get("record", "up") not in read] == []


@contextmanager
def running(command: list[object], *, ready: str) -> Iterator[None]:
    """A program, from when its output says `ready` until the end of the block."""
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        while ready not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def prometheus(ports: dict[str, int], folder: Path) -> Iterator[str]:
    """The project's own configurations together, looking every second, at the ports of their jobs; the
    address of its API."""
    found = [yaml.safe_load((MONITORING / name).read_text()) for name in CONFIGURATIONS]
    config = found[0] | {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    jobs = {job["job_name"]: job for each in found for job in each["scrape_configs"]}
    for name, port in ports.items():
        jobs[name]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    config["scrape_configs"] = [jobs[name] for name in ports]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, ready="ready to receive web requests"):
        yield f"http://127.0.0.1:{port}"


def numbers(address: str, expression: str) -> list[float]:
    """What Prometheus answers; what is not a number (0/0) is no answer."""
    with open_url(f"{address}/api/v1/query?{urlencode({'query': expression})}", 30) as response:
        found = json.load(response)["data"]["result"]
    return [value for value in (float(each["value"][1]) for each in found) if value == value]


def expressions() -> dict[str, str]:
    """All that Prometheus is asked, by who asks. Alerts compare to 0 or 1, so that health is not empty."""
    asked = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    for rule in rules():
        if "alert" in rule:
            asked[rule["alert"]] = re.sub(r" (==|>|<) ", r" \1 bool ", rule["expr"])
        else:
            asked[rule["record"]] = rule["expr"]
    return asked


def test_every_query_of_the_dashboard_and_of_the_rules_has_an_answer(
    served: tuple[Server, Artifact], tmp_path: Path
) -> None:
    server, artifact = served
    tool("prometheus")
    port, app_port = free_ports(2)
    rule = ["--artifact", artifact.folder, "--least-texts", "200"]
    watch = [sys.executable, "-m", "deploy", "drift", *rule, "--metrics", server.metrics]
    watch += ["--listen", f"127.0.0.1:{port}"]
    # Of another name, so that its texts are not those of TorchServe.
    app = [sys.executable, "-m", "deploy", "app", "--artifact", f"app={artifact.folder}", "--p99-ms", "50"]
    app += ["--threads", "1", "--port", str(app_port)]
    ports = {"torchserve": server.metrics_port, "app": app_port, "drift": port}
    with (
        running(watch, ready="end with Ctrl-C"),
        running(app, ready="ready. Try it"),
        prometheus(ports, tmp_path) as address,
    ):
        wait_until(
            lambda: numbers(address, "count(up == 1) + count(classifier_drift_up == 1)") == [4],
            "all are looked at",
        )
        before = sources.served(server.metrics, "hate")
        for sent in (121, 242):  # twice, since a rate is of counters that are there already
            ask_good_and_bad(server)
            for _ in range(100):  # as many as a p99 takes
                assert ask_json(app_port, "/predict", {"text": "good day"})[0] == 200
            wait_until(
                lambda sent=sent: (
                    histograms(sources.recorded(address, "hate", 300)) == since(server, before)
                    and numbers(address, "min(classifier_drift_texts)") == [sent]
                ),
                "Prometheus has every text, those too that came as a counter appeared; so has the exporter",
            )
        asked = {who: query for who, query in expressions().items() if who not in EMPTY}
        wait_until(
            lambda: all(numbers(address, query) for query in asked.values()),
            lambda: [who for who, query in asked.items() if not numbers(address, query)],
        )
        assert not [who for who in EMPTY if numbers(address, expressions()[who])], "these need no exception"
        assert not numbers(address, 'ALERTS{alertstate="firing", alertname!="WorkerRestarted"}')

        done = run_stage("deploy", "drift", *rule, "--prometheus", address)
        verdicts = {row["distribution"]: row for row in json.loads(done.stdout)["distributions"]}
        assert done.returncode == 1, "one text two hundred times is no validation set"
        of_lengths = '{distribution="length"}'
        assert numbers(address, f"classifier_drift_psi{of_lengths}") == [
            pytest.approx(verdicts["length"]["psi"])
        ]
        assert numbers(address, f"classifier_drift_detected{of_lengths}") == [1]


def histograms(found: Counts) -> dict[tuple[str, str], int]:
    return {key: count for key, count in found.items() if count and key[0] != sources.HEARTBEAT}


def since(server: Server, before: Counts) -> dict[tuple[str, str], int]:
    return histograms(sources.increase(before, sources.served(server.metrics, "hate")))


def ask_good_and_bad(server: Server) -> None:
    assert ask_json(server.inference_port, PREDICT, {"texts": ["good day"] * 119 + [""]})[0] == 200
    assert ask_json(server.inference_port, PREDICT, {"text": "a long word " * 200})[0] == 200
    assert ask_json(server.inference_port, PREDICT, {"text": 3})[0] == 422
    assert ask_json(server.inference_port, "/explanations/hate", {"text": "good day"})[0] == 200
