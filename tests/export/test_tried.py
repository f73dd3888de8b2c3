"""What `ship` tries besides the default, and what becomes of a variant that its own rule refuses."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

import export.build
from export import registry
from export.command import _build_all, _few_texts
from export.registry import RefusedError, choose
from export.variants.stages import cascade_rule, least_texts
from handler.errors import UserError

STAGED = ("rechecked", "cascade", "rechecked-cascade")
OPENVINO = [f"openvino-int8-{name}" for name in STAGED]


def names(asked: list[str], **options: object) -> list[str]:
    return [variant.name for variant in choose(asked, **options)[0]]


def test_ship_adds_the_re_check_and_the_cascades_of_the_fastest_family() -> None:
    added = set(names(["ship"])) - set(names(["default"]))
    assert added == {*OPENVINO, "static", "static-openvino-fp32"}


def test_without_openvino_they_are_onnx_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    present = registry._present
    monkeypatch.setattr(registry, "_present", lambda need: need != "openvino" and present(need))
    assert {f"onnx-int8-{name}" for name in STAGED} < set(names(["ship"]))
    assert not any("openvino" in name for name in names(["ship"]))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.5])
def test_fewer_texts_could_not_prove_a_rule_though_nothing_were_turned(share: float) -> None:
    least = least_texts(share)
    for texts in (least - 1, least):
        margins = [50.0] * texts
        found = cascade_rule(*_arrays(margins), share)
        assert (found["answered_first"] > 0) == (texts == least)


def _arrays(margins: list[float]):
    import numpy as np

    return np.array(margins), np.zeros(len(margins), bool)


def test_with_few_texts_no_cascade_is_tried_and_a_sentence_says_why() -> None:
    assert _few_texts(299, 0.01) == {}
    chosen, left_out = choose(["ship"], unfit=_few_texts(298, 0.01))
    found = {variant.name for variant in chosen}
    assert "openvino-int8-rechecked" in found
    assert not {"static", *OPENVINO[1:]} & found
    need = "299 texts of validation or traffic, to show that at most 1.0% of labels turn (298 were found)"
    assert left_out["openvino-int8-cascade"] == [need]
    assert OPENVINO[1] in names([OPENVINO[1]], unfit=_few_texts(298, 0.01)), "it was named"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], dict[str, str]]]:
    """The names that are built, and why others failed, where building raises what is `wrong`, by name."""

    def run(asked: list[str], **wrong: UserError) -> tuple[list[str], dict[str, str]]:
        def build(variant, source, say):
            if error := wrong.get(variant.name.replace("-", "_")):
                raise error
            return SimpleNamespace(name=variant.name)

        monkeypatch.setattr(export.build, "build", build)
        artifacts, failed = _build_all(choose(asked)[0], None, asked)
        return [artifact.name for artifact in artifacts], failed

    return run


REFUSED = RefusedError("it may answer too little", remedy="Serve int8")


def test_what_its_rule_refuses_is_left_out_where_it_was_tried_and_fails_where_it_was_named(
    built, capsys
) -> None:
    found, failed = built(["ship"], openvino_int8_cascade=REFUSED)
    assert failed == {}
    assert OPENVINO[1] not in found
    assert {"openvino-int8", OPENVINO[0], OPENVINO[2]} < set(found)
    assert "openvino-int8-cascade: left out, it may answer too little" in capsys.readouterr().err
    found, failed = built(OPENVINO, openvino_int8_cascade=REFUSED)
    assert list(failed) == [OPENVINO[1]]
    assert "it may answer too little" in failed[OPENVINO[1]]


def test_children_of_what_is_refused_share_its_fate(built) -> None:
    found, failed = built(["ship"], openvino_int8_rechecked=REFUSED)
    assert failed == {}
    assert OPENVINO[1] in found
    assert OPENVINO[2] not in found
    found, failed = built([OPENVINO[2]], openvino_int8_rechecked=REFUSED)
    assert list(failed) == [OPENVINO[2]]


def test_what_breaks_has_failed_whoever_asked_for_it(built) -> None:
    broken = UserError("it broke", remedy="Repair it")
    found, failed = built(["ship"], static=broken)
    assert set(failed) == {"static", "static-openvino-fp32", *OPENVINO[1:]}
    assert OPENVINO[0] in found
