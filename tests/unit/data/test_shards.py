"""Tars against `tarfile` and webdataset, cut at every block, and with everything a stranger may put in one."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import DataError, StorageError
from components.data.candidates import (
    MAX_TEXT_BYTES,
    Candidate,
    candidates_to_bytes,
    read_candidates,
    text_problem,
    write_candidates,
)
from components.data.shards import BrokenShard, index_shard, only_image, read_shard, scan_shard, split_name, write_shard

Sample = tuple[str, dict[str, bytes]]


def make_tar(members: list[tuple[str | tarfile.TarInfo, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def as_pairs(tar: bytes | Path) -> list[Sample]:
    return [(sample.key, sample.members) for sample in read_shard(tar)]


def by_webdataset(tar: bytes) -> list[Sample]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    files = tar_file_expander([{"url": "x", "stream": io.BytesIO(tar)}])
    return [
        (one["__key__"], {ext: data for ext, data in one.items() if ext not in ("__key__", "__url__")})
        for one in group_by_keys(files)
    ]


_LETTERS = st.sampled_from("abz019_-é漢 ")
_KEYS = st.builds(
    lambda folder, stem: f"{folder}{stem}",
    st.sampled_from(["", "a/", "b.c/d/", "./"]),
    st.text(_LETTERS, min_size=1, max_size=180).filter(lambda text: not text.startswith("__")),
)
_MEMBERS = st.dictionaries(
    st.sampled_from(["jpg", "json", "txt", "v2.jpg", "cls"]), st.binary(max_size=1300), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_KEYS, _MEMBERS), max_size=6, unique_by=lambda sample: sample[0]))
def test_what_is_written_is_read_by_us_tarfile_and_webdataset(tmp_path_factory, samples: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("shard") / "00000.tar"
    size, sha256 = write_shard(samples, path)
    data = path.read_bytes()
    assert len(data) == size
    assert as_pairs(path) == as_pairs(data) == samples == by_webdataset(data)
    with tarfile.open(path) as tar:
        names = {member.name: tar.extractfile(member).read() for member in tar}
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} <= {(0, 0, 0, "", "", 0o644)}
    assert names == {f"{key}.{extension}": value for key, members in samples for extension, value in members.items()}
    assert write_shard(reversed([(k, dict(reversed(m.items()))) for k, m in reversed(samples)]), path) == (size, sha256)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("ab./_é"), min_size=1, max_size=130), st.binary(max_size=600)), max_size=8
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_grouping_is_webdatasets_for_any_names(members: list[tuple[str, bytes]], format: int) -> None:
    """Where webdataset raises (an extension twice) or we refuse (unsafe names), ours is told apart instead."""
    try:
        tar = make_tar(members, format)
    except ValueError:  # USTAR cannot hold every name
        return
    ours = list(read_shard(tar))
    if any(sample.problem for sample in ours) or any(name.rpartition("/")[2].startswith(".") for name, _ in members):
        return
    theirs = by_webdataset(tar)
    if len({key for key, _ in theirs}) == len(theirs):  # members of a sample that lie apart are two samples to it
        assert [(sample.key, sample.members) for sample in ours] == theirs
    assert sorted(len(sample.members) for sample in ours) == sorted(
        sum(len(found) for key, found in theirs if key == sample.key) for sample in ours
    )


def test_member_order_is_picture_json_text(tmp_path: Path) -> None:
    write_shard([("k", {"txt": b"t", "cls": b"c", "json": b"{}", "png": b"p"})], tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["k.png", "k.json", "k.txt", "k.cls"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_of_other_writers(format: int) -> None:
    long = "d" * 90 + "/" + "n" * 300
    assert as_pairs(make_tar([(f"{long}.jpg", b"1"), (f"{long}.txt", b"2"), ("b.jpg", b"3")], format)) == [
        (long, {"jpg": b"1", "txt": b"2"}),
        ("b", {"jpg": b"3"}),
    ]


def test_sizes_in_base_256() -> None:
    tar = bytearray(make_tar([("a.jpg", b"x" * 700)]))
    tar[124:136] = b"\x80" + (700).to_bytes(11, "big")
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    assert as_pairs(bytes(tar)) == [("a", {"jpg": b"x" * 700})]


def test_a_cut_at_any_block_is_noticed_and_whole_samples_survive() -> None:
    samples = [(f"{i}", {"jpg": bytes([i]) * 700, "json": b"{}", "txt": b"t" * 30}) for i in range(3)]
    tar = make_tar([(f"{key}.{ext}", data) for key, members in samples for ext, data in members.items()])
    end = tar.rindex(b"t" * 30) // 512 * 512 + 512
    ends = [end // 3 * (i + 1) for i in range(3)]
    for cut in [*range(0, end + 1024, 512), *range(100, end + 1024, 512), end - 1, end + 1023]:
        with pytest.raises(BrokenShard, match="broken at byte") as error:
            index_shard(tar[:cut], name="s3://b/00007.tar")
        assert error.value.shard == "s3://b/00007.tar" and str(error.value.offset) in str(error.value)
        scan = scan_shard(tar[:cut])
        # The last sample before the cut may have lost members, so only those with another's member behind them count.
        whole = sum(cut >= sample_end + 512 + 700 for sample_end in ends)
        assert scan.broken is not None and [sample.key for sample in scan.samples] == [
            str(i) for i in range(min(whole, 2))
        ]
        found: list[Sample] = []
        with pytest.raises(BrokenShard):
            for sample in read_shard(tar[:cut]):
                found.append((sample.key, sample.members))
        assert found == samples[: len(scan.samples)]
    for whole_tar in (tar, tar[: end + 1024]):
        assert scan_shard(whole_tar).broken is None and as_pairs(whole_tar) == samples


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda tar: b"", "without its two closing"),
        (lambda tar: b"<!DOCTYPE html>" + b" " * 2000, "it is a web page under the name of a tar"),
        (lambda tar: tar[:1024] + b"c" + tar[1025:], "checksum"),
        (lambda tar: tar[:1024] + b"\1" * 512 + tar[1536:], "not a tar header"),
        (lambda tar: tar[:2048] + bytes(512) + tar[:1024] + bytes(1024), "data behind its end"),
        (lambda tar: tar + tar, "data behind its end"),
        (lambda tar: tar[:124] + b"77777777777\0" + tar[136:], "checksum"),
    ],
)
def test_damage_is_named(tmp_path: Path, spoil, what: str) -> None:
    path = tmp_path / "00003.tar"
    path.write_bytes(spoil(make_tar([("a.jpg", b"x"), ("b.jpg", b"y")])))
    with pytest.raises(BrokenShard, match=what) as error:
        list(read_shard(path))
    assert "00003.tar" in str(error.value) and "again" in str(error.value)


def test_a_size_beyond_the_end_is_a_break() -> None:
    tar = bytearray(make_tar([("a.jpg", b"x")]))
    tar[124:136] = b"00077777777\0"
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    with pytest.raises(BrokenShard, match="goes beyond the end"):
        index_shard(bytes(tar))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (special("bad.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (special("bad.jpg", tarfile.LNKTYPE, "a.jpg"), "link"),
        (special("bad.jpg", tarfile.CHRTYPE), "device"),
        (special("bad.jpg", tarfile.BLKTYPE), "device"),
        (special("bad.jpg", tarfile.FIFOTYPE), "device"),
        (special("/etc/bad.jpg", tarfile.REGTYPE), "absolute_name"),
        (special("a/../../bad.jpg", tarfile.REGTYPE), "parent_name"),
        (special("..", tarfile.REGTYPE), "parent_name"),
        (special("bad\udcff.jpg", tarfile.REGTYPE), "bad_name"),
    ],
)
def test_harmful_members_cost_their_sample_only(member: tarfile.TarInfo, reason: str) -> None:
    tar = make_tar([("a.jpg", b"1"), (member, b""), ("z.jpg", b"2")])
    first, bad, last = read_shard(tar)
    assert (first.key, first.members, first.problem) == ("a", {"jpg": b"1"}, None)
    assert bad.problem == reason and bad.members == {} and bad.offset == 1024
    assert (last.key, last.members, last.problem) == ("z", {"jpg": b"2"}, None)
    assert [sample.problem for sample in index_shard(tar)] == [None, reason, None]
    bad.key.encode()  # can be written down


def test_a_refused_member_spoils_its_whole_sample() -> None:
    tar = make_tar([("a.txt", b"1"), (special("a.jpg", tarfile.SYMTYPE, "b.jpg"), b""), ("b.jpg", b"2")])
    assert [(sample.key, sample.problem) for sample in read_shard(tar)] == [("a", "link"), ("b", None)]


def test_directories_meta_and_nameless_members_belong_to_no_sample() -> None:
    members = [(special("d", tarfile.DIRTYPE), b""), ("d/a.jpg", b"1"), ("__index__", b"x"), ("README", b"y")]
    hidden = [("._a.jpg", b"mac"), ("d/._a.jpg", b"mac"), ("d/.x.txt", b"y")]
    scan = scan_shard(make_tar([*members, *hidden, ("d/b.jpg", b"2")]))
    assert [sample.key for sample in scan.samples] == ["d/a", "d/b"] and scan.ignored == 5


@pytest.mark.parametrize("kind", [b"V", b"D"])
def test_a_volume_label_is_no_sample(kind: bytes) -> None:
    scan = scan_shard(make_tar([(special("my.backup", kind), b""), ("a.jpg", b"1")], tarfile.GNU_FORMAT))
    assert [(sample.key, sample.problem) for sample in scan.samples] == [("a", None)]


def test_solaris_extended_headers_are_read() -> None:
    long = "n" * 300
    tar = bytearray(make_tar([(f"{long}.jpg", b"1"), (f"{long}.txt", b"2")], tarfile.PAX_FORMAT))
    for start in range(0, len(tar), 512):
        if tar[start + 257 : start + 262] == b"ustar" and tar[start + 156 : start + 157] == b"x":
            tar[start + 156 : start + 157] = b"X"
            tar[start + 148 : start + 156] = b" " * 8
            tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + 512])
    assert as_pairs(bytes(tar)) == [(long, {"jpg": b"1", "txt": b"2"})]


def test_duplicate_keys_are_reported_apart_and_together() -> None:
    names = ["a.jpg", "a.txt", "a.jpg", "a.txt", "b.jpg", "a.jpg", "c.jpg", "c.JPG"]
    found = [(s.key, s.problem, sorted(s.members)) for s in index_shard(make_tar([(name, b"") for name in names]))]
    assert found == [
        ("a", None, ["jpg", "txt"]),
        ("a", "duplicate_key", ["jpg", "txt"]),
        ("b", None, ["jpg"]),
        ("a", "duplicate_key", ["jpg"]),
        ("c", None, ["jpg"]),
        ("c", "duplicate_key", ["jpg"]),
    ]


def test_members_apart_are_joined_to_the_latest_sample_of_their_key() -> None:
    names = ["a.jpg", "b.jpg", "a.txt", "b.txt", "a.jpg", "c.jpg", "a.txt", "a.json"]
    found = [(s.key, s.problem, sorted(s.members)) for s in index_shard(make_tar([(name, b"") for name in names]))]
    assert found == [
        ("a", None, ["jpg", "txt"]),
        ("b", None, ["jpg", "txt"]),
        ("a", "duplicate_key", ["jpg", "json", "txt"]),
        ("c", None, ["jpg"]),
    ]


def test_keys_with_dots_follow_webdataset() -> None:
    assert split_name("a/img.v2.JPG") == ("a/img", "v2.jpg")
    one, merged = read_shard(make_tar([("p.v2.jpg", b"1"), ("p.v2.txt", b"2"), ("q.1.jpg", b"3"), ("q.2.jpg", b"4")]))
    assert (one.key, one.image) == ("p", "v2.jpg")
    assert (merged.key, merged.image) == ("q", None)
    assert only_image(["txt", "json"]) is None


@pytest.mark.parametrize("key", ["a.b", "/a", "../a", "x/../a", "__a__/b", "", "a\0b"])
def test_keys_that_readers_would_not_find_are_not_written(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="no usable member name"):
        write_shard([(key, {"jpg": b"x"})], tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard([(f"{i}", {"jpg": b"x" * 2000}) for i in range(5)], path)
    reader = read_shard(path)
    next(reader)
    with path.open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(BrokenShard, match="shorter while it was read"):
        list(reader)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_no_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="a.tar: the disk is full; free space and run again"):
        write_shard([("a", {"jpg": b"x" * 100_000})], tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        index_shard(tmp_path / "00000.tar")


ROWS = [
    Candidate("0001", "ab" * 32, "web", "a dog — ein Hund", 0.1 + 0.2, -0.25, False, "below_threshold"),
    Candidate("0001", "ab" * 32, "synthetic", "a dog", 0.75, 0.5, True),
    Candidate("0002", "cd" * 32, "human", "", None, None, False, "empty_text"),
]


def test_candidates_come_back_exactly_and_bytes_are_the_same(tmp_path: Path) -> None:
    assert read_candidates(candidates_to_bytes(ROWS)) == ROWS
    assert candidates_to_bytes(ROWS) == candidates_to_bytes(iter(ROWS)) != candidates_to_bytes(ROWS[:2])
    write_candidates([], tmp_path / "0.parquet")
    assert read_candidates(tmp_path / "0.parquet") == []


def test_a_table_that_is_none_is_refused() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"], "text": ["b"]}), buffer)
    with pytest.raises(DataError, match="lacks image_sha256, source"):
        read_candidates(buffer.getvalue())
    with pytest.raises(DataError, match=r"x\.parquet is not a readable parquet"):
        read_candidates(b"PAR1 no", name="x.parquet")
    with pytest.raises(DataError, match="cannot be stored"):
        candidates_to_bytes([Candidate("k", "", "web", "\ud800", None, None, True)])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a dog", None),
        (None, "missing_text"),
        (3, "missing_text"),
        ("", "empty_text"),
        (" \n\t", "empty_text"),
        ("\ud800", "text_not_utf8"),
        ("ü" * (MAX_TEXT_BYTES // 2), None),
        ("ü" * (MAX_TEXT_BYTES // 2) + "x", "text_too_long"),
    ],
)
def test_text_problems(text: object, problem: str | None) -> None:
    assert text_problem(text) == problem
