"""The locust file: correct without locust, which is no dependency, and importable where it is there."""

import ast
import importlib
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "locustfile.py"


def test_one_user_posts_json_to_predictions() -> None:
    tree = ast.parse(FILE.read_text())
    (user,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert [base.id for base in user.bases if isinstance(base, ast.Name)] == ["HttpUser"]
    posts = [
        node
        for node in ast.walk(user)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "post"
    ]
    assert [ast.literal_eval(post.args[0]) for post in posts] == ["/predictions/hate"]
    assert [sorted(str(keyword.arg) for keyword in post.keywords) for post in posts] == [
        ["catch_response", "json"]
    ]


def test_texts_come_from_the_named_file(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("locust")
    (tmp_path / "texts.txt").write_text("one text\n\nanother\u2028of two\n")
    monkeypatch.setenv("TEXTS_FILE", str(tmp_path / "texts.txt"))
    found = importlib.import_module("benchmarks.locustfile")
    assert found.read_texts() == ["one text", "another\u2028of two"]
    monkeypatch.delenv("TEXTS_FILE")
    assert found.read_texts() == list(found.SENTENCES)
