"""Published reports and the tables made of them: fresh or refused, and without the owner's paths or names."""

import json
import platform

import pytest

from benchmarks.__main__ import main
from benchmarks.records import plain
from benchmarks.report.publishing import without_places
from handler.errors import UserError

TEXT = "# A project\n\n<!-- table:speed -->\n<!-- /table -->\n\nThe end.\n"


@pytest.fixture
def project(make, tmp_path):
    """A README with an empty table, and the results of a run."""
    results = tmp_path / "results"
    results.mkdir()
    found = make.document(make.variant("fp32"), make.variant("int8", speed=5))
    (results / "side-by-side.json").write_text(json.dumps(plain(found)))
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path


def command(project, name: str, *more: str) -> int:
    where = ["--published", str(project / "published")]
    where += (
        ["--results", str(project / "results"), "--ledger", str(project / "gate-ledger.json")]
        if name == "publish"
        else ["--readme", str(project / "README.md")]
    )
    return main([name, *more, *where])


def test_a_published_report_fills_the_table_and_then_it_is_fresh(project) -> None:
    assert command(project, "publish", "speed") == 0
    assert command(project, "tables", "--check") == 1
    assert (project / "README.md").read_text() == TEXT, "a check writes nothing"
    assert command(project, "tables") == 0
    assert command(project, "tables", "--check") == 0
    text = (project / "README.md").read_text()
    assert "| int8" in text
    assert text.startswith("# A project\n")
    assert text.endswith("<!-- /table -->\n\nThe end.\n")
    command(project, "tables")
    assert (project / "README.md").read_text() == text


def test_the_gates_ledger_is_published_with_its_report(project) -> None:
    command(project, "publish", "speed")
    published = project / "published" / "speed" / "gate-ledger.json"
    assert not published.exists()
    (project / "gate-ledger.json").write_text("{}")
    command(project, "publish", "speed")
    assert published.read_text() == "{}"
    command(project, "tables")
    assert command(project, "tables", "--check") == 0


def test_a_table_changed_by_hand_is_stale(project, capsys) -> None:
    command(project, "publish", "speed")
    command(project, "tables")
    path = project / "README.md"
    path.write_text(path.read_text().replace("(5.0x)", "(9.0x)", 1))
    assert command(project, "tables", "--check") == 1
    assert "README.md is stale" in capsys.readouterr().err


def test_a_page_changed_by_hand_is_stale(project) -> None:
    command(project, "publish", "speed")
    command(project, "tables")
    (project / "published" / "speed.md").write_text("five times as fast")
    assert command(project, "tables", "--check") == 1


def test_pictures_are_published_with_their_page_and_kept_fresh(project) -> None:
    command(project, "publish", "speed")
    command(project, "tables")
    folder = project / "published" / "speed"
    names = {path.name for path in folder.iterdir()}
    assert names == {"bars.svg", "pareto.svg", "batch.svg", "flips.svg"}, (
        "no picture of what the report lacks"
    )
    page = (project / "published" / "speed.md").read_text()
    assert all(f"](speed/{name})" in page for name in names)
    picture = folder / "pareto.svg"
    drawn = picture.read_bytes()
    picture.write_bytes(drawn + b" ")
    (folder / "load.svg").write_text("of another report")
    assert command(project, "tables", "--check") == 1
    assert command(project, "tables") == 0
    assert picture.read_bytes() == drawn
    assert {path.name for path in folder.iterdir()} == names
    picture.unlink()
    assert command(project, "tables", "--check") == 1


def test_a_table_of_proofs_comes_from_the_same_report_and_is_kept_fresh(project) -> None:
    command(project, "publish", "speed")
    path = project / "README.md"
    path.write_text("<!-- table:speed:proof -->\n<!-- /table -->\n\n" + TEXT)
    assert command(project, "tables") == 0
    text = path.read_text()
    proofs, speeds = text.split("<!-- /table -->")[:2]
    for part in ("| int8 ", "kernels int8", "99.70%", "0.0123", "-0.002 to +0.003", "0.0004", "12", "faster"):
        assert part in proofs, part
    assert "999 validation texts" in proofs
    assert "(5.0x)" in speeds
    assert command(project, "tables", "--check") == 0
    path.write_text(text.replace("kernels int8", "kernels int4", 1))
    assert command(project, "tables", "--check") == 1


def test_an_unknown_table_and_an_open_marker_are_refused(project) -> None:
    with pytest.raises(UserError, match="no published report speed"):
        command(project, "tables")
    (project / "README.md").write_text("<!-- table:speed -->\n")
    with pytest.raises(UserError, match="not closed"):
        command(project, "tables")


def test_publishing_refuses_a_name_that_is_a_path(project) -> None:
    with pytest.raises(UserError, match="not a valid table name"):
        command(project, "publish", "../speed")


def test_paths_and_the_host_are_left_out_of_what_is_published() -> None:
    message = f"UserError: no file /home/me/secret/model.onnx. Ask {platform.node()} (~/notes, 3/4, a -> b)"
    cleaned = without_places({"error": [message, 1.5, None]})["error"][0]
    assert "/home" not in cleaned
    assert "secret" not in cleaned
    assert "notes" not in cleaned
    assert "3/4, a -> b" in cleaned
    link = "see [it](https://example.org/a/b), not file:/home/me"
    assert without_places(link) == "see [it](https://example.org/a/b), not file:(path)"
    if len(platform.node()) > 2:
        assert platform.node() not in cleaned
