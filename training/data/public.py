"""Public data sets, in their upstream layouts, pinned to a commit and to the sums of their files."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from handler.errors import UserError
from training.data import demo
from training.data.pinned import PinnedFiles, fetch
from training.data.sources import HATE_LABELS, Raw, Request, source
from training.data.splits import Split, digests

Read = Callable[[Path, str], Raw]
TWEETEVAL_COMMIT = "4fbd22cd78421f05b1ecdb4fc5725bc7a7bd8f66"
TWEETEVAL_STEMS = {"train": "train", "validation": "val", "test": "test"}


def _of_tweeteval(name: str, task: str, sha256: Mapping[str, str]) -> PinnedFiles:
    where = f"{TWEETEVAL_COMMIT}/datasets/{task}"
    return PinnedFiles(
        name=name,
        folder=f"tweeteval/{task}",
        url=f"https://raw.githubusercontent.com/cardiffnlp/tweeteval/{where}",
        page=f"https://github.com/cardiffnlp/tweeteval/tree/{where}",
        sha256=sha256,
    )


TWEETEVAL = _of_tweeteval(
    "tweeteval",
    "hate",
    {
        "mapping.txt": "3fc75504ffae64ddc82e13afb5790af7798cd3167d7d35790abe78b39b991896",
        "train_text.txt": "6572bb3a42143128a5dfa99af8debeb0668e637c34b2d1e3140dac47316fe2c2",
        "train_labels.txt": "4e8fde025a453a25c94632794254131dedeac4e57228ad64157c41571cc88f71",
        "val_text.txt": "1ff78b1ed4c5ce43284b9eba32eb7d60c6d45d0d1b3b4d6df456ae01640764f1",
        "val_labels.txt": "5092badf1a0e70036ea6264bcd0b78afc07d0f4a512fa6af34c2c4973600656b",
        "test_text.txt": "bc4762876a8dd8baa55c3cd7b03108e3231a5d691e80b8b1ef97c5be31b9da9a",
        "test_labels.txt": "c14adca6b3627616a835c5ccea8a1cceb0235cd79417257f093eb0e16a69c62f",
    },
)
TWEETEVAL_OFFENSIVE = _of_tweeteval(
    "tweeteval-offensive",
    "offensive",
    {
        "mapping.txt": "3e427f483dd5d5be21ae85dcf224c36b3d024af27999939fa0d438d695801c50",
        "train_text.txt": "78a7a32e38b10af7d8970b008bf17f661c8d0a90dad145fa0fa6a944669650db",
        "train_labels.txt": "c0b7d6ebdaa4ebcf6fc557ef1e775d92eda160218a0e3b1dd48eb8234dc892a6",
        "val_text.txt": "816f36d180c35f15a5104838cb73856a0bef42043482fe738f3481b06242a55c",
        "val_labels.txt": "ed2deb776bd1c52fb8221fadd3360e32d9dfe46842d78053528126e46363a258",
        "test_text.txt": "25b08c3333c26190f1023961c4508ec9aab24d4722b1a3ea7a6040724c120547",
        "test_labels.txt": "41d05a7aa0b01f5dafab21b95adb4f979cb4226c046ff315702774d10dac1605",
    },
)
TWEETEVAL_SENTIMENT = _of_tweeteval(
    "tweeteval-sentiment",
    "sentiment",
    {  # train is not pinned: the set is for texts without labels, and these are 14,284
        "mapping.txt": "c0572796fbe261d8ea5fd16c5061076fbba49bc69fc865d6abccaf60daacee24",
        "val_text.txt": "e5b021e6fc45064c260b09814b803d8f56cada519c4d952d72f43d48a350a964",
        "val_labels.txt": "b4566926c72e2e4e2916c864def94e76c4cdde52446af2c7ba4fc2006e057e51",
        "test_text.txt": "09a93a55c63fd93f97485ef7302889d7edb4091cd49733aa37da094f0bfa0675",
        "test_labels.txt": "6afb4afe9374d1f983bcf9a7c79b108d0f37fdf020a83f30488309bed215db9d",
    },
)
VICOMTECH_COMMIT = "b802137e8314c38a8d4faa965f9908d6c8e7a84d"
VICOMTECH = PinnedFiles(
    name="vicomtech",
    folder="vicomtech",
    url=f"https://raw.githubusercontent.com/Vicomtech/hate-speech-dataset/{VICOMTECH_COMMIT}",
    page=f"https://github.com/Vicomtech/hate-speech-dataset/tree/{VICOMTECH_COMMIT}",
    sha256={
        "annotations_metadata.csv": "306bfaab400e1542529d1791b9ec68d70bed579c52fc7e255b0626ab7bc5c7c9",
    },
    archive=f"https://github.com/Vicomtech/hate-speech-dataset/archive/{VICOMTECH_COMMIT}.tar.gz",
    folders={
        "sampled_train": "e29f5c85d9b87ed28c74e614bef6345be1c1d3bfff573826b095833c80edb4a4",
        "sampled_test": "bf7b1717c607f73fd3785b2bd8c0562f639614ca3fdb7756c95b3ee06bb1b0c0",
    },
)
DAVIDSON_COMMIT = "6a1e3f02522963d820e302c3ad48b189552c143b"  # the last that changed the file
DAVIDSON = PinnedFiles(
    name="davidson",
    folder="davidson",
    url=f"https://raw.githubusercontent.com/t-davidson/hate-speech-and-offensive-language/{DAVIDSON_COMMIT}/data",
    page=f"https://github.com/t-davidson/hate-speech-and-offensive-language/tree/{DAVIDSON_COMMIT}/data",
    sha256={"labeled_data.csv": "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281"},
)
DAVIDSON_LABELS = {"neither": "neither", "offensive_language": "offensive", "hate_speech": "hate"}
ETHOS_COMMIT = "705258e1"
ETHOS_PATH = "intelligence-csd-auth-gr/Ethos-Hate-Speech-Dataset"
ETHOS = PinnedFiles(
    name="ethos",
    folder="ethos",
    url=f"https://raw.githubusercontent.com/{ETHOS_PATH}/{ETHOS_COMMIT}/ethos/ethos_data",
    page=f"https://github.com/{ETHOS_PATH}/tree/{ETHOS_COMMIT}/ethos/ethos_data",
    sha256={
        "Ethos_Dataset_Binary.csv": "0cd0050c2592afcb5eca5876df485ca15cda9d7d16fe32c269857260fd10d96c",
        "Ethos_Dataset_Multi_Label.csv": "488c72a1582abdaf489a6e9eceeebba505447a00a25bd02e72fd6a56f9a3d83d",
    },
)
ETHOS_LABELS = (
    "violence",
    "directed_vs_generalized",
    "gender",
    "race",
    "national_origin",
    "disability",
    "religion",
    "sexual_orientation",
)
HATEMOJI_COMMIT = "a626f632"
HATEMOJI = PinnedFiles(
    name="hatemoji",
    folder="hatemoji",
    url=f"https://raw.githubusercontent.com/HannahKirk/Hatemoji/{HATEMOJI_COMMIT}/HatemojiBuild",
    page=f"https://github.com/HannahKirk/Hatemoji/tree/{HATEMOJI_COMMIT}/HatemojiBuild",
    sha256={
        "train.csv": "2255818a5b10153876320068451be582ed876a2eefb22a250bd2f6478d1815e5",
        "validation.csv": "721094d44fceb923a0b3897935126a654bbb1f092b1fed6a74d80e4a845c6f43",
        "test.csv": "4b067b445c6445dbd4036d7c75dde21f72928bfd31db63d1c53d66226c53be99",
    },
)


def pinned(
    form: str, summary: str, files: PinnedFiles, hub: tuple[str, str | None]
) -> Callable[[Read], Read]:
    """Register what reads the folder of `files`, given the argument of the spec, as a source."""

    def register(read: Read) -> Read:
        source(form, summary, hub)(lambda request: read(fetch(files, request.data_dir), request.argument))
        return read

    return register


def _rows(file: Path, encoding: str = "utf-8", delimiter: str = ",") -> list[dict[str, Any]]:
    with file.open(encoding=encoding, newline="") as lines:
        return list(csv.DictReader(lines, delimiter=delimiter))


@source("demo", "embedded synthetic corpus, for trying the tool out")
def read_demo(request: Request) -> Raw:
    splits = {}
    for name, examples in demo.corpus(request.seed).items():
        labels = np.array([example.label for example in examples], dtype=np.int64)
        texts = [example.text for example in examples]
        cases = tuple(example.case for example in examples)
        splits[name] = Split(texts, labels, cases)
    return Raw(HATE_LABELS, splits)


@pinned(
    "tweeteval",
    "HatEval tweets (SemEval-2019 task 5) as packed by TweetEval; research use",
    TWEETEVAL,
    hub=("cardiffnlp/tweet_eval", "hate"),
)
def tweeteval_from(folder: Path, argument: str = "") -> Raw:
    return Raw(HATE_LABELS, _tweeteval_splits(folder))


def _tweeteval_splits(folder: Path, names: Iterable[str] = TWEETEVAL_STEMS) -> dict[str, Split]:
    """TweetEval's layout: line N of `*_labels.txt` is the label of line N of `*_text.txt`."""
    splits = {}
    for name in names:
        stem = TWEETEVAL_STEMS[name]
        # Only "\n" ends a line: tweets hold U+2028 and others that str.splitlines would break at.
        texts = (folder / f"{stem}_text.txt").read_bytes().decode().removesuffix("\n").split("\n")
        labels = np.array((folder / f"{stem}_labels.txt").read_text().split(), dtype=np.int64)
        if len(texts) != len(labels):
            raise UserError(
                f"{folder}/{stem}_text.txt and {stem}_labels.txt do not belong together",
                seen=f"{len(texts)} texts, {len(labels)} labels",
                remedy="Take both files from the same commit of the data set.",
            )
        splits[name] = Split(texts, labels)
    return splits


@pinned(
    "vicomtech",
    "sentences of a white supremacist forum, balanced sample; CC BY-SA 3.0 ES",
    VICOMTECH,
    hub=("odegiber/hate_speech18", None),
)
def vicomtech_from(folder: Path, argument: str = "") -> Raw:
    """One sentence a file, its label in `annotations_metadata.csv`; other labels than hate and noHate
    (relations between sentences, and what annotators skipped) are left out and counted."""
    label_of = {row["file_id"]: row["label"] for row in _rows(folder / "annotations_metadata.csv")}
    splits = {}
    dropped = {}
    for name, sample in {"train": "sampled_train", "test": "sampled_test"}.items():
        files = sorted((folder / sample).glob("*.txt"))
        kept = [file for file in files if label_of.get(file.stem) in ("hate", "noHate")]
        labels = np.array([label_of[file.stem] == "hate" for file in kept], dtype=np.int64)
        splits[name] = Split([file.read_text(encoding="utf-8") for file in kept], labels)
        if len(kept) < len(files):
            dropped[name] = {"label not asked for": len(files) - len(kept)}
    return Raw(HATE_LABELS, splits, dropped=dropped)


@pinned(
    "davidson[:binary]",
    "tweets: hate, offence or neither, with the crowd's votes",
    DAVIDSON,
    hub=("tdavidson/hate_speech_offensive", None),
)
def davidson_from(folder: Path, argument: str = "") -> Raw:
    """Each tweet's class is that of most votes; the shares of the votes are its soft targets."""
    rows = _rows(folder / "labeled_data.csv")
    votes = np.array([[int(row[name]) for name in DAVIDSON_LABELS] for row in rows], dtype=np.float32)
    labels = np.array([2 - int(row["class"]) for row in rows], dtype=np.int64)  # upstream: 0 is hate
    names = tuple(DAVIDSON_LABELS.values())
    if argument == "binary":
        names = HATE_LABELS
        labels = (labels == 2).astype(np.int64)
        votes = np.stack([votes[:, :2].sum(axis=1), votes[:, 2]], axis=1)
    soft = votes / votes.sum(axis=1, keepdims=True)
    return Raw(names, {"train": Split([row["tweet"] for row in rows], labels, soft=soft)}, argument)


@pinned(
    "ethos[:multilabel]",
    "comments with the share of votes for hate, or for eight kinds of it; GPL-3.0",
    ETHOS,
    hub=("iamollas/ethos", None),
)
def ethos_from(folder: Path, argument: str = "") -> Raw:
    """What half of the votes or more say is the label, as its authors have it; the share is the soft target.

    The multi-label part holds hateful comments alone.
    """
    file = folder / ("Ethos_Dataset_Multi_Label.csv" if argument else "Ethos_Dataset_Binary.csv")
    rows = _rows(file, "utf-8-sig", ";")
    texts = [row["comment"] for row in rows]
    if argument:
        soft = np.array([[float(row[name]) for name in ETHOS_LABELS] for row in rows], dtype=np.float32)
        split = Split(texts, (soft >= 0.5).astype(np.int64), soft=soft)
        return Raw(ETHOS_LABELS, {"train": split}, argument)
    hate = np.array([float(row["isHate"]) for row in rows], dtype=np.float32)
    split = Split(texts, (hate >= 0.5).astype(np.int64), soft=np.stack([1 - hate, hate], axis=1))
    return Raw(HATE_LABELS, {"train": split})


@pinned(
    "hatemoji",
    "HatemojiBuild: texts with emoji, each with a perturbed copy, most of the other label; CC BY 4.0",
    HATEMOJI,
    hub=("HannahRoseKirk/HatemojiBuild", None),
)
def hatemoji_from(folder: Path, argument: str = "") -> Raw:
    """A text and its perturbation name each other by `matched_id`, and are one group.

    A third of the pairs has its halves in two of the published splits; the rules keep one half.
    """
    splits = {}
    for name in ("train", "validation", "test"):
        rows = _rows(folder / f"{name}.csv")
        labels = np.array([int(row["label_gold"]) for row in rows], dtype=np.int64)
        pairs = [" ".join(sorted((row["entry_id"], row["matched_id"]))) for row in rows]
        # With the set's name, or the groups of a joined set could have the same numbers.
        groups = digests([f"hatemoji {pair}" for pair in pairs])
        splits[name] = Split([row["text"] for row in rows], labels, groups=groups)
    return Raw(HATE_LABELS, splits)


@pinned(
    "tweeteval-offensive[:as-not-hate]",
    "OLID tweets (SemEval-2019 task 6): offensive or not, or all of them as not-hate; research use",
    TWEETEVAL_OFFENSIVE,
    hub=("cardiffnlp/tweet_eval", "offensive"),
)
def tweeteval_offensive_from(folder: Path, argument: str = "") -> Raw:
    """`as-not-hate` gives every tweet the label not-hate. That is wrong for some: in OLID (arXiv:1902.09666)
    a quarter of the offensive tweets insult a group, which may be hate, and this copy does not say which."""
    splits = _tweeteval_splits(folder)
    if not argument:
        return Raw(("not-offensive", "offensive"), splits)
    negatives = {name: replace(split, labels=np.zeros_like(split.labels)) for name, split in splits.items()}
    return Raw(HATE_LABELS, negatives, argument)


@pinned(
    "tweeteval-sentiment",
    "tweets (SemEval-2017 task 4) without a train split, for `--unlabelled` alone; research use",
    TWEETEVAL_SENTIMENT,
    hub=("cardiffnlp/tweet_eval", "sentiment"),
)
def tweeteval_sentiment_from(folder: Path, argument: str = "") -> Raw:
    return Raw(("negative", "neutral", "positive"), _tweeteval_splits(folder, ("validation", "test")))
