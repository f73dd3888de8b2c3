import json

import numpy as np
import pytest

from benchmarks.report.files import read_rules
from benchmarks.studies import first_stage
from common.records import plain
from tests.descriptions import changed


def test_rules_from_draws_are_judged_on_all_texts(build_once, source, tmp_path, capsys) -> None:
    build_once("openvino-int8-cascade")
    capsys.readouterr()
    given = ("--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts, "--rules", 3)
    assert first_stage.main([*map(str, given), "--results", str(tmp_path), "openvino-int8-cascade"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == plain(read_rules(tmp_path / f"{first_stage.NAME}.json"))
    rules = found["rules"]
    validation = len(source.dataset.splits["validation"])
    assert {each["texts"] for each in rules} == {validation, first_stage.TRAFFIC}
    for texts in (validation, first_stage.TRAFFIC):
        of_as_many = [each for each in rules if each["texts"] == texts]
        assert [each["allowed"] for each in of_as_many] == list(first_stage.SHARES)
        answered = [each["answered"] for each in of_as_many]
        assert answered == sorted(answered), "who may turn more may answer more"
        assert all(("turned_gate" in each) == (texts == validation) for each in of_as_many)
    for few, many in zip(rules[::2], rules[1::2], strict=True):
        assert few["answered"] <= many["answered"], "more texts show more"
    assert all(0 <= each["broken"] <= each["rules"] == 3 for each in rules)


def test_a_variant_without_a_first_stage_is_refused(build_once, source, capsys) -> None:
    build_once("openvino-int8-rechecked")
    given = ("--checkpoint", source.checkpoint.folder, "--artifacts", source.artifacts)
    with pytest.raises(SystemExit) as left:
        first_stage.main([*map(str, given), "openvino-int8-rechecked"])
    assert left.value.code == 2
    assert "does not begin with word embeddings" in capsys.readouterr().err


def test_the_logits_are_the_students_own(build_once, source) -> None:
    cascade, fp32 = (first_stage.Predictor(build_once(name), 1) for name in ("openvino-int8-cascade", "fp32"))
    options = cascade.models[0].stage.options  # of the precision that the first stage is served in
    student = first_stage.Predictor(changed(build_once("static-openvino-fp32"), runtime_options=options), 1)
    texts = source.dataset.splits["gate"].texts[:20]
    found = first_stage._texts(cascade, fp32, texts)
    np.testing.assert_allclose(found.logits, student.logits(student.encode(texts)), atol=1e-4)
