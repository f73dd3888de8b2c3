"""Artifacts and archives by a stranger: no code is run, nothing is read that is not listed, or unpacked."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.atomic import write_json
from export.archives.package import package
from handler.artifact import (
    MOST_DESCRIPTION_BYTES,
    Artifact,
    archived_artifact,
    describe_files,
    open_artifact,
    unpacked,
)
from handler.errors import UserError
from handler.predictor import Predictor
from handler.records import plain
from handler.runtimes import onnx_session
from tests.conftest import ROOT, refused

EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from transformers import DistilBertConfig as Config, DistilBertForSequenceClassification as Model
"""


def relist(folder: Path, **changed: object) -> None:
    """Whoever changes a file of an artifact renews its sum as well."""
    meta = json.loads((folder / "artifact.json").read_text())
    write_json(folder / "artifact.json", meta | changed | {"files": describe_files(folder)})


def change_config(folder: Path, **keys: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    relist(folder)


@pytest.fixture
def with_code(artifact_copy: Artifact) -> Path:
    """An artifact whose config.json names Python of its own, all of it listed."""
    (artifact_copy.folder / "evil.py").write_text(EVIL)
    mapped = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    change_config(artifact_copy.folder, model_type="evil", auto_map=mapped)
    return artifact_copy.folder


def test_yes_on_standard_input_runs_no_code_of_an_artifact(with_code: Path) -> None:
    said = refused("handler", "predict", "--artifact", with_code, stdin="y\nhello\n")
    assert "asks for foreign code, which is never run" in said
    assert "auto_map" in said
    assert not (with_code / "ran").exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"auto_map": {"AutoConfig": "someone/else--evil.Config"}},
        {"_attn_implementation": "someone/kernel"},
        {"_attn_implementation_internal": "someone/kernel"},
        {"quantization_config": {"quant_method": "gptq"}},
        {"backbone": {"attn_implementation": "someone/kernel"}},
        {"text_config": {"deeper": {"auto_map": {}}}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_a_configuration_that_fetches_or_runs_is_refused(artifact_copy: Artifact, keys: dict) -> None:
    change_config(artifact_copy.folder, **keys)
    with pytest.raises(UserError, match="asks for foreign code"):
        Predictor.load(artifact_copy.folder)


def test_a_label_may_have_any_name(artifact_copy: Artifact) -> None:
    change_config(
        artifact_copy.folder, label2id={"auto_map": 0, "hate": 1}, id2label={0: "auto_map", 1: "hate"}
    )
    assert Predictor.load(artifact_copy.folder).predict(["a text"])


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        ("torch", {"dtype": "load"}),
        ("onnx", {"providers": [["EvilExecutionProvider", {"library_path": "/tmp/evil.so"}]]}),
        (
            "onnx",
            {"providers": [["TensorrtExecutionProvider", {"trt_extra_plugin_lib_paths": "/tmp/evil.so"}]]},
        ),
        ("onnx", {"providers": [["TensorrtExecutionProvider", {"trt_engine_cache_path": "../../etc"}]]}),
        ("onnx", {"providers": [["TensorrtExecutionProvider", {"trt_engine_cache_path": "/etc"}]]}),
        ("openvino", {"CACHE_DIR": "/etc"}),
        ("unheard-of", {}),
    ],
    ids=str,
)
def test_options_that_name_libraries_or_places_are_refused(
    artifact_copy: Artifact, runtime: str, options: dict
) -> None:
    relist(artifact_copy.folder, runtime=runtime, runtime_options=options)
    with pytest.raises(UserError, match=r"does not support|unknown runtime"):
        Predictor.load(artifact_copy.folder)


@pytest.mark.parametrize("runtime", ["torch", "compiled", "onnx", "openvino"])
def test_a_model_file_of_nonsense_is_a_sentence_in_each_runtime(
    artifact_copy: Artifact, runtime: str
) -> None:
    for name in ("model.safetensors", "model.pt2", "model.onnx", "model.xml", "model.bin"):
        (artifact_copy.folder / name).write_bytes(b"nonsense" * 20)
    options = artifact_copy.meta.runtime_options if runtime == "torch" else {}
    relist(artifact_copy.folder, runtime=runtime, runtime_options=options)
    with pytest.raises(UserError, match=f"the runtime {runtime} cannot load"):
        Predictor.load(artifact_copy.folder)


def test_weights_of_an_onnx_graph_come_from_its_own_folder(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "inside").mkdir()
    for number, place in enumerate(("../secret", str(tmp_path / "secret"))):
        weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[16], data_location=1)
        weight.external_data.add(key="location", value=place)
        value = onnx.helper.make_tensor_value_info
        node = onnx.helper.make_node("Add", ["x", "w"], ["logits"])
        kinds = [value(name, onnx.TensorProto.FLOAT, [16]) for name in ("x", "logits")]
        graph = onnx.helper.make_graph([node], "g", kinds[:1], kinds[1:], [weight])
        opset = [onnx.helper.make_opsetid("", 17)]
        file = tmp_path / "inside" / f"{number}.onnx"
        file.write_bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())
        with pytest.raises(Exception, match=r"(?i)external|escape|directory"):
            onnx_session(file, {}, 1)


def test_an_adapter_that_is_not_listed_does_not_turn_the_labels_round(artifact_copy: Artifact) -> None:
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(artifact_copy.folder, trust_remote_code=False)
    other = artifact_copy.folder.with_name("other")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_lin"], task_type="SEQ_CLS"))
    adapted.save_pretrained(other)
    weights = load_file(artifact_copy.folder / "model.safetensors")
    save_file({name: -value for name, value in weights.items()}, other / "model.safetensors")
    shutil.copy(artifact_copy.folder / "config.json", other)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(other / name, artifact_copy.folder)
    config = json.loads((other / "adapter_config.json").read_text())
    pointed = config | {"base_model_name_or_path": str(other)}
    (artifact_copy.folder / "adapter_config.json").write_text(json.dumps(pointed))
    with pytest.raises(UserError, match=r"does not list: .*adapter_"):
        Predictor.load(artifact_copy.folder)
    relist(artifact_copy.folder)  # and a listed one is no part of what any variant writes
    with pytest.raises(UserError, match="the model's folder contains an adapter"):
        Predictor.load(artifact_copy.folder)


def _link(folder: Path) -> None:
    (folder / "link.json").symlink_to(folder / "config.json")


def _linked_file(folder: Path) -> None:
    moved = folder.with_name("elsewhere.json")
    (folder / "tokenizer.json").rename(moved)
    (folder / "tokenizer.json").symlink_to(moved)


def _linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)


def _dangling(folder: Path) -> None:
    (folder / "gone").symlink_to("/no/such/place")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "fifo")


def _second_description(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "artifact.json").write_text("{}")


def _hidden(folder: Path) -> None:
    (folder / ".hidden").write_text("x")


@pytest.mark.parametrize(
    "add", [_link, _linked_file, _linked_folder, _dangling, _fifo, _second_description, _hidden]
)
def test_an_artifact_holds_the_listed_files_and_no_others(artifact_copy: Artifact, add) -> None:
    add(artifact_copy.folder)
    with pytest.raises(UserError, match=r"does not list|contains a link"):
        open_artifact(artifact_copy.folder)


def test_an_artifact_may_stand_behind_a_link(artifact_copy: Artifact, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(artifact_copy.folder)
    assert open_artifact(tmp_path / "link").name == "fp32"


LISTED = {"sha256": "0" * 64, "bytes": 1}
FILES = [
    {"../outside": LISTED},
    {"/etc/passwd": LISTED},
    {"a\\..\\b": LISTED},
    {"a": LISTED | {"bytes": -1}},
    {"a": LISTED | {"bytes": "1"}},
    {"a": LISTED | {"sha256": 7}},
    {"a": {}},
    {"a": None},
    ["a"],
    None,
    {str(number): LISTED for number in range(5000)},
]


@pytest.mark.parametrize(
    "changed",
    [
        *({"files": files} for files in FILES),
        *({"labels": labels} for labels in ("hate", [], [1])),
        *({"inputs": []}, {"build": 7}, {"name": None}),
    ],
    ids=lambda changed: str(changed)[:30],
)
def test_a_field_that_cannot_be_is_a_sentence(artifact_copy: Artifact, changed: dict) -> None:
    write_json(artifact_copy.folder / "artifact.json", plain(artifact_copy.meta) | changed)
    with pytest.raises(UserError, match="description is damaged"):
        open_artifact(artifact_copy.folder)


@pytest.mark.parametrize(
    "content",
    [
        *("[" * 100_000, '{"schema": ' * 50_000, "7", "null", '"text"', " " * (MOST_DESCRIPTION_BYTES + 1)),
        *("", "{", "[]", "{}", '{"schema": 1}'),
    ],
)
def test_a_damaged_description_is_a_sentence(artifact_copy: Artifact, content: str) -> None:
    (artifact_copy.folder / "artifact.json").write_text(content)
    with pytest.raises(UserError, match="description is damaged"):
        open_artifact(artifact_copy.folder)


# Archives


@pytest.fixture(scope="module")
def archive(build_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(build_once("fp32"), tmp_path_factory.mktemp("store"))


def repacked(archive: Path, target: Path, *, without: str = "", **added: bytes) -> Path:
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename != without:
                new.writestr(entry.filename, old.read(entry))
        for name, content in added.items():
            new.writestr(name, content)
    return target


def test_an_archive_that_was_packed_again_with_compression_is_the_same(archive: Path, tmp_path: Path) -> None:
    again = repacked(archive, tmp_path / "again.mar")
    assert archived_artifact(again).meta == archived_artifact(archive).meta
    assert unpacked(again, tmp_path / "unpacked").name == "fp32"


@pytest.mark.parametrize(
    "name", ["artifact/adapter_config.json", "../outside", "/outside", "a/../../outside"]
)
def test_an_archive_with_an_entry_that_is_not_listed_is_refused(
    archive: Path, tmp_path: Path, name: str
) -> None:
    more = repacked(archive, tmp_path / "more.mar", **{name: b"{}"})
    for read in (archived_artifact, lambda path: unpacked(path, tmp_path / "unpacked")):
        with pytest.raises(UserError, match=re.escape(Path(name).name)):
            read(more)
    assert not (tmp_path / "unpacked").exists()


def test_an_archive_without_a_listed_file_is_refused(archive: Path, tmp_path: Path) -> None:
    for name in ("artifact/tokenizer.json", "artifact/artifact.json", "MAR-INF/MANIFEST.json"):
        with pytest.raises(UserError, match=Path(name).name):
            unpacked(repacked(archive, tmp_path / "less.mar", without=name), tmp_path / "unpacked")


def test_a_link_in_an_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    linked = repacked(archive, tmp_path / "linked.mar", without="artifact/config.json")
    with zipfile.ZipFile(linked, "a") as opened:
        entry = zipfile.ZipInfo("artifact/config.json")
        entry.external_attr = 0o120777 << 16
        opened.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match="not a plain file"):
        archived_artifact(linked)


def test_two_entries_of_one_name_are_refused(archive: Path, tmp_path: Path) -> None:
    double = tmp_path / "double.mar"
    with pytest.warns(UserWarning, match="Duplicate"):
        repacked(archive, double, **{"artifact/config.json": b"{}"})
    with pytest.raises(UserError, match="two entries"):
        archived_artifact(double)


BOUNDED = """
import resource, sys
from pathlib import Path
from handler.artifact import archived_artifact
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    archived_artifact(Path(sys.argv[1]))
except Exception as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _peak_kb(archive: Path) -> tuple[str, int]:
    """What reading an archive says, and the memory that it takes above that of the imports."""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, archive], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    said, _, grown = done.stdout.strip().rpartition("\n")
    return said, int(grown)


def test_a_description_that_inflates_costs_little_memory(archive: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.mar"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened,
        opened.open("artifact/artifact.json", "w", force_zip64=True) as entry,
    ):
        for _ in range(150):
            entry.write(b" " * (1 << 20))
    said, grown_kb = _peak_kb(bomb)
    assert "not an archive of this project" in said
    assert "implausible size" in said
    assert grown_kb < 50_000


def test_a_directory_of_a_million_entries_costs_little_memory(tmp_path: Path) -> None:
    bomb = tmp_path / "entries.mar"
    with zipfile.ZipFile(bomb, "w") as opened:
        opened.writestr("a", b"")
    content = bomb.read_bytes()
    start = content.index(b"PK\x01\x02")
    record, end = (
        content[start : content.index(b"PK\x05\x06")],
        bytearray(content[content.index(b"PK\x05\x06") :]),
    )
    count = 1_000_000
    end[8:10] = end[10:12] = (count & 0xFFFF).to_bytes(2, "little")
    end[12:16] = (count * len(record)).to_bytes(4, "little")
    bomb.write_bytes(content[:start] + record * count + bytes(end))
    said, grown_kb = _peak_kb(bomb)
    assert "directory is too large" in said
    assert grown_kb < 50_000


def test_an_entry_larger_than_its_record_is_not_unpacked(archive: Path, tmp_path: Path) -> None:
    larger = repacked(archive, tmp_path / "larger.mar", without="artifact/config.json")
    with zipfile.ZipFile(larger, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("artifact/config.json", bytes(50_000_000))
    with pytest.raises(UserError, match=r"disagree|proportion"):
        unpacked(larger, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.999])
def test_an_archive_cut_short_is_a_sentence(archive: Path, tmp_path: Path, at: float) -> None:
    cut = tmp_path / "cut.mar"
    whole = archive.read_bytes()
    cut.write_bytes(whole[: int(len(whole) * at)])
    for read in (archived_artifact, lambda path: unpacked(path, tmp_path / "unpacked")):
        with pytest.raises(UserError, match="not an archive of this project"):
            read(cut)


def test_no_loader_leaves_the_question_of_remote_code_open() -> None:
    """Left out, `trust_remote_code` means: ask on standard input."""
    open_questions = []
    for stage in ("handler", "training", "export", "benchmarks", "deploy"):
        for path in sorted((ROOT / stage).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                asks = re.match(r"(Auto\w+|kind)\.from_pretrained$|pipeline$", called)
                given = {keyword.arg for keyword in node.keywords}
                if asks and "trust_remote_code" not in given and ast.unparse(node).find("**options") < 0:
                    open_questions.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert open_questions == []


def test_nothing_is_unpickled_and_no_yaml_makes_objects() -> None:
    found = []
    for stage in ("handler", "training", "export", "benchmarks", "deploy"):
        for path in sorted((ROOT / stage).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if re.search(
                    r"(pickle|joblib|dill)\.loads?$|yaml\.(unsafe_|full_)?load$|^eval$|^exec$", called
                ):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
                if called in ("torch.load", "np.load", "numpy.load"):
                    safe = "weights_only=True" in ast.unparse(node) or "allow_pickle" not in ast.unparse(node)
                    found += [] if safe else [f"{path.relative_to(ROOT)}:{node.lineno} {called}"]
    assert found == []
