"""The whole way as a user goes it: archives, benchmark behind real servers, selection, promotion."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.profiles import PROFILES
from handler.artifact import archived_artifact
from tests.conftest import ran, refused, run_stage

pytestmark = pytest.mark.server

# All that a run does, each of it for a moment.
BRIEF = replace(
    PROFILES["demo"],
    blocks=2,
    most_blocks=2,
    turn_ms=1,
    single_texts=3,
    max_texts=200,
    concurrencies=(1, 8),
    served_s=0.5,
    open_shares=(0.3,),
    open_s=0.5,
    served_texts=100,
)


@pytest.fixture(scope="module")
def measured(build_once, checkpoint_folder: Path, workshop: Path) -> Path:
    """Two variants packaged and measured, in process and as served; the folder of the reports."""
    artifacts, store, results = workshop / "artifacts", workshop / "pipeline-store", workshop / "results"
    for name in ("fp32", "openvino-int8"):
        build_once(name)
    packaged = ran("export", "package", "--artifacts", artifacts, "--store", store)
    assert "hate.mar is now fp32" in packaged.stderr
    places = (
        "--artifacts",
        artifacts,
        "--checkpoint",
        checkpoint_folder,
        "--store",
        store,
        "--results",
        results,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "demo", BRIEF)
        done = run_stage(
            "benchmarks", "run", "fp32", "openvino-int8", *places, "--profile", "demo", "--threads", 1
        )
    assert done.returncode == 0, done.stderr
    return results


def test_every_variant_has_its_report_and_all_stand_side_by_side(measured: Path) -> None:
    for name in ("fp32", "openvino-int8", "side-by-side"):
        assert (measured / f"{name}.json").is_file()
        assert (measured / f"{name}.md").is_file()
    report = json.loads((measured / "openvino-int8.json").read_text())
    assert report["error"] is None
    assert report["served"], "measured through TorchServe"
    assert all(not level["errors"] for level in report["served"])
    assert report["parity_served"]["gate"]["within_bound"], "the archive that is served is the artifact"


def test_two_reports_are_compared(measured: Path) -> None:
    done = ran("benchmarks", "compare", "fp32", "openvino-int8", "--results", measured)
    assert "openvino-int8" in done.stderr
    json.loads(done.stdout)


def test_a_report_that_is_not_there_is_a_sentence(measured: Path) -> None:
    refused("benchmarks", "compare", "fp32", "nonsense", "--results", measured)


def test_selection_explains_itself_and_what_it_picks_can_be_promoted(measured: Path, workshop: Path) -> None:
    done = ran("benchmarks", "select", "--max-f1-drop", 0.5, "--results", measured)
    chosen = json.loads(done.stdout)["selected"]
    assert f"{chosen}: chosen" in done.stderr
    store = workshop / "pipeline-store"
    ran("export", "promote", chosen, "--store", store, "--force")  # the margin was for this selection alone
    assert archived_artifact(store / "hate.mar").name == chosen


def test_an_objective_that_nothing_keeps_exits_with_1_and_the_reasons(measured: Path) -> None:
    done = run_stage("benchmarks", "select", "--rps", 1e9, "--results", measured)
    assert done.returncode == 1
    assert "no variant qualifies" in done.stderr
