import hashlib
import io
import tarfile
from dataclasses import replace

import pytest

from handler.errors import UserError
from tests.asking import serving
from training.data.pinned import PinnedFiles, fetch, folder_sha256

CONTENT = {"train_text.txt": b"one\ntwo\n", "train_labels.txt": b"0\n1\n"}


@pytest.fixture
def files(tmp_path):
    """A tiny data set in upstream's layout, behind a real server."""
    upstream = tmp_path / "upstream" / "datasets" / "tiny"
    upstream.mkdir(parents=True)
    for name, content in CONTENT.items():
        (upstream / name).write_bytes(content)
    with serving(tmp_path / "upstream") as address:
        yield PinnedFiles(
            name="tiny",
            folder="tiny/hate",
            url=f"{address}/datasets/tiny",
            page="https://example.org/tiny",
            sha256={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
        )


def test_missing_files_are_downloaded_whole_and_only_once(files, tmp_path):
    folder = fetch(files, tmp_path / "data")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENT
    unreachable = replace(files, url="http://127.0.0.1:9/gone")
    assert fetch(unreachable, tmp_path / "data") == folder


def test_one_missing_file_is_downloaded_and_the_others_are_kept(files, tmp_path):
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


@pytest.fixture
def packed(files, tmp_path):
    """The same set with a folder of many files, packed as the host packs a commit."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(5):
        (many / f"{number}.txt").write_text(f"sentence {number}")
    with tarfile.open(tmp_path / "upstream" / "packed.tar.gz", "w:gz") as archive:
        archive.add(many, "set-0123abc/many")
        archive.add(many / "0.txt", "set-0123abc/README.md")
    root = files.url.removesuffix("/datasets/tiny")
    return replace(files, archive=f"{root}/packed.tar.gz", folders={"many": folder_sha256(many)})


def test_a_folder_of_many_files_comes_out_of_the_archive_and_nothing_else_does(packed, tmp_path):
    folder = fetch(packed, tmp_path / "data")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["many", *CONTENT])
    assert folder_sha256(folder / "many") == packed.folders["many"]
    assert fetch(replace(packed, archive="http://127.0.0.1:9/gone"), tmp_path / "data") == folder


def test_a_folder_with_a_changed_missing_or_further_file_is_refused(packed, tmp_path):
    folder = fetch(packed, tmp_path / "data")
    (folder / "many" / "5.txt").write_text("one more")
    with pytest.raises(UserError, match="many does not match the checksum pinned for tiny"):
        fetch(packed, tmp_path / "data")


def test_an_archive_of_other_content_leaves_nothing(packed, tmp_path):
    with pytest.raises(UserError, match=r"many/ of .* does not match the checksum pinned for tiny"):
        fetch(replace(packed, folders={"many": "0" * 64}), tmp_path / "data")
    assert not (tmp_path / "data" / "tiny" / "hate" / "many").exists()


@pytest.mark.parametrize(
    ("through", "message"),
    [("../../escaped.txt", r"is not a \.tar\.gz"), ("link/escaped.txt", "no such folder")],
)
def test_an_archive_cannot_write_outside_its_folder(packed, tmp_path, through, message):
    with tarfile.open(tmp_path / "upstream" / "packed.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        member = tarfile.TarInfo(through)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match=message):
        fetch(packed, tmp_path / "data")
    assert not list(tmp_path.rglob("escaped.txt"))
