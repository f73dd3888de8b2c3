import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from handler.errors import UserError
from training.data.pinned import PinnedFiles, fetch

CONTENT = {"train_text.txt": b"one\ntwo\n", "train_labels.txt": b"0\n1\n"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Keep request lines out of the test's output."""


@pytest.fixture
def files(tmp_path):
    """A tiny data set in upstream's layout, behind a real server."""
    upstream = tmp_path / "upstream" / "datasets" / "tiny"
    upstream.mkdir(parents=True)
    for name, content in CONTENT.items():
        (upstream / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "upstream")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield PinnedFiles(
        name="tiny",
        folder="tiny/hate",
        url=f"http://127.0.0.1:{server.server_port}/datasets/tiny",
        page="https://example.org/tiny",
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
    )
    server.shutdown()
    thread.join()
    server.server_close()


def test_missing_files_are_downloaded_whole_and_only_once(files, tmp_path):
    folder = fetch(files, tmp_path / "data")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENT
    unreachable = replace(files, url="http://127.0.0.1:9/gone")
    assert fetch(unreachable, tmp_path / "data") == folder


def test_one_missing_file_is_downloaded_beside_those_that_are_there(files, tmp_path):
    folder = fetch(files, tmp_path / "data")
    (folder / "train_labels.txt").unlink()
    assert (fetch(files, tmp_path / "data") / "train_labels.txt").read_bytes() == CONTENT["train_labels.txt"]


def test_a_download_with_the_wrong_sum_never_gets_the_name(files, tmp_path):
    wrong = replace(files, sha256={**files.sha256, "train_labels.txt": "0" * 64})
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        fetch(wrong, tmp_path / "data")
    assert not (tmp_path / "data" / "tiny" / "hate" / "train_labels.txt").exists()


def test_a_file_with_the_wrong_sum_is_named_with_both_sums(files, tmp_path):
    folder = fetch(files, tmp_path / "data")
    (folder / "train_text.txt").write_bytes(b"tampered")
    with pytest.raises(UserError) as error:
        fetch(files, tmp_path / "data")
    for part in (
        str(folder / "train_text.txt"),
        hashlib.sha256(b"tampered").hexdigest(),
        files.sha256["train_text.txt"],
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/nobody", None], ids=["no network", "not found"])
def test_without_a_download_the_message_says_what_to_put_where(files, tmp_path, url):
    gone = replace(files, url=url or f"{files.url}/elsewhere")
    with pytest.raises(UserError) as error:
        fetch(gone, tmp_path / "data")
    for part in ("train_text.txt, train_labels.txt", str(tmp_path / "data" / "tiny" / "hate"), "DATA_DIR="):
        assert part in str(error.value)
