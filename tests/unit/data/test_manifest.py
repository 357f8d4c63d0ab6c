"""Plan, commits, manifest: what is trusted, what is refused, and what the version depends on."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError, DataError, StorageError
from components.common.storage import FolderStore, Store, open_store, sha256_hex
from components.data.candidates import Candidate
from components.data.health import Health
from components.data.manifest import (
    BadSample,
    Counts,
    FileRecord,
    Parent,
    ShardRecord,
    commit_shard,
    dataset_ref,
    dataset_store,
    file_uri,
    find_dataset,
    load_manifest,
    plan_dataset,
    read_commit,
    seal_dataset,
)
from components.data.publish import ShardBuilder
from components.data.shards import read_shard


def candidate(key: str, text: str, kept: bool = True) -> Candidate:
    return Candidate(key, "00" * 32, "web", text, None, None, kept, "" if kept else "low")


def build(store: Store, name: str = "00000", keys: str = "ab") -> ShardRecord:
    with ShardBuilder(store, name) as builder:
        for key in keys:
            builder.add(key, [candidate(key, f"text {key}"), candidate(key, "bad", False)], {"jpg": key.encode()})
        builder.add("dropped", [candidate("dropped", "no", False)], {"jpg": b"d"})
        builder.fail("broken", "truncated", "premature end")
        return builder.commit({"distinct_2": 0.5})


def seal(store: Store, records: list[ShardRecord], **changes):
    settings = {"name": "n", "kind": "web", "config": {"threshold": 0.5}, "fingerprint": "f" * 64}
    return seal_dataset(store, records=records, **(settings | changes))


def test_a_dataset_from_plan_to_reference(tmp_path: Path) -> None:
    store = dataset_store(open_store(str(tmp_path)), "web", "0123456789abcdef0123")
    assert store.uri == str(tmp_path / "datasets/web/0123456789abcdef")
    assert find_dataset(store) is None and read_commit(store, "00000") is None
    record = build(store)
    assert record.counts == Counts(samples=4, kept=2, dropped=1, failed={"truncated": 1}, kept_pairs=2, dropped_pairs=3)
    assert record.bad == (BadSample(key="broken", reason="truncated", detail="premature end"),)
    assert read_commit(store, "00000") == record
    with pytest.raises(DataError, match="is no dataset: there is no manifest.json$"):
        load_manifest(store.uri)
    ref = seal(store, [record, build(store, "00001", "xyz")])
    assert (ref.images, ref.pairs, ref.uri) == (5, 5, store.uri)
    assert ref == find_dataset(store) == dataset_ref(store.uri) == dataset_ref(f"file://{store.uri}")
    manifest = load_manifest(f"{store.uri}/manifest.json")
    assert manifest.totals.failed == {"truncated": 2} and manifest.digest == ref.digest
    document = json.loads((tmp_path / "datasets/web/0123456789abcdef/manifest.json").read_text())
    assert document["totals"]["in"] == 9 and document["shards"][0]["counts"]["kept_pairs"] == 2
    entry = manifest.shards[1]
    assert [sample.key for sample in read_shard(file_uri(store.uri, entry.tar))] == ["x", "y", "z", "dropped"]
    assert entry.metrics == {"distinct_2": 0.5}


def test_making_it_again_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    refs = []
    for place in ("one", "two"):
        store = open_store(str(tmp_path / place))
        refs.append(seal(store, [build(store)], origin=f"/data/{place}"))
    assert refs[0].digest == refs[1].digest
    for name in ("shards/00000.tar", "shards/00000.parquet", "commits/00000.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert seal(open_store(str(tmp_path / "one")), [build(open_store(str(tmp_path / "one")))]) == refs[0]


def test_the_digest_knows_content_and_parents_but_no_places(tmp_path: Path) -> None:
    def digest(place: str, uri: str, sha256: str = "0" * 64, parent: str = "p", threshold: float = 0.5) -> str:
        store = open_store(str(tmp_path / place))
        with ShardBuilder(store, "00000", tar=FileRecord(uri=uri, bytes=1, sha256=sha256)) as builder:
            builder.add("a", [candidate("a", "text")])
            record = builder.commit()
        parents = [Parent(role="filter", digest=parent, uri=f"s3://models/{place}")]
        return seal(store, [record], config={"threshold": threshold}, parents=parents).digest

    base = digest("1", "/data/00000.tar")
    assert base == digest("2", "s3://bucket/web/00000.tar")
    others = [digest("3", "/d/00001.tar"), digest("4", "/data/00000.tar", "1" * 64)]
    others += [digest("5", "/data/00000.tar", parent="q"), digest("6", "/data/00000.tar", threshold=0.6)]
    assert len({base, *others}) == 5


def test_another_plan_at_the_same_place_is_refused_with_the_difference(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    plan = {"decoding": {"top_p": 0.9, "prompt": "a picture of "}, "shards": ["a", "b"], "seed": 1}
    fingerprint = plan_dataset(store, plan)
    assert fingerprint == plan_dataset(store, dict(reversed(plan.items())))
    wanted = {"decoding": {"top_p": 0.8, "prompt": "a picture of "}, "shards": ["a", "c"], "policy": "replace"}
    with pytest.raises(ConfigError) as error:
        plan_dataset(store, wanted)
    text = str(error.value)
    for part in ("decoding.top_p: 0.9 there, 0.8 asked for", "shards[1]: 'b' there, 'c' asked for", str(tmp_path),
                 "seed: 1 there, nothing asked for", "policy: nothing there, 'replace' asked for"):  # fmt: skip
        assert part in text
    assert "prompt" not in text
    with pytest.raises(DataError, match="begun but not finished"):
        load_manifest(str(tmp_path))


def test_conservation_is_enforced() -> None:
    with pytest.raises(ValidationError, match="in = 3 is not kept 1"):
        Counts(samples=3, kept=1, dropped=1, failed={})
    file = FileRecord(uri="x", bytes=0, sha256="")
    with pytest.raises(ValidationError, match="0 bad samples listed"):
        ShardRecord(name="0", tar=file, parquet=file, counts=Counts(samples=1, failed={"corrupt": 1}))
    lost = BadSample(key="00000.tar", reason="broken_shard", count=7)
    counts = Counts(samples=7, failed={"broken_shard": 7})
    assert ShardRecord(name="0", tar=file, parquet=file, counts=counts, bad=(lost,)).bad[0].count == 7
    total = Counts.total([counts, Counts(samples=2, kept=1, failed={"corrupt": 1}, kept_pairs=3)])
    assert total.model_dump()["in"] == 9 and total.failed == {"broken_shard": 7, "corrupt": 1}


def test_committing_what_is_not_there_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    record = build(store)
    store.delete("commits/00000.json")
    (tmp_path / "shards/00000.tar").write_bytes(b"half")
    with pytest.raises(DataError, match="it is 4 bytes, should be"):
        commit_shard(store, record)
    store.delete("shards/00000.tar")
    with pytest.raises(DataError, match="it is missing"):
        commit_shard(store, record)
    assert read_commit(store, "00000") is None


def test_the_first_commit_counts_and_another_content_is_an_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = build(store)
    assert build(store) == first
    with pytest.raises(DataError, match="two different runs wrote here"):
        build(store, keys="abc")
    assert read_commit(store, "00000") == first


def test_sealing_something_else_at_the_same_place_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    records = [build(store)]
    seal(store, records)
    with pytest.raises(DataError, match="holds another dataset"):
        seal(store, records, config={"threshold": 0.6})
    with pytest.raises(DataError, match="shards of one name"):
        seal(store, records * 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"threshold": 0.5', b'"threshold": 0.6', "was changed after it was written"),
        (b'"kept_pairs": 2', b'"kept_pairs": 3', "was changed after it was written"),
        (b'"in": 4', b'"in": 5', "is no manifest"),
        (b'"format": 1', b'"format": 2', "has format 2; this program reads format 1"),
        (b'"kind"', b'"knd"', "is no manifest"),
        (b"{", b"", "is not JSON"),
    ],
)
def test_a_changed_manifest_is_not_believed(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    store = open_store(str(tmp_path))
    seal(store, [build(store)])
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_manifest(str(tmp_path))


def test_an_unreadable_commit_says_what_to_delete(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    build(store)
    (tmp_path / "commits/00000.json").write_bytes(b"{}")
    with pytest.raises(DataError, match="00000.json is no commit record.*delete it and run again"):
        read_commit(store, "00000")


def test_an_empty_shard_commits_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with ShardBuilder(store, "00000") as builder:
        record = builder.commit()
    assert seal(store, [record]).images == 0
    assert list(read_shard(tmp_path / "shards/00000.tar")) == []


def test_a_builder_that_fails_leaves_nothing_that_counts(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(StorageError, match="disk is full"), ShardBuilder(store, "00000", work_dir=work) as builder:
        builder.add("a", [candidate("a", "t")], {"jpg": b"x"})
        raise StorageError("disk is full")
    assert list(work.iterdir()) == [] and list(store.list()) == []


def test_a_full_disk_leaves_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "store"))
    monkeypatch.setattr(FolderStore, "upload", _disk_full)
    with pytest.raises(StorageError, match="disk is full"):
        build(store)
    monkeypatch.undo()
    assert list(store.list()) == []
    assert build(store).counts.samples == 4


def _disk_full(self: FolderStore, path: Path, key: str) -> None:
    raise StorageError(f"cannot write {key}: the disk is full")


def test_mostly_bad_input_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with ShardBuilder(store, "00000") as builder:
        builder.add("good", [candidate("good", "t")], {"jpg": b"x"})
        for key in "ab":
            builder.fail(key, "markup", "a web page")
        record = builder.commit()
    health = Health("/data")
    with pytest.raises(DataError, match="not one sample"):
        health.refuse()
    health.look(record)
    with pytest.raises(
        DataError, match=r"/data: 2 of 3 samples cannot be used \(markup: 2\); for example a: a web page"
    ):
        health.refuse()
    health.refuse(meant=["markup"])


def test_bytes_of_a_record_do_not_depend_on_who_writes(tmp_path: Path) -> None:
    record = build(open_store(str(tmp_path)))
    again = ShardRecord.model_validate_json(record.to_bytes())
    assert again == record and sha256_hex(again.to_bytes()) == sha256_hex(record.to_bytes())
