"""What is kept of a run that was interrupted."""

from pathlib import Path

import pytest

from benchmarks.resume_log import FILE, ResumeLog
from handler.errors import UserError


def fails() -> None:
    raise AssertionError("measured twice")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_a_finished_piece_is_not_measured_again(folder: Path) -> None:
    first = ResumeLog(folder, {"artifact": "a"})
    assert first.once("latency 0", lambda: {"fp32": [1.5]}) == {"fp32": [1.5]}
    again = ResumeLog(folder, {"artifact": "a"})
    assert again.once("latency 0", fails) == {"fp32": [1.5]}
    assert (first.resumed, again.resumed, ResumeLog(folder, {"artifact": "a"}).resumed) == (0, 1, 2)


def test_another_subject_starts_afresh_and_destroys_nothing(folder: Path) -> None:
    ResumeLog(folder, {"artifact": "a"}).put("latency 0", 1)
    assert len(ResumeLog(folder, {"artifact": "b"})) == 0
    assert len(ResumeLog(folder, {"artifact": "a"})) == 1


def test_a_run_that_ended_before_its_first_piece_was_not_resumed(folder: Path) -> None:
    ResumeLog(folder, {})
    assert ResumeLog(folder, {}).resumed == 0


def test_a_fresh_run_can_be_asked_for(folder: Path) -> None:
    ResumeLog(folder, {}).put("latency 0", 1)
    assert len(ResumeLog(folder, {}, fresh=True)) == 0


def test_a_line_that_was_cut_short_is_measured_again_and_the_next_are_whole(folder: Path) -> None:
    resume_log = ResumeLog(folder, {})
    resume_log.put("one", 1)
    resume_log.put("two", 2)
    (path,) = folder.glob(FILE.format(key="*"))
    path.write_text(path.read_text()[:-4])
    again = ResumeLog(folder, {})
    assert again.under("") == {"one": 1}
    again.put("two", 3)
    assert ResumeLog(folder, {}).under("") == {"one": 1, "two": 3}


def test_a_run_that_is_over_leaves_nothing(folder: Path) -> None:
    resume_log = ResumeLog(folder, {})
    resume_log.put("one", 1)
    resume_log.finish()
    assert list(folder.iterdir()) == []
    assert ResumeLog(folder, {}).resumed == 0


def test_without_a_place_nothing_is_kept(tmp_path: Path) -> None:
    assert ResumeLog(None, {}).once("one", lambda: 1) == 1
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="the results cannot be written"):
        ResumeLog(tmp_path / "results", {})
