"""Settings found by trying: the search on simulated servers, (slow) on real ones, and in packaging."""

import json
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer

from common.torchserve import model_config, read_config
from deploy.torchserve.server import CONFIG
from deploy.tuning import settings, tune
from deploy.tuning.sample import MOST_CHARACTERS, like_reference, read_texts
from deploy.tuning.tune import Settings, is_better, repacked, search, set_netty_threads, settings_of
from export.archives.package import package
from handler.artifact import TOKENIZER, archived_artifact
from handler.errors import UserError
from tests.conftest import ran

START = Settings(workers=1, threads=2, batch_size=32, batch_delay_ms=1, netty_threads=2)


@pytest.fixture(scope="module")
def archive(build_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(build_once("openvino-int8"), tmp_path_factory.mktemp("store"))


class Simulated:
    """A server whose rate is what its settings give, and a little noise."""

    def __init__(self, settings: Settings, noise: np.random.Generator) -> None:
        self.settings, self.noise = settings, noise
        self.rates: list[float] = []
        self.latencies_ms: list[float] = []
        self.server = SimpleNamespace(resident_mb=lambda: 500.0)

    def ask(self, bodies: Sequence[bytes], concurrency: int, seconds: float) -> None:
        if self.settings.workers == 2:
            raise UserError("the model did not load", seen="no memory", remedy="Free some")
        rate = 100 + self.settings.batch_size + 20 * (self.settings.netty_threads == 1)
        self.rates.append(rate + self.noise.normal(0, 2))
        self.latencies_ms.append(1000 * concurrency / self.rates[-1])

    @property
    def p99_ms(self) -> float:
        return max(self.latencies_ms)


def searched(
    monkeypatch: pytest.MonkeyPatch, seed: int, p99_ms: float | None = None
) -> tuple[list, Settings]:
    noise, alive = np.random.default_rng(seed), []

    @contextmanager
    def served(archive: Path, settings: Settings) -> Iterator[Simulated]:
        alive.append(settings)
        assert len(alive) <= 2, "the best and the candidate; no third takes their processors"
        yield Simulated(settings, noise)
        alive.remove(settings)

    monkeypatch.setattr(tune, "served", served)
    monkeypatch.setattr(tune, "available_cpus", lambda: 2)
    options = Namespace(archive=Path("x"), concurrency=32, seconds=1.0, rounds=5, p99_ms=None)
    found = search(options, START, [b""])
    assert not alive
    return found


def test_the_search_finds_what_is_faster_and_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, best = searched(monkeypatch, seed=0)
    assert (best.batch_size, best.netty_threads, best.workers) == (64, 1, 1)
    verdicts = {row["workers"]: row["verdict"] for row in tried}
    assert "no memory" in verdicts[2]
    assert tune.table(tried).count("faster") == len(tried) - 1


def test_of_settings_that_do_not_differ_one_seldom_wins() -> None:
    noise = np.random.default_rng(0)
    won = 0
    for _ in range(2000):
        best, other = Simulated(START, noise), Simulated(START, noise)
        for _ in range(5):
            best.ask([], 32, 1.0)
            other.ask([], 32, 1.0)
        won += is_better(best, other, None)
    assert won / 2000 == pytest.approx(1 / 32, abs=0.012)


def test_an_objective_goes_before_throughput() -> None:
    slow, quick = Simulated(START, np.random.default_rng(0)), Simulated(START, np.random.default_rng(0))
    slow.rates, slow.latencies_ms = [200.0], [90.0]
    quick.rates, quick.latencies_ms = [100.0], [40.0]
    assert is_better(slow, quick, p99_ms=50)
    assert not is_better(quick, slow, p99_ms=50)
    assert is_better(quick, slow, p99_ms=None)


def test_luck_does_not_outlive_the_second_measurement() -> None:
    row = {"ratio": 0.98, "ratio_low": 0.9, "ratio_high": 1.1, "p99_ms": 40.0, "beside_p99_ms": 60.0}
    assert not tune.is_confirmed(row, None)
    assert tune.is_confirmed(row, p99_ms=50)
    assert not tune.is_confirmed({"ratio": 1.1, "p99_ms": 35.0, "beside_p99_ms": 19.0}, p99_ms=20)
    assert tune.is_confirmed({"ratio": 1.3, "p99_ms": 35.0, "beside_p99_ms": 32.0}, p99_ms=20)
    assert "not faster when measured again (0.98x (0.90 to 1.10))" in tune.verdict(START, START, row)
    assert tune.is_confirmed(row | {"ratio": 1.2}, None)


def test_an_archive_is_repacked_with_other_settings_and_nothing_else(archive: Path, tmp_path: Path) -> None:
    config = read_config(CONFIG)
    assert settings_of(archive, config) == Settings(1, tune.available_cpus(), 32, 1, 2)
    changed = Settings(2, 1, 8, 5, 1)
    other = repacked(archive, changed, tmp_path)
    assert settings_of(other, config) == Settings(2, 1, 8, 5, 2)
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(other) as after:
        assert before.namelist() == after.namelist()
        differing = [name for name in before.namelist() if before.read(name) != after.read(name)]
        assert differing == ["model-config.yaml"]
        limits = yaml.safe_load(after.read("model-config.yaml"))["handler"]
    assert limits["maxTexts"] == 128


def test_packaging_applies_what_was_tuned_here_for_this_artifact(build_once, tmp_path: Path) -> None:
    artifact = build_once("openvino-int8")
    tuned = Settings(2, 1, 8, 5, 1).model_config() | {"jobQueueSize": 77}
    found = {"artifact_sha256": artifact.sha256, "settings": tuned}
    content = {"schema": 1, "machine": settings.machine(), "archives": {artifact.name: found}}
    place = tmp_path / "tuning.json"
    place.write_text(json.dumps(content))
    artifacts = artifact.folder.parent
    options = ("--artifacts", artifacts, "--store", tmp_path / "store", "--tuning", place)
    done = ran("export", "package", *options)
    assert "hate-openvino-int8.mar" in done.stderr
    assert done.stderr.count(", tuned)") == 1
    said = model_config(tmp_path / "store" / "hate-openvino-int8.mar")
    assert (said["minWorkers"], said["batchSize"], said["jobQueueSize"]) == (2, 8, 77)
    assert said["handler"]["maxTexts"] == 128

    assert settings.settings_for(place, artifact.name, "another artifact") is None
    place.write_text(json.dumps(content | {"machine": {"cpu": "another", "cpus": 96}}))
    assert settings.settings_for(place, artifact.name, artifact.sha256) is None
    assert settings.settings_for(tmp_path / "none.json", artifact.name, artifact.sha256) is None
    place.write_text("{}")
    with pytest.raises(UserError, match="another version"):
        settings.settings_for(place, artifact.name, artifact.sha256)


def test_one_line_of_the_configuration_is_replaced(tmp_path: Path) -> None:
    config = tmp_path / "config.properties"
    config.write_text("# threads\nnumber_of_netty_threads=2\nmodel_store=here\n")
    set_netty_threads(config, 1)
    assert config.read_text() == "# threads\nnumber_of_netty_threads=1\nmodel_store=here\n"
    config.write_text("model_store=here\n")
    set_netty_threads(config, 4)
    assert config.read_text() == "model_store=here\nnumber_of_netty_threads=4\n"


def test_made_texts_have_the_lengths_of_validation(archive: Path) -> None:
    texts = like_reference(archive, 2000)
    artifact = archived_artifact(archive)
    with zipfile.ZipFile(archive) as opened:
        tokenizer = Tokenizer.from_buffer(opened.read(f"artifact/{TOKENIZER}"))
    tokenizer.no_truncation()
    lengths = [len(each.ids) for each in tokenizer.encode_batch(texts)]
    histogram = artifact.meta.reference.lengths
    edges = [0, *histogram.up_to]
    counts = np.histogram(lengths, np.array(edges) + 0.5)[0]
    expected = np.array(histogram.counts) / sum(histogram.counts)
    assert counts / 2000 == pytest.approx(expected, abs=0.04)


def test_texts_of_the_users_are_read_by_line_and_cut(tmp_path: Path) -> None:
    place = tmp_path / "texts.txt"
    place.write_text("one\n\n two \n" + "a" * (MOST_CHARACTERS + 1))
    assert read_texts(place) == ["one", "two", "a" * MOST_CHARACTERS]


@pytest.mark.slow
def test_real_servers_are_tuned_and_the_result_is_packaged(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuning.json"
    options = ("--archive", archive, "--output", output, "--rounds", 2, "--seconds", 0.5)
    done = ran("deploy", "tune", *options, "--concurrency", 4)
    found = json.loads(done.stdout)
    assert len(found["tried"]) >= 6
    assert all(row["rps"] > 0 for row in found["tried"])
    artifact = archived_artifact(archive)
    assert settings.settings_for(output, artifact.name, artifact.sha256) == found["settings"]
