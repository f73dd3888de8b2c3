import json

import pytest

from benchmarks.report.files import read_shift
from benchmarks.sameness.shift import NAME, Asked, Shift, Shifted, excerpt, table
from benchmarks.studies import cascade_shift
from handler.errors import UserError
from handler.predictor import Predictor
from training.measures import functional

VARIANT = "openvino-int8-cascade"


def test_counts_are_those_of_the_two_predictors(build_once, source, tmp_path, capsys) -> None:
    cascade, fp32 = (Predictor(build_once(name), 1) for name in (VARIANT, "fp32"))
    capsys.readouterr()
    given = ("--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts, "--results", tmp_path)
    others = f"csv:{tmp_path / 'others.csv'}"
    labels = ("not-hate", "hate")
    lines = [f"A letter about shelf {row} of the library,{labels[row % 2]}" for row in range(200)]
    (tmp_path / "others.csv").write_text("\n".join(["text,label", *lines]))
    assert cascade_shift.main([*map(str, given), "--on", others, "--texts", "30", VARIANT]) == 0
    found = read_shift(tmp_path / f"{NAME}.json")
    assert json.loads(capsys.readouterr().out)["variant"] == found.variant == VARIANT
    rows = {row.texts: row for row in found.rows}
    gate = list(source.dataset.splits["gate"].texts)
    labels = [cascade_shift._labels(predictor, gate) for predictor in (cascade, fp32)]
    assert rows["gate"].n == len(gate)
    assert rows["gate"].turned == int((labels[0] != labels[1]).sum())
    assert [asked.texts for asked in rows["gate"].asked] == list(cascade.asked_again.values())
    assert rows[others].n == 30
    assert rows["functional cases"].n == len(functional.templates())
    assert rows["gate, upper case"].lost_fp32 == 0, "the tokenizer lower-cases"
    assert rows["gate, upper case"].turned == rows["gate"].turned
    assert found.promised == cascade.artifact.meta.proof["turned_first_at_most"]


def test_texts_that_the_model_knows_are_not_other_texts(source) -> None:
    options = cascade_shift.argparse.Namespace(data_dir=source.checkpoint.folder, texts=50)
    with pytest.raises(UserError, match="no texts that the model does not know"):
        cascade_shift._others(source.dataset.spec, options, source.dataset)


def test_drift_is_said_where_a_stage_is_asked_more(build_once) -> None:
    pair = cascade_shift.Pair(Predictor(build_once(VARIANT), 1), Predictor(build_once("fp32"), 1))
    reference = pair.cascade.artifact.meta.reference
    asked, texts = reference.asked or {}, sum(reference.lengths.counts)
    same = pair._asked({stage: 10 * count for stage, count in asked.items()}, 10 * texts)
    assert {each.drift for each in same} == {"no drift"}
    far = {stage: 0 if 2 * count > texts else 10 * texts for stage, count in asked.items()}
    assert [each.drift for each in pair._asked(far, 10 * texts)] == ["drift"]


def test_one_stage_is_refused(build_once, source, capsys) -> None:
    build_once("openvino-int8")
    given = ("--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts)
    with pytest.raises(SystemExit) as left:
        cascade_shift.main([*map(str, given), "openvino-int8"])
    assert left.value.code == 2
    assert "name a cascade" in capsys.readouterr().err


def test_the_table_has_shares_with_their_interval() -> None:
    plain = Shifted(texts="gate", n=1000, asked=[Asked(stage="int8", texts=620, drift="no drift")], turned=5)
    moved = Shifted(
        texts="gate, leetspeak",
        n=1000,
        asked=[Asked(stage="int8", texts=900, drift="drift")],
        turned=30,
        found=400,
        lost_fp32=90,
        lost=100,
    )
    found = Shift(variant=VARIANT, data="demo", promised=0.0091, rows=[plain, moved])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(found).splitlines()]
    assert cells[2][:3] == ["gate", "1,000", "62%"]
    assert cells[2][3].startswith("0.50% (0.16% to 1.1")
    assert cells[3][2] == "90%, drift"
    assert cells[3][4] == "90, 100 of 400"
    assert "turns at most 0.91% of labels" in excerpt(found)
