"""Publishing to a real S3 server on loopback, and from there to a TorchServe that trusts that alone."""

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest

from common.proxies import open_url
from deploy.torchserve.server import Server
from export.archives.package import package
from export.archives.publish import addresses, fetch, publish
from handler.artifact import Artifact, file_sha256
from handler.errors import UserError
from tests.conftest import ran, refused, run_stage
from tests.handler.test_self_check import flipped


@pytest.fixture(scope="module")
def stores(build_once, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of the archive: fp32 as 1.0, OpenVINO as 2.0."""
    found = {}
    for version, variant in (("1.0", "fp32"), ("2.0", "openvino-int8")):
        store = tmp_path_factory.mktemp(f"store-{version}")
        archive = package(build_once(variant), store, version=version)
        archive.rename(store / "hate.mar")
        found[version] = store
    return found


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_version_is_published_once_and_fetched_as_it_was(
    kind: str, s3: str, stores, checkpoint_folder: Path, tmp_path: Path
) -> None:
    destination = str(tmp_path / "registry") if kind == "folder" else "s3://models/registry"
    archive = stores["1.0"] / "hate.mar"
    first = publish([archive], destination, "hate", checkpoint=checkpoint_folder)
    assert first.is_new
    assert first.place == f"{destination}/hate/1.0"
    assert not publish([archive], destination, "hate", checkpoint=checkpoint_folder).is_new
    with pytest.raises(UserError, match="already published with different content"):
        publish([archive], destination, "hate")
    assert publish([archive], destination, "hate", force=True).is_new
    fetched = fetch(first.place, tmp_path / "fetched")
    assert file_sha256(tmp_path / "fetched" / "hate-1.0.mar") == file_sha256(archive)
    described = json.loads((tmp_path / "fetched" / "hate-1.0.artifact.json").read_text())
    assert described["name"] == "fp32"
    assert fetched.record.files.keys() == {"hate-1.0.mar", "hate-1.0.artifact.json"}
    with pytest.raises(UserError, match="the folder exists already"):
        fetch(first.place, tmp_path / "fetched")


def test_what_is_fetched_is_checked_on_this_machine_where_that_is_asked_for(
    stores, artifact_copy: Artifact, tmp_path: Path
) -> None:
    damaged = package(flipped(artifact_copy, "classifier.weight"), tmp_path / "store", version="3.0")
    for archive, status in ((stores["1.0"] / "hate.mar", 0), (damaged, 1)):
        place = publish([archive], str(tmp_path / "registry"), "hate").place
        done = run_stage("export", "fetch", place, "--to", tmp_path / str(status), "--self-check")
        assert done.returncode == status, done.stderr
        assert ("NOT FOR THIS MACHINE" in done.stderr) == bool(status)
        assert ("the scores of the export" in done.stderr) != bool(status)
        ran("export", "fetch", place, "--to", tmp_path / f"{status}-unasked")


def test_a_published_checkpoint_can_be_opened_again(s3, stores, checkpoint_folder, tmp_path) -> None:
    from training.checkpoint import open_checkpoint

    place = publish(
        [stores["2.0"] / "hate.mar"], "s3://models/with-checkpoint", "hate", checkpoint=checkpoint_folder
    ).place
    fetch(place, tmp_path / "fetched")
    assert (
        open_checkpoint(tmp_path / "fetched" / "checkpoint").meta == open_checkpoint(checkpoint_folder).meta
    )


def test_a_file_that_was_changed_in_the_storage_is_not_fetched(stores, tmp_path) -> None:
    place = publish([stores["1.0"] / "hate.mar"], str(tmp_path / "registry"), "hate").place
    with (Path(place) / "hate-1.0.mar").open("r+b") as file:
        file.seek(1000)
        file.write(b"other")
    with pytest.raises(UserError, match="has changed since it was published"):
        fetch(place, tmp_path / "fetched")
    publish([stores["1.0"] / "hate.mar"], str(tmp_path / "registry"), "hate", force=True)
    fetch(place, tmp_path / "mended")
    shutil.rmtree(tmp_path / "mended")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["registry"], "nothing half-fetched is left"


def test_an_upload_that_broke_off_is_no_version_and_is_begun_again(stores, tmp_path) -> None:
    archive = stores["1.0"] / "hate.mar"
    place = Path(publish([archive], str(tmp_path / "registry"), "hate").place)
    (place / "published.json").unlink()
    (place / "hate-1.0.mar").write_bytes(b"half")
    with pytest.raises(UserError, match="nothing is published there"):
        fetch(str(place), tmp_path / "fetched")
    assert publish([archive], str(tmp_path / "registry"), "hate").is_new
    fetch(str(place), tmp_path / "fetched")


def test_the_command_says_where_an_archive_is_and_what_is_wrong(s3, stores, tmp_path) -> None:
    done = ran("export", "publish", "s3://models/by-command", "--store", stores["1.0"])
    said = json.loads(done.stdout)
    assert said["place"] == "s3://models/by-command/hate/1.0"
    assert said["addresses"]["hate-1.0.mar"].startswith(f"{s3}/models/by-command/hate/1.0/hate-1.0.mar?")
    for arguments, expected in (
        (["publish", "s3://no-such-bucket/x", "--store", stores["1.0"]], "cannot be used"),
        (["publish", "s9://x/y", "--store", stores["1.0"]], "cannot be used"),
        (["publish", tmp_path / "x", "nonsense", "--store", stores["1.0"]], "not an archive of this project"),
        (["fetch", tmp_path / "nothing"], "nothing is published there"),
    ):
        assert expected in refused("export", *arguments)


def test_torchserve_registers_changes_and_rolls_back_by_address(s3, stores, open_server) -> None:
    server, _ = open_server
    places = {
        version: addresses(publish([store / "hate.mar"], "s3://models/served", "hate"))[f"hate-{version}.mar"]
        for version, store in stores.items()
    }
    for version, address in places.items():
        query = {"url": address, "model_name": "hate", "initial_workers": 1, "synchronous": "true"}
        status, said = _manage(server, "POST", f"/models?{urlencode(query)}")
        assert status == 200, said
        assert _variant(server, f"/hate/{version}") == {"1.0": "fp32", "2.0": "openvino-int8"}[version]
    assert _variant(server) == "fp32", "a new version serves when it is asked to"
    assert _manage(server, "PUT", "/models/hate/2.0/set-default")[0] == 200
    assert _variant(server) == "openvino-int8"
    assert _manage(server, "PUT", "/models/hate/1.0/set-default")[0] == 200
    assert _variant(server) == "fp32"
    elsewhere = places["1.0"].replace("/served/", "/registry/")
    status, said = _manage(server, "POST", f"/models?{urlencode({'url': elsewhere})}")
    assert status != 200, "an address that is not allowed"
    assert "not" in said


def _manage(server: Server, method: str, path: str) -> tuple[int, str]:
    return _ask(urllib.request.Request(f"http://127.0.0.1:{server.management_port}{path}", method=method))


def _variant(server: Server, version: str = "/hate") -> str:
    """Which artifact answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.inference_port}/predictions{version}",
        json.dumps({"text": "a friendly text"}).encode(),
        {"Content-Type": "application/json"},
    )
    status, said = _ask(request)
    assert status == 200, said
    return json.loads(said)["model"]["variant"]


def _ask(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with open_url(request, 120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
