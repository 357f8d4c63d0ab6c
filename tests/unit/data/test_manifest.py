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
    Provenance,
    ShardRecord,
    ShardTable,
    commit_shard,
    dataset_ref,
    dataset_store,
    file_uri,
    find_dataset,
    load_manifest,
    plan_dataset,
    read_commit,
    recall,
    seal_dataset,
)
from components.data.publish import ShardBuilder
from components.data.shards import read_shard
from tests.helpers.datasets import commit_file, shard_file


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
    return seal_dataset(store, Provenance(**(settings | changes)), records)


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
    assert document["totals"]["in"] == 9 and document["table"]["rows"] == 2
    entry = manifest.shards[1]
    assert [sample.key for sample in read_shard(file_uri(store.uri, entry.tar))] == ["x", "y", "z", "dropped"]
    assert entry.metrics == {"distinct_2": 0.5}


def test_making_it_again_gives_the_same_bytes_anywhere(tmp_path: Path) -> None:
    refs = []
    for place in ("one", "two"):
        store = open_store(str(tmp_path / place))
        refs.append(seal(store, [build(store)], origin=f"/data/{place}"))
    assert refs[0].digest == refs[1].digest
    first, second = (
        {info.key: info.etag for info in open_store(str(tmp_path / name)).list()} for name in ("one", "two")
    )
    assert first.keys() == second.keys() and len(first) == 6
    for name in first.keys() - {"manifest.json"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert seal(open_store(str(tmp_path / "one")), [build(open_store(str(tmp_path / "one")))]) == refs[0]


def test_where_it_was_made_is_told_beside_it_and_changes_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = []
    for place in ("here", "there"):
        monkeypatch.setattr("components.data.manifest.surroundings", lambda place=place: {"processor": place})
        store = open_store(str(tmp_path / place))
        refs.append(seal(store, [build(store)]))
        assert json.loads(store.read("made.json")) == {"processor": place}
    assert refs[0].digest == refs[1].digest
    here = open_store(str(tmp_path / "here"))
    seal(here, [build(here)])
    assert json.loads(here.read("made.json")) == {"processor": "here"}, "who finds it made did not make it"


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
    commit_file(tmp_path, "00000").unlink()
    tar = shard_file(tmp_path, "00000")
    tar.write_bytes(b"half")
    with pytest.raises(DataError, match="it is 4 bytes, should be"):
        commit_shard(store, record)
    tar.unlink()
    with pytest.raises(DataError, match="it is missing"):
        commit_shard(store, record)
    assert read_commit(store, "00000") is None


def test_of_several_commits_the_smallest_digest_counts_whoever_came_first(tmp_path: Path) -> None:
    stores = [open_store(str(tmp_path / name)) for name in ("ab", "ba")]
    first, second = build(stores[0], keys="ab"), build(stores[0], keys="ac")
    assert build(stores[0], keys="ab") == first, "committing it again changes nothing"
    assert [build(stores[1], keys=keys) for keys in ("ac", "ab")] == [second, first]
    smallest = min(first, second, key=lambda record: record.digest)
    assert [read_commit(store, "00000") for store in stores] == [smallest] * 2
    assert len(list((tmp_path / "ab" / "shards").iterdir())) == 4, "nobody's bytes were overwritten"


def test_a_commit_whose_file_is_gone_or_of_another_plan_does_not_count(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    record = build(store).model_copy(update={"plan": "p" * 64})
    commit_file(tmp_path, "00000").unlink()
    commit_shard(store, record)
    assert recall(store, plan="p" * 64) == {"00000": record}
    assert recall(store, plan="q" * 64) == {}
    shard_file(tmp_path, "00000", ".parquet").write_bytes(b"cut")
    assert recall(store) == {}
    shard_file(tmp_path, "00000").unlink()
    assert read_commit(store, "00000") is None


def test_commits_of_different_input_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    build(store)
    build(store, keys="abc")
    with pytest.raises(DataError, match="two different runs wrote here"):
        read_commit(store, "00000")


def test_what_a_manifest_names_counts_before_a_later_commit(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    records = sorted((build(store, keys=keys) for keys in ("ab", "ac")), key=lambda record: record.digest)
    sealed = seal(store, [records[1]])
    assert recall(store, sealed=load_manifest(store.uri).shards.commits()) == {"00000": records[1]}
    assert seal(store, [records[0]]) == sealed, "a second writer of the same plan takes what is there"


def test_the_name_is_no_part_of_the_version(tmp_path: Path) -> None:
    stores = [open_store(str(tmp_path / name)) for name in ("one", "two")]
    refs = [seal(store, [build(store)], name=name) for store, name in zip(stores, ("a", "b"), strict=True)]
    assert refs[0].digest == refs[1].digest and refs[1].name == "b"


def test_a_store_that_was_copied_names_its_own_files_and_parents(tmp_path: Path) -> None:
    store = tmp_path / "store"
    target = dataset_store(open_store(str(store)), "web", "0" * 64)
    tar = store / "raw" / "00000.tar"
    tar.parent.mkdir(parents=True)
    tar.write_bytes(b"tar")
    outside = "/elsewhere/x"
    with ShardBuilder(target, "00000", tar=FileRecord(uri=str(tar), bytes=3, sha256="0" * 64)) as builder:
        record = builder.commit()
    assert record.tar.uri == "../../../raw/00000.tar"
    parents = [Parent(role="a", digest="a", uri=str(store / "datasets/b/1")), Parent(role="b", digest="b", uri=outside)]
    ref = seal(target, [record], parents=parents, origin=str(store / "raw"))
    store.rename(tmp_path / "moved")
    moved = load_manifest(str(tmp_path / "moved/datasets/web" / ("0" * 16)))
    assert file_uri(str(tmp_path / "moved/datasets/web" / ("0" * 16)), moved.shards[0].tar) == str(
        tmp_path / "moved/raw/00000.tar"
    )
    assert [parent.uri for parent in moved.parents] == [str(tmp_path / "moved/datasets/b/1"), outside]
    assert moved.origin == str(tmp_path / "moved/raw") and moved.digest == ref.digest
    assert str(store) not in (tmp_path / "moved/datasets/web" / ("0" * 16) / "manifest.json").read_text()


def test_a_table_of_shards_gives_back_what_was_put_in(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    entries = [build(store, f"{index:05d}").entry() for index in range(5)]
    table = ShardTable.from_bytes(ShardTable.of(entries).to_bytes(), "here")
    assert list(table) == entries and len(table) == 5
    assert (table[0], table[-1], list(table[1:3]), table.find("00003")) == (
        entries[0], entries[4], entries[1:3], entries[3],
    )  # fmt: skip
    assert table.find("x") is None
    assert table.totals() == Counts.total(entry.counts for entry in entries)
    assert table.digest == ShardTable.of(entries).digest != ShardTable.of(entries[::-1]).digest
    with pytest.raises(IndexError):
        table[5]
    with pytest.raises(DataError, match="no table of shards"):
        ShardTable.from_bytes(b"PAR1", "here")


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
        (b'"uri": "shards-', b'"uri": "shirts-', "shirts-.*is missing, which the manifest names"),
        (b'"in": 4', b'"in": 5', "is no manifest"),
        (b'"format": 2', b'"format": 3', "has format 3; this program reads format 2"),
        (b'"format": 2', b'"format": 1', "capfilt store upgrade"),
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
    commit = commit_file(tmp_path, "00000")
    whole = commit.read_bytes()
    commit.write_bytes(b"{}")
    with pytest.raises(DataError, match=f"{commit.name} is no commit record.*delete it and run again"):
        read_commit(store, "00000")
    commit.write_bytes(whole.replace(b"premature", b"immature."))
    with pytest.raises(DataError, match=f"{commit.name} was changed after it was written"):
        read_commit(store, "00000")


def test_an_empty_shard_commits_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with ShardBuilder(store, "00000") as builder:
        record = builder.commit()
    assert seal(store, [record]).images == 0
    assert list(read_shard(shard_file(tmp_path, "00000"))) == []


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
