"""The machine's fingerprint: what it tells, and what it must not tell."""

import json
import platform

from benchmarks import environment


def test_the_fingerprint_names_hardware_and_versions_but_not_the_host() -> None:
    found = environment.fingerprint()
    assert found.cores >= 1
    assert found.versions["python"] == platform.python_version()
    assert "torch" in found.versions
    assert len(platform.node()) < 3 or platform.node() not in json.dumps(found)


def test_the_id_is_of_the_hardware_alone(monkeypatch) -> None:
    before = environment.fingerprint().id
    monkeypatch.setattr(environment, "versions", lambda packages: {"python": "9.9"})
    assert environment.fingerprint().id == before
    monkeypatch.setattr("common.environment.cpu_model", lambda: "Another processor")
    assert environment.fingerprint().id != before


def test_a_machine_at_work_is_busy() -> None:
    assert environment.is_busy(1000.0)
    assert not environment.is_busy(0.0)
    assert not environment.is_busy(None)
