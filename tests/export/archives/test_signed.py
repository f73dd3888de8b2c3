"""From the key to each command that opens what others made: signed it goes through, else exit 2."""

import json
import re
import shutil
from pathlib import Path

import pytest

from common.signing import SUFFIX, make_keys, sign, verify
from deploy.torchserve import container
from export.archives.package import package
from export.archives.promote import promote
from export.archives.publish import fetch, publish
from handler.artifact import Artifact, archived_artifact, open_artifact
from handler.errors import UserError
from tests.conftest import ran, refused, run_stage


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    secret = tmp_path_factory.mktemp("keys") / "signing.key"
    return secret, make_keys(secret)


@pytest.fixture
def store(build_once, tmp_path: Path) -> Path:
    """With an archive that is not signed."""
    package(build_once("fp32"), tmp_path / "store")
    return tmp_path / "store"


def test_promotion_takes_the_signature_along_and_never_leaves_anothers(store: Path, keys) -> None:
    secret, public = keys
    with pytest.raises(UserError, match="it is not signed"):
        promote("fp32", store, trusted_key=public)
    assert not (store / "hate.mar").exists()
    sign(store / "hate-fp32.mar", secret)
    promote("fp32", store, trusted_key=public)
    verify(store / "hate.mar", public)
    (store / f"hate-fp32.mar{SUFFIX}").unlink()
    promote("fp32", store)
    assert not (store / f"hate.mar{SUFFIX}").exists()


def test_an_archive_that_is_built_again_loses_its_signature(build_once, store: Path, keys) -> None:
    signature = sign(store / "hate-fp32.mar", keys[0])
    package(build_once("fp32"), store)
    assert not signature.exists()


def test_what_is_published_with_a_key_is_fetched_by_who_trusts_it(
    store: Path, keys, checkpoint_folder: Path, tmp_path: Path
) -> None:
    secret, public = keys
    archive, registry = store / "hate-fp32.mar", str(tmp_path / "registry")
    published = publish([archive], registry, "hate", checkpoint=checkpoint_folder, key=secret)
    assert not publish([archive], registry, "hate", checkpoint=checkpoint_folder, key=secret).is_new
    fetch(published.place, tmp_path / "fetched", trusted_key=public)
    verify(tmp_path / "fetched" / "hate-fp32-1.0.mar", public)
    other = make_keys(tmp_path / "other.key")
    with pytest.raises(UserError, match="not trusted"):
        fetch(published.place, tmp_path / "again", trusted_key=other)
    record = Path(published.place) / "published.json"
    changed = json.loads(record.read_text())
    changed["files"].pop(f"hate-fp32-1.0.mar{SUFFIX}")
    record.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="one of the two was changed"):
        fetch(published.place, tmp_path / "again", trusted_key=public)
    assert not (tmp_path / "again").exists()


def test_a_signature_that_is_there_is_published_and_fetched(store: Path, keys, tmp_path: Path) -> None:
    secret, public = keys
    sign(store / "hate-fp32.mar", secret)
    published = publish([store / "hate-fp32.mar"], str(tmp_path / "registry"), "hate")
    fetch(published.place, tmp_path / "fetched")
    verify(tmp_path / "fetched" / "hate-fp32-1.0.mar", public)
    with pytest.raises(UserError, match=r"not signed.*published\.json"):
        fetch(published.place, tmp_path / "again", trusted_key=public)


def test_an_artifact_is_signed_by_its_description(artifact_copy, keys) -> None:
    secret, public = keys
    folder = artifact_copy.folder
    with pytest.raises(UserError, match="not signed"):
        verify(folder, public)
    assert sign(folder, secret) == folder / f"artifact.json{SUFFIX}"
    verify(folder, public)
    open_artifact(folder)  # its signature is no stranger in it
    (folder / "artifact.json").write_text((folder / "artifact.json").read_text() + " ")
    with pytest.raises(UserError, match="one of the two was changed"):
        verify(folder, public)


@pytest.fixture
def trusting(keys, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which the key is set once, for all commands."""
    monkeypatch.setenv("TRUSTED_KEY", str(keys[1]))
    return keys[0]


def readers(artifact: Artifact, store: Path, folder: Path) -> tuple[tuple[object, ...], ...]:
    """Every command that opens what others made, each on something that is not signed."""
    shutil.copy(store / "hate-fp32.mar", store / "hate.mar")
    config = folder / "config.properties"
    config.write_text(f"model_store={store}\n")
    texts = folder / "texts.txt"
    texts.write_text("a text\n" * 200)
    published = publish([store / "hate.mar"], str(folder / "registry"), "hate")
    return (
        ("handler", "predict", "--artifact", artifact.folder, "a text"),
        (
            "handler",
            "predict",
            "--artifact",
            artifact.folder,
            "--file",
            texts,
            "--output",
            folder / "o.csv",
        ),
        ("deploy", "start", "--config", config),
        ("deploy", "app", "--archive", store / "hate.mar"),
        ("deploy", "app", "--artifact", artifact.folder),
        ("deploy", "rollout", "hate.mar", "--config", config, "--texts", texts),
        ("deploy", "tune", "--archive", store / "hate.mar"),
        ("deploy", "drift", "--artifact", store / "hate.mar", "--file", texts),
        ("export", "promote", "fp32", "--store", store),
        ("export", "verify", store / "hate.mar"),
        ("export", "fetch", published.place, "--to", folder / "fetched"),
    )


def test_every_command_refuses_what_is_not_signed(artifact_copy, store: Path, trusting, tmp_path) -> None:
    for command in readers(artifact_copy, store, tmp_path):
        assert "it is not signed, and a trusted key is configured" in refused(*command), command
    config, texts = str(tmp_path / "config.properties"), tmp_path / "texts.txt"
    with pytest.raises(UserError, match="it is not signed"):
        container.main(["run", "--config", config])
    said = refused("deploy", "rollout", "s3://models/hate.mar", "--config", config, "--texts", texts)
    assert "fetches itself cannot be verified" in said


def test_every_command_says_that_the_trusted_key_is_not_there(
    artifact_copy, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = readers(artifact_copy, store, tmp_path)
    missing = tmp_path / "missing.pub"
    monkeypatch.setenv("TRUSTED_KEY", str(missing))
    said = f"the trusted keys cannot be read: {missing}: No such file or directory"
    config, texts = str(tmp_path / "config.properties"), tmp_path / "texts.txt"
    by_address = ("deploy", "rollout", "s3://models/hate.mar", "--config", config, "--texts", texts)
    for command in (*commands, by_address):
        assert said in refused(*command), command
    with pytest.raises(UserError, match=re.escape(said)):
        container.main(["run", "--config", config])


def test_signed_by_the_command_it_is_accepted(artifact_copy, store: Path, trusting: Path) -> None:
    done = ran("export", "sign", artifact_copy.folder, store / "hate-fp32.mar", "--key", trusting)
    assert len(json.loads(done.stdout)) == 2
    assert run_stage("export", "promote", "fp32", "--store", store).returncode == 0
    assert run_stage("handler", "predict", "--artifact", artifact_copy.folder, "a text").returncode == 0


def test_a_key_is_made_by_a_command_and_signs_what_is_packaged(build_once, tmp_path: Path) -> None:
    done = ran("export", "keygen", tmp_path / "own.key")
    public = Path(json.loads(done.stdout)["public"])
    artifacts, store = build_once("fp32").folder.parent, tmp_path / "store"
    arguments = ("--artifacts", artifacts, "--store", store, "--sign-key", tmp_path / "own.key")
    done = ran("export", "package", *arguments)
    for archive in json.loads(done.stdout)["archives"].values():
        verify(Path(archive), public)
    verify(store / "hate.mar", public)


# What others published, broken


@pytest.fixture
def published(store: Path, tmp_path: Path) -> Path:
    return Path(publish([store / "hate-fp32.mar"], str(tmp_path / "registry"), "hate").place)


FILE = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "[" * 100_000,
        "{}",
        '{"schema": 1}',
        '{"schema": 99, "name": "a", "version": "1", "files": {}}',
        '{"schema": 1, "name": "a", "version": "1"}',
        '{"schema": 1, "name": "a", "version": "1", "files": []}',
        '{"schema": 1, "name": "a", "version": "1", "files": {"a": {}}}',
        '{"schema": 1, "name": "a", "version": "1", "files": {"a": 7}}',
        '{"schema": 1, "name": "../a", "version": "1", "files": {}}',
        '{"schema": 1, "name": "a", "version": 1, "files": {}}',
        json.dumps({"schema": 1, "name": "a", "version": "1", "files": {"../../outside": FILE}}),
        json.dumps({"schema": 1, "name": "a", "version": "1", "files": {"/outside": FILE}}),
        json.dumps({"schema": 1, "name": "a", "version": "1", "files": {"a": FILE | {"bytes": -1}}}),
        json.dumps({"schema": 1, "name": "a", "version": "1", "files": {"a": FILE | {"bytes": 1e300}}}),
        json.dumps({"schema": 1, "name": "a", "version": "1", "files": {"a": FILE | {"sha256": None}}}),
        " " * (5 << 20),
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
    ids=lambda content: content[:60],
)
def test_a_broken_record_is_a_sentence(published: Path, tmp_path: Path, content: str) -> None:
    (published / "published.json").write_text(content, encoding="latin-1")
    said = refused("export", "fetch", published, "--to", tmp_path / "fetched")
    assert "is damaged, or of another version" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry", "store"]
    publish([tmp_path / "store" / "hate-fp32.mar"], str(tmp_path / "registry"), "hate", force=True)
    fetch(str(published), tmp_path / "mended")


def test_no_more_is_read_than_the_record_says(published: Path, tmp_path: Path) -> None:
    with (published / "hate-fp32-1.0.mar").open("ab") as file:
        file.truncate(10 << 30)  # sparse: a stranger's file of any size
    with pytest.raises(UserError, match="has changed since it was published"):
        fetch(str(published), tmp_path / "fetched")


def test_large_versions_are_asked_for_and_what_cannot_fit_is_not_begun(published: Path, tmp_path) -> None:
    record = json.loads((published / "published.json").read_text())
    record["files"]["hate-fp32-1.0.mar"]["bytes"] = 10**17
    (published / "published.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="--most-gb"):
        fetch(str(published), tmp_path / "fetched")
    with pytest.raises(UserError, match="no room"):
        fetch(str(published), tmp_path / "fetched", most_gb=1e9)


@pytest.mark.parametrize("version", ["1/2", "../1", ".hidden", "", "a b", "ä", "1" * 200, "1\n2"])
def test_a_version_that_is_no_part_of_a_path_is_a_sentence(
    build_once, store: Path, tmp_path: Path, version: str
) -> None:
    for given in ({"version": version}, {"name": version}):
        with pytest.raises(UserError, match="an archive cannot have this name"):
            package(build_once("fp32"), tmp_path / "more", **given)
    odd = _with_manifest(store / "hate-fp32.mar", {"model": {"modelName": "hate", "modelVersion": version}})
    said = refused("export", "publish", tmp_path / "registry", "odd", "--store", odd.parent)
    assert "MANIFEST.json" in said
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(
    "manifest", [{}, [], {"model": {}}, {"model": {"modelName": 7, "modelVersion": "1"}}]
)
def test_a_broken_manifest_is_a_sentence(store: Path, tmp_path: Path, manifest: object) -> None:
    odd = _with_manifest(store / "hate-fp32.mar", manifest)
    for command in (
        ("export", "publish", tmp_path / "registry", "odd", "--store", odd.parent),
        ("deploy", "app", "--archive", odd),
    ):
        assert "not an archive of this project" in refused(*command)


def _with_manifest(archive: Path, manifest: object) -> Path:
    """The archive with another manifest, as `hate-odd.mar`."""
    import zipfile

    target = archive.with_name("hate-odd.mar")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "MAR-INF/MANIFEST.json":
                content = json.dumps(manifest).encode()
            new.writestr(entry.filename, content)
    archived_artifact(target)
    return target
