"""The one reader of web shards: listing, names, texts, repeats and early warnings, rule by rule of its table."""

import json
import logging
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from components.common.errors import DataError
from components.data.candidates import MAX_TEXT_BYTES
from components.data.health import Health
from components.data.manifest import BadSample, Counts, FileRecord, ShardRecord
from components.data.shards import scan_shard
from components.data.web import WebTar, check_tars, list_tars
from components.data.web.repeats import KeysMet
from components.data.web.samples import lost_behind_break, read_sample
from components.data.web.texts import WebText, json_fields, read_json, text_members, web_texts
from tests.helpers.webshards import good_sample, tar_bytes, write_web


def names(uri: Path | str) -> list[str]:
    return [tar.name for tar in list_tars(str(uri))[1]]


def test_what_lies_beside_shards_is_no_shard(tmp_path: Path) -> None:
    write_web(tmp_path, shards=2)
    (tmp_path / "._00000.tar").write_bytes(b"\0\5\x16\7" + bytes(4092))
    (tmp_path / ".cache").mkdir()
    shutil.copy(tmp_path / "00000.tar", tmp_path / ".cache/00009.tar")
    (tmp_path / "00000.parquet").write_bytes(b"img2dataset's own")
    assert names(tmp_path) == ["00000", "00001"]


def test_tars_in_subfolders_are_meant_and_one_tar_is_one(tmp_path: Path) -> None:
    write_web(tmp_path / "a", shards=2)
    write_web(tmp_path / "b", shards=1)
    store, tars = list_tars(str(tmp_path))
    assert [tar.key for tar in tars] == ["a/00000.tar", "a/00001.tar", "b/00000.tar"]
    assert len({tar.name for tar in tars}) == 3 and all(tar.name.startswith(("a-0000", "b-0000")) for tar in tars)
    store, tars = list_tars(str(tmp_path / "a/00001.tar"))
    assert (store.uri, [tar.key for tar in tars]) == (str(tmp_path / "a"), ["00001.tar"])
    assert list_tars(f"file://{tmp_path}/a/00001.tar")[1] == tars
    (tmp_path / "odd.tar").mkdir()
    shutil.copy(tmp_path / "a/00000.tar", tmp_path / "odd.tar/1.tar")
    assert names(tmp_path / "odd.tar") == ["1"]


@pytest.mark.parametrize(
    "key", ["two words.tar", "two-words.v2.tar", "照片.tar", "図画.tar", "x/00000.tar", "n" * 150 + ".tar", "a.TAR"]
)
def test_a_shards_name_is_its_tars_alone(key: str) -> None:
    others = [
        "two words.tar",
        "two-words.v2.tar",
        "照片.tar",
        "図画.tar",
        "x/00000.tar",
        "x-00000.tar",
        "a.tar",
        "a.TAR",
    ]
    name = WebTar(key, 1, "", counted=False).name
    assert name.replace("-", "").replace("_", "").isalnum() and name.isascii() and len(name) < 80
    assert name not in {WebTar(other, 1, "", counted=False).name for other in others if other != key}


def test_a_dataset_written_below_its_own_input_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_web(tmp_path, shards=1)
    write_web(tmp_path / "out/shards", shards=2)
    (tmp_path / "out/plan.json").write_text("{}")
    assert names(tmp_path) == ["00000"]
    assert "2 tars in out/shards/ are a dataset's own" in caplog.text
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(DataError, match="making was not finished: run that again"):
        list_tars(str(tmp_path / "out"))


def test_packed_tars_are_named_with_their_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("00000.tar.gz", "00001.tgz", "00002.tar.zst"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"packed tars only \(00000.tar.gz, 00001.tgz, 00002.tar.zst\): unpack them"):
        list_tars(str(tmp_path))
    write_web(tmp_path, shards=1)
    assert names(tmp_path) == ["00000"]
    assert "3 packed tars are not read (00000.tar.gz" in caplog.text


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08" + bytes(2000), "gzip data"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "zstd data"),
        (b"<!DOCTYPE html>" + b" " * 2000, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n" + b" " * 2000, "git lfs pull"),
        (b"PK\3\4" + bytes(2000), "a zip archive"),
        (b"", "without its two closing zero blocks"),
        (bytes(10240), "is an empty tar"),
        (tar_bytes([]), "is an empty tar"),
    ],
)
def test_what_is_no_tar_is_called_what_it_is(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "00000.tar").write_bytes(data)
    (tmp_path / "00001.tar").write_bytes(data)
    with pytest.raises(DataError, match=rf"none of its 2 tars can be read: .*00000.tar.*{what}.*; .*00001.tar"):
        check_tars(str(tmp_path))
    write_web(tmp_path / "more", shards=1)
    check_tars(str(tmp_path))


def test_a_tar_may_begin_with_a_name_that_looks_like_another_format(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(tar_bytes([("BZhong", good_sample(1)), ("PAR1", good_sample(2))]))
    check_tars(str(tmp_path))


def test_a_tar_without_samples_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    with pytest.raises(DataError, match="has no samples, only members such as 'README'"):
        check_tars(str(tmp_path))


@pytest.mark.parametrize(
    ("members", "image", "expected"),
    [
        ({"txt": b"a red ball"}, None, [WebText("a red ball")]),
        ({"txt": b"  a red\n\tball \r\n"}, None, [WebText("a red ball")]),
        ({"txt": b"a\0b\x1b[0m\x7fc"}, None, [WebText("a b [0m c")]),
        ({"txt": b"\xef\xbb\xbfA boat\r\n"}, None, [WebText("A boat")]),
        ({"txt": "A boat".encode("utf-16")}, None, [WebText("A boat")]),
        ({"txt": "犬の写真".encode()}, None, [WebText("犬の写真")]),
        ({"txt": b""}, None, [WebText("", "empty_text")]),
        ({"txt": b" \n\0 "}, None, [WebText("", "empty_text")]),
        ({"txt": b"!!! --"}, None, [WebText("!!! --", "empty_text")]),
        ({"txt": b"caf\xe9"}, None, [WebText("caf\ufffd", "text_not_utf8")]),
        ({"txt": b"x" * (MAX_TEXT_BYTES + 1)}, None, [WebText("x" * 200, "text_too_long")]),
        ({}, None, [WebText("", "missing_text")]),
        ({"json": b'{"caption": " a  dog "}', "txt": b"other"}, None, [WebText("a dog")]),
        ({"json": b'{"caption": ["one", "", "two", " one "]}'}, None, [WebText("one"), WebText("two")]),
        ({"json": b'{"captions": ["one", "two"]}'}, None, [WebText("one"), WebText("two")]),
        ({"json": b'{"caption": null, "captions": "one"}'}, None, [WebText("one")]),
        ({"json": b'{"captions": [{"text": "ours"}]}', "txt": b"from txt"}, None, [WebText("from txt")]),
        ({"json": b'["one", "two", 3]'}, None, [WebText("one"), WebText("two")]),
        ({"json": b'"one"'}, None, [WebText("one")]),
        ({"json": b'{"url": "x"}', "txt": "grüße".encode()}, None, [WebText("grüße")]),
        ({"json": b"\xef\xbb\xbf" + b'{"caption": "a boat"}'}, None, [WebText("a boat")]),
        ({"json": b'{"caption": "a boat", "score": NaN}'}, None, [WebText("a boat")]),
        ({"json": b"\xff\xfe", "txt": b"text"}, None, [WebText("text")]),
        ({"json": b'{"caption": "\\ud800"}', "txt": b"text"}, None, [WebText("text")]),
        ({"json": b'{"caption": "lone \\ud800"}'}, None, [WebText("lone ?", "text_not_utf8")]),
        ({"json": b'{"caption": 7}'}, None, [WebText("", "missing_text")]),
        ({"json": b'{"caption": NaN}'}, None, [WebText("", "missing_text")]),
        ({"json": b'{"caption": []}'}, None, [WebText("", "missing_text")]),
        ({"json": b'{"caption": ""}'}, None, [WebText("", "empty_text")]),
        ({"json": b"{"}, None, [WebText("", "bad_json")]),
        ({"json": b"[" * 100_000}, None, [WebText("", "bad_json")]),
        ({"json": b"{", "txt": b"from txt"}, None, [WebText("from txt")]),
        ({"txt": b"plain", "v2.txt": b"its own"}, "v2.jpg", [WebText("its own")]),
        ({"v2.json": b'{"caption": "its own"}', "json": b'{"caption": "plain"}'}, "v2.jpg", [WebText("its own")]),
        ({"txt": b"plain"}, "v2.jpg", [WebText("plain")]),
        ({"outputs.txt": b"a thing"}, "input.jpg", [WebText("a thing")]),
        ({"meta.json": b'{"caption": "a thing"}'}, "jpg", [WebText("a thing")]),
        ({"caption": b"a thing"}, "jpg", [WebText("a thing")]),
        ({"txt": b"its own", "prompt.txt": b"other"}, "jpg", [WebText("its own")]),
        ({"a.txt": b"1", "b.txt": b"2"}, "jpg", [WebText("a.txt, b.txt", "several_texts")]),
        ({"a.txt": b"1", "b.txt": b"2", "json": b'{"caption": "x"}'}, "jpg", [WebText("x")]),
        ({"a.json": b'"1"', "b.json": b'"2"'}, "jpg", [WebText("", "missing_text")]),
    ],
)
def test_texts(members: dict[str, bytes], image: str | None, expected: list[WebText]) -> None:
    assert list(web_texts(members, image)) == expected


def test_texts_are_looked_for_in_texts_alone() -> None:
    assert text_members(["jpg", "cls", "__key__"], "jpg") == (None, ())
    assert text_members(["jpg", "json", "txt", "npy"], "jpg") == ("json", ("txt",))


def test_json_members_of_all_shapes_are_strict_json_again() -> None:
    assert json_fields(None) == {}
    assert json_fields(b'{"url": "u"}') == {"url": "u"}
    assert json_fields(b'["a", "b"]') == {"input_captions": ["a", "b"]}
    for bad in (b"{", b"7", b"\xff", b"[" * 100_000, json.dumps("x").encode()):
        assert json_fields(bad) == {}
    odd = read_json(b'{"a": NaN, "b": [Infinity, -Infinity], "c": 1e999, "d": 0.1, "e": -2.5e-3, "f": 12}')
    assert odd == {"a": None, "b": [None, None], "c": None, "d": 0.1, "e": -0.0025, "f": 12}


def test_members_apart_are_joined_and_only_the_index_is_held(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    parts = [(f"k{i}", {ext: good_sample(i)[ext]}) for ext in ("jpg", "json", "txt") for i in range(4)]
    path.write_bytes(tar_bytes(parts))
    scan = scan_shard(path)
    assert [(one.key, sorted(one.members), one.problem) for one in scan.samples] == [
        (f"k{i}", ["jpg", "json", "txt"], None) for i in range(4)
    ]
    read = [read_sample(path, one) for one in scan.samples]
    assert [one.texts for one in read] == [(WebText(f"an image numbered {i}"),) for i in range(4)]
    assert all(isinstance(place, tuple) for one in scan.samples for place in one.members.values())


def test_a_cut_tar_with_members_apart_counts_those_that_lost_something(tmp_path: Path) -> None:
    parts = [(f"k{i}", {ext: good_sample(i)[ext]}) for ext in ("jpg", "txt") for i in range(5)]
    data = tar_bytes(parts)
    path = tmp_path / "00000.tar"
    path.write_bytes(data[: data.index(b"k3.txt")])
    scan = scan_shard(path)
    assert [one.key for one in scan.samples] == ["k0", "k1", "k2"] and scan.cut == 2
    lost = lost_behind_break("s3://bucket/web/00000.tar", scan, None)
    assert lost is not None and (lost.count, lost.reason) == (2, "broken_shard")
    assert lost.key.startswith("00000.tar@") and "s3://" not in lost.detail, "the same wherever the tar lies"
    again = lost_behind_break("x/00000.tar", scan, 9)
    assert again is not None and again.count == 6


def test_keys_are_met_over_shards_the_same_in_every_process() -> None:
    rng = np.random.default_rng(0)
    met, known = KeysMet(), set[str]()
    for _ in range(40):
        keys = [f"key-{number}" for number in dict.fromkeys(rng.integers(0, 3000, rng.integers(0, 200)).tolist())]
        assert met.again(keys) == known & set(keys)
        known |= set(keys)
    assert sum(len(run) for run in met._runs) == len(known)
    assert len(met._runs) <= 12, "few runs, or every look would cost more than the one before"
    assert met._runs[0].dtype == np.uint64


def record(samples: int, failed: dict[str, int], kept: int) -> ShardRecord:
    good = samples - sum(failed.values())
    counts = Counts(
        samples=samples, kept=kept, dropped=good - kept, failed=failed, kept_pairs=kept, dropped_pairs=good - kept
    )
    file = FileRecord(uri="shards/00000.tar", bytes=1, sha256="0" * 64)
    bad = tuple(BadSample(key="x", reason=reason, detail="x.tar is broken", count=n) for reason, n in failed.items())
    return ShardRecord(name="00000", tar=file, parquet=file, counts=counts, bad=bad)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([record(10, {}, 5)], []),
        ([record(10, {"markup": 5}, 5)], []),
        ([record(10, {"markup": 6}, 4), record(10, {"markup": 9}, 1)], ["6 of the 10 samples of the first shard"]),
        ([record(0, {}, 0), record(10, {}, 0)], ["not one of 10 captions is kept"]),
        ([record(10, {}, 5), record(10, {"markup": 10}, 0)], []),
        (
            [record(10, {"broken_shard": 2}, 8), record(4, {"broken_shard": 1}, 3)],
            ["2 samples behind", "1 samples behind"],
        ),
    ],
)
def test_bad_news_come_after_the_first_shard(
    records: list[ShardRecord], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    health = Health("web")
    for one in records:
        health.look(one)
    warnings = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert len(warnings) == len(told) and all(part in line for part, line in zip(told, warnings, strict=True))
