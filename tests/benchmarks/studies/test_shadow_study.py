"""The study of the shadow: versions are damaged in one layer, and the alarm is that of the app."""

from itertools import cycle, islice
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.studies.shadow import damaged, off_line
from handler.predictor import Predictor

LAYER = "classifier.weight"


def test_damage_is_to_one_layer_and_found_in_every_order(build_once, tmp_path: Path) -> None:
    fp32 = build_once("fp32")
    version = damaged(fp32, LAYER, 0.5, tmp_path / "damaged")
    Predictor.load(version.folder, threads=1)
    before, after = (load_file(each.folder / "model.safetensors") for each in (fp32, version))
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [LAYER]

    served = list(islice(cycle(fp32.labels), 400))
    assert off_line(0.0, served, served, fp32, 3).alarms == 0
    _, other = fp32.labels
    found = off_line(0.5, served, [other] * 400, fp32, 5)
    assert (found.flips, found.one_way, found.alarms) == (0.5, 1.0, 1.0)
    assert found.median_texts <= found.p90_texts <= 100
    few = off_line(0.1, served, [other, *served[1:]], fp32, 3)
    assert (few.flips, few.alarms, few.median_texts) == (1 / 400, 0, None)
