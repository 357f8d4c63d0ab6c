"""Every rule of `components.data.web`, once: the import and CapFilt find the same shards, keys, texts and reasons."""

import gzip
import io
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.storage import open_store
from components.data.candidates import stored_candidates
from components.data.manifest import load_manifest, read_commit
from components.data.versions.verify import verify
from components.data.web import import_web
from components.data.web.texts import UNUSABLE
from components.regeneration.config import CapfiltConfig
from components.regeneration.run import run_capfilt
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, good_sample, photo, tar_bytes

Models = tuple[ModelRef, ModelRef]
Build = Callable[[Path], object]
JPG = good_sample(1)["jpg"]
PNG = encoded(photo(2), "PNG")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@dataclass(frozen=True)
class Seen:
    """What a reader made of a set: texts of good samples with their problems, failures, names of shards."""

    texts: dict[str, list[tuple[str, str]]]
    failed: list[tuple[str, str]] = field(default_factory=list)
    shards: tuple[str, ...] = ("00000",)


def good(**texts: str | tuple[str, str] | list[str]) -> dict[str, list[tuple[str, str]]]:
    """Expected texts of good samples: a text, several, or one that is of no use and its problem."""
    return {
        key: [value]
        if isinstance(value, tuple)
        else [(one, "") for one in ([value] if isinstance(value, str) else value)]
        for key, value in texts.items()
    }


def members(*names: tuple[str, bytes], path: str = "00000.tar") -> Build:
    """A tar with these members in this order, behind two good samples, so that it is not mostly bad."""

    def build(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / path, "w", format=tarfile.GNU_FORMAT) as tar:
            for name, data in [("ok1.jpg", JPG), ("ok1.txt", b"one"), ("ok2.jpg", JPG), ("ok2.txt", b"two"), *names]:
                add(tar, name, data)

    return build


def add(tar: tarfile.TarFile, name: str | tarfile.TarInfo, data: bytes = b"") -> None:
    info = tarfile.TarInfo(name) if isinstance(name, str) else name
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def files(**contents: bytes) -> Build:
    """Files by name (`__` is a slash, `DOT` a dot at the front)."""

    def build(folder: Path) -> None:
        for name, data in contents.items():
            path = folder / f"{name.replace('__', '/').replace('DOT', '.')}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return build


def one(key: str, text: str = "words", jpg: bytes = JPG) -> tuple[str, dict[str, bytes]]:
    return key, {"jpg": jpg, "txt": text.encode()}


def with_label(folder: Path) -> None:
    label = tarfile.TarInfo("my.backup")
    label.type = b"V"
    with tarfile.open(folder / "00000.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, label)
        for name, data in (("a.jpg", JPG), ("a.txt", b"words")):
            add(tar, name, data)


def with_link(folder: Path) -> None:
    link = tarfile.TarInfo("b.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in (("a.jpg", JPG), ("a.txt", b"words"), ("b.jpg", JPG)):
            add(tar, name, data)
        add(tar, link)


OK = good(ok1="one", ok2="two")
WHOLE = tar_bytes([one("a", "a text"), one("b", "b text"), one("c", "c text")])

RULES: dict[str, tuple[Build, Seen]] = {
    "ordinary": (members(("k.jpg", JPG), ("k.txt", b"words")), Seen(OK | good(k="words"))),
    "a key with a dot": (members(("d.v2.jpg", JPG), ("d.v2.txt", b"words")), Seen(OK | good(d="words"))),
    "several images": (members(("k.1.jpg", JPG), ("k.2.jpg", JPG)), Seen(OK, [("k", "several_images")])),
    "an image and its mask": (members(("k.jpg", JPG), ("k.png", PNG)), Seen(OK, [("k", "several_images")])),
    "no image": (members(("k.txt", b"words")), Seen(OK, [("k", "no_image")])),
    "a bad image": (members(("k.jpg", b"<html>"), ("k.txt", b"words")), Seen(OK, [("k", "markup")])),
    "members apart": (
        members(("a.jpg", JPG), ("b.jpg", JPG), ("a.txt", b"text a"), ("b.txt", b"text b")),
        Seen(OK | good(a="text a", b="text b")),
    ),
    "a key twice": (
        members(
            ("k.jpg", JPG), ("k.txt", b"first"), ("l.jpg", JPG), ("l.txt", b"l"), ("k.jpg", JPG), ("k.txt", b"second")
        ),
        Seen(OK | good(k="first", l="l"), [("k", "duplicate_key")]),
    ),
    "no text": (members(("k.jpg", JPG)), Seen(OK | good(k=("", "missing_text")))),
    "nothing said": (members(("k.jpg", JPG), ("k.txt", b"!!!")), Seen(OK | good(k=("!!!", "empty_text")))),
    "white space": (members(("k.jpg", JPG), ("k.txt", b" a  red\r\n\tball\n")), Seen(OK | good(k="a red ball"))),
    "NUL in a text": (members(("k.jpg", JPG), ("k.txt", b"a\0ball\0")), Seen(OK | good(k="a ball"))),
    "byte order mark": (members(("k.jpg", JPG), ("k.txt", b"\xef\xbb\xbfA boat\r\n")), Seen(OK | good(k="A boat"))),
    "UTF-16": (members(("k.jpg", JPG), ("k.txt", "A boat".encode("utf-16"))), Seen(OK | good(k="A boat"))),
    "Latin-1": (members(("k.jpg", JPG), ("k.txt", b"caf\xe9")), Seen(OK | good(k=("caf\ufffd", "text_not_utf8")))),
    "a page of text": (
        members(("k.jpg", JPG), ("k.txt", b"x" * 30_000)),
        Seen(OK | good(k=("x" * 200, "text_too_long"))),
    ),
    "another name": (members(("k.input.jpg", JPG), ("k.outputs.txt", b"a thing")), Seen(OK | good(k="a thing"))),
    "two other names": (
        members(("k.jpg", JPG), ("k.a.txt", b"1"), ("k.b.txt", b"2")),
        Seen(OK | good(k=("a.txt, b.txt", "several_texts"))),
    ),
    "json before txt": (
        members(("k.jpg", JPG), ("k.json", b'{"caption": "json"}'), ("k.txt", b"txt")),
        Seen(OK | good(k="json")),
    ),
    "a list of captions": (
        members(("k.jpg", JPG), ("k.json", b'{"caption": ["one", "", "two", "one "]}')),
        Seen(OK | good(k=["one", "two"])),
    ),
    "a json that is a list": (
        members(("k.jpg", JPG), ("k.json", b'["one", "two"]')),
        Seen(OK | good(k=["one", "two"])),
    ),
    "NaN": (
        members(("k.jpg", JPG), ("k.txt", b"words"), ("k.json", b'{"score": NaN}')),
        Seen(OK | good(k="words")),
    ),
    "a broken json": (members(("k.jpg", JPG), ("k.json", b"{")), Seen(OK | good(k=("", "bad_json")))),
    "dot files in a tar": (
        members(("._k.jpg", b"mac"), ("d/._k.jpg", b"mac"), ("k.jpg", JPG), ("k.txt", b"words")),
        Seen(OK | good(k="words")),
    ),
    "a volume label": (with_label, Seen(good(a="words"))),
    "a link": (with_link, Seen(good(a="words"), [("b", "link")])),
    "a double slash": (
        members(("a//k.jpg", JPG), ("a//k.txt", b"words"), ("a/k.jpg", JPG), ("a/k.txt", b"others")),
        Seen(OK | good(**{"a//k": "words", "a/k": "others"})),
    ),
    "a dot and a slash": (members(("./k.jpg", JPG), ("./k.txt", b"words")), Seen(OK | good(**{"./k": "words"}))),
    "names in other scripts": (
        members(("照片1.jpg", JPG), ("照片1.txt", b"one"), ("図画1.jpg", JPG), ("図画1.txt", b"two")),
        Seen(OK | good(照片1="one", 図画1="two")),
    ),
    "a cut tar": (
        files(**{"00000": WHOLE[: WHOLE.index(b"c.txt") + 100]}),
        Seen(good(a="a text", b="b text"), [("00000.tar", "broken_shard")]),
    ),
    "a key in two shards": (
        files(**{"00000": tar_bytes([one("a", "first"), one("b")]), "00001": tar_bytes([one("a", "again"), one("c")])}),
        Seen(good(a="first", b="words", c="words"), [("a", "duplicate_key")], ("00000", "00001")),
    ),
    "a key whose first image is bad": (
        files(
            **{"00000": tar_bytes([one("a", jpg=b"x"), one("b")]), "00001": tar_bytes([one("a"), one("c"), one("d")])}
        ),
        Seen(
            good(b="words", c="words", d="words"), [("a", "not_an_image"), ("a", "duplicate_key")], ("00000", "00001")
        ),
    ),
    "subfolders": (
        files(a__00000=tar_bytes([one("a")]), b__00000=tar_bytes([one("b")])),
        Seen(good(a="words", b="words"), shards=("a-00000-33f6b7dc", "b-00000-8ef3ce4c")),
    ),
    "a name with a space": (
        files(**{"two words": tar_bytes([one("a")])}),
        Seen(good(a="words"), shards=("two-words-0a1b2c3d",)),
    ),
    "dot files beside shards": (
        files(**{"00000": tar_bytes([one("a")]), "DOT_00000": b"\0\5\x16\7" + bytes(4092), "DOTx__1": b""}),
        Seen(good(a="words")),
    ),
}


def seen(ref: DatasetRef) -> Seen:
    """What a sealed dataset says of the web texts it was made from."""
    texts: dict[str, list[tuple[str, str]]] = {}
    failed: list[tuple[str, str]] = []
    manifest = load_manifest(ref.uri)
    for entry in manifest.shards:
        record = read_commit(open_store(ref.uri), entry.name)
        assert record is not None
        bad = [(one.key.partition("@")[0], one.reason) for one in record.bad]
        failed += bad
        lost = {key for key, reason in bad if reason != "duplicate_key"}
        for row in stored_candidates(ref.uri, entry.parquet).rows():
            if row.source == "web" and row.key not in lost:
                texts.setdefault(row.key, []).append((row.text, row.reason if row.reason in UNUSABLE else ""))
    return Seen(texts, failed, tuple(entry.name for entry in manifest.shards))


def unhashed(name: str) -> str:
    return re.sub(r"-[0-9a-f]{8}$", "-", name)


def details(ref: DatasetRef) -> list[tuple[str, str, str, int]]:
    store = open_store(ref.uri)
    records = [read_commit(store, entry.name) for entry in load_manifest(ref.uri).shards]
    return [(bad.key, bad.reason, bad.detail, bad.count) for record in records if record for bad in record.bad]


@pytest.mark.parametrize("rule", RULES)
def test_the_import_and_capfilt_read_the_same(tmp_path: Path, models: Models, rule: str) -> None:
    build, expected = RULES[rule]
    web = tmp_path / "web"
    web.mkdir()
    build(web)
    imported = import_web(str(web), store=open_store(str(tmp_path / "store")), name="web", threads=1)
    config = CapfiltConfig(batch_size=4, threads=1, threshold=0.0)
    results = [
        run_capfilt(source, *models, config, store=open_store(str(tmp_path)), name=name).dataset
        for name, source in (("raw", str(web)), ("sealed", imported))
    ]
    found = seen(imported)
    assert (found.texts, found.failed) == (expected.texts, expected.failed)
    assert [unhashed(name) for name in found.shards] == [unhashed(name) for name in expected.shards]
    for result in results:
        assert seen(result) == found
        assert details(result) == details(imported)
        assert verify(result.uri).problems == ()


def packed(folder: Path) -> None:
    (folder / "00000.tar").write_bytes(gzip.compress(WHOLE))


def no_extensions(folder: Path) -> None:
    with tarfile.open(folder / "00000.tar", "w") as tar:
        add(tar, "README", b"words")


REFUSED: dict[str, tuple[Build, str]] = {
    "nothing": (lambda folder: None, "holds no .tar: give the folder that img2dataset wrote"),
    "packed tars": (
        lambda folder: (folder / "0.tar.gz").write_bytes(b"x"),
        r"holds packed tars only \(0.tar.gz\): unpack",
    ),
    "gzip under the name of a tar": (packed, r"none of its 1 tars can be read: .*00000.tar .*it is gzip data"),
    "web pages": (files(**{"00000": b"<!doctype html>" + bytes(900)}), "none of its 1 tars can be read.* web page"),
    "empty tars": (files(**{"00000": tar_bytes([])}), "none of its 1 tars can be read: .* is an empty tar"),
    "no extensions": (no_extensions, "has no samples, only members such as 'README'"),
    "most samples bad": (
        files(**{"00000": tar_bytes([one("a"), one("b", jpg=b"x"), one("c", jpg=b"<html>")])}),
        r"2 of 3 samples cannot be used \(markup: 1, not_an_image: 1\)",
    ),
    "most shards broken": (
        files(**{"00000": tar_bytes([one("a")]), "00001": b"", "00002": b"\x1f\x8b" + bytes(900)}),
        r"2 of 3 samples cannot be used \(broken_shard: 2\).*Not read to the end: 00001.tar, 00002.tar",
    ),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_the_import_and_capfilt_refuse_the_same(tmp_path: Path, models: Models, rule: str) -> None:
    build, message = REFUSED[rule]
    web = tmp_path / "web"
    web.mkdir()
    build(web)
    store = open_store(str(tmp_path))
    with pytest.raises(DataError, match=message):
        import_web(str(web), store=store, name="web", threads=1)
    with pytest.raises(DataError, match=message):
        run_capfilt(str(web), *models, CapfiltConfig(threads=1), store=store, name="out")
    assert not [info.key for info in store.list("datasets") if info.key.endswith("manifest.json")]


def test_limits_that_somebody_set_are_no_fault_of_the_input(tmp_path: Path, models: Models) -> None:
    files(**{"00000": tar_bytes([one("a"), one("b", jpg=encoded(photo(3, 20, 20))), one("c")])})(tmp_path)
    config = CapfiltConfig(threads=1, threshold=0.0, min_side=60)
    run_capfilt(str(tmp_path / "00000.tar"), *models, config, store=open_store(str(tmp_path / "out")), name="out")


def test_one_tar_is_an_input_for_both(tmp_path: Path, models: Models) -> None:
    members(("k.jpg", JPG), ("k.txt", b"words"))(tmp_path)
    files(**{"00001": tar_bytes([one("other")])})(tmp_path)
    tar, store = str(tmp_path / "00000.tar"), open_store(str(tmp_path / "store"))
    imported = import_web(tar, store=store, name="web", threads=1)
    result = run_capfilt(tar, *models, CapfiltConfig(threads=1, threshold=0.0), store=store, name="out").dataset
    assert seen(imported) == seen(result) == Seen(OK | good(k="words"))
