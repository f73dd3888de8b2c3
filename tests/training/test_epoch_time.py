"""The comparison of epochs: both are trained in processes of their own, on the same texts."""

import json
import random

import pytest

from benchmarks.studies import epoch_time


@pytest.mark.slow
def test_a_pair_has_times_qualities_and_their_ratio(tmp_path, capsys) -> None:
    order = random.Random(0)
    rows = [(order.choice(("good", "bad")), order.random()) for _ in range(80)]
    lines = [f"a {word} text of {number},{word}" for word, number in rows]
    (tmp_path / "made.csv").write_text("\n".join(["text,label", *lines]))
    assert (
        epoch_time.main(["--data", f"csv:{tmp_path / 'made.csv'}", "--base", "random:tiny", "--pairs", "1"])
        == 0
    )
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["ratio"] == pair["plain_s"] / pair["ours_s"]
    assert 0 <= pair["ours_macro_f1"] <= 1
    assert 0 <= pair["plain_macro_f1"] <= 1
