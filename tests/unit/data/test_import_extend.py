"""An import of web data that grew: only new and changed tars are read, and the result is what a whole import makes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.common.contracts import DatasetRef
from components.common.storage import Store, open_store, s3_client
from components.data.manifest import load_manifest, read_commit
from components.data.shards import DUPLICATE_KEY
from components.data.versions.verify import verify
from components.data.web import extending, import_web, importing
from tests.helpers.s3 import BUCKET, serve_s3
from tests.helpers.webshards import good_sample, tar_bytes, write_web


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the tars that were looked into."""
    names: list[str] = []
    scan = importing.scan_shard

    def counted(path: Path, *, name: str) -> object:
        names.append(name.rpartition("/")[2])
        return scan(path, name=name)

    monkeypatch.setattr(importing, "scan_shard", counted)
    return names


def add(web: Path, name: str, *keys: str) -> Path:
    path = web / name
    path.write_bytes(tar_bytes([(key, good_sample(index)) for index, key in enumerate(keys)]))
    return path


def commits(ref: DatasetRef) -> dict[str, bytes]:
    """The commit records of a version as they lie there."""
    place = open_store(ref.uri)
    return {entry.name: place.read(entry.commit_key) for entry in load_manifest(ref.uri).shards}


def again(web: Path, store: Store) -> DatasetRef:
    return import_web(str(web), store=store, name="web", threads=1)


def test_ten_tars_and_one(tmp_path: Path, store: Store, read: list[str]) -> None:
    web = write_web(tmp_path / "web", shards=10, samples=2)
    parent = again(web, store)
    before = commits(parent)
    add(web, "00010.tar", "new")
    read.clear()
    child = again(web, store)
    assert read == ["00010.tar"]
    after = commits(child)
    assert {name: after[name] for name in before} == before and len(after) == 11
    (named,) = load_manifest(child.uri).parents
    assert (named.role, named.digest, named.uri) == ("extends", parent.digest, parent.uri)
    assert verify(child.uri).problems == verify(parent.uri).problems == ()
    whole = again(web, open_store(str(tmp_path / "other")))
    assert commits(whole) == after, "as if all had been read"
    assert load_manifest(whole.uri).parents == ()
    read.clear()
    assert again(web, store) == child and read == []


def test_changed_tars_are_read_and_touched_ones_are_hashed(
    tmp_path: Path, store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    web = write_web(tmp_path / "web", shards=3, samples=2)
    again(web, store)
    add(web, "00001.tar", "x", "y", "z")  # another size
    os.utime(web / "00002.tar", (1, 1))  # the same bytes
    hashed: list[str] = []
    whole = importing.sha256_file
    monkeypatch.setattr(importing, "sha256_file", lambda path: hashed.append(path.name) or whole(path))
    read.clear()
    child = again(web, store)
    assert read == ["00001.tar"]
    assert hashed == ["00001.tar", "00002.tar"], "the first is what it was by its tag"
    assert child.images == 7


def test_other_bytes_of_the_same_size_and_a_new_tar(tmp_path: Path, store: Store, read: list[str]) -> None:
    web = tmp_path / "web"
    web.mkdir()
    add(web, "00000.tar", "a")
    add(web, "00001.tar", "b")
    again(web, store)
    size = (web / "00001.tar").stat().st_size
    assert add(web, "00001.tar", "c").stat().st_size == size
    add(web, "00002.tar", "d")
    read.clear()
    child = again(web, store)
    assert read == ["00001.tar", "00002.tar"]
    assert child.images == 3 and verify(child.uri).problems == ()


def test_which_keys_an_earlier_tar_has_decides_too(tmp_path: Path, store: Store, read: list[str]) -> None:
    """A new tar in front takes a key from one behind it: that one is read again, the other is not."""
    web = tmp_path / "web"
    web.mkdir()
    add(web, "b.tar", "one", "two")
    add(web, "c.tar", "three", "two")
    parent = again(web, store)
    assert load_manifest(parent.uri).totals.failed == {DUPLICATE_KEY: 1}
    add(web, "a.tar", "one")
    read.clear()
    child = again(web, store)
    assert read == ["a.tar", "b.tar"]
    assert commits(child) == commits(again(web, open_store(str(tmp_path / "other"))))
    (web / "a.tar").unlink()
    read.clear()
    back = again(web, store)
    assert back == parent, "the first version is still there"
    (web / "b.tar").unlink()
    left = again(web, store)
    assert read == ["c.tar"], "its key is its own now"
    assert left.images == 2


def test_tars_elsewhere_are_taken_over_by_their_hash(tmp_path: Path, store: Store, read: list[str]) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=2)
    again(web, store)
    copy = Path(shutil.copytree(web, tmp_path / "copy"))
    add(copy, "00002.tar", "new")
    read.clear()
    child = again(copy, store)
    assert read == ["00002.tar"]
    shutil.rmtree(web)
    assert verify(child.uri).problems == (), "it names the tars where they are"


def test_broken_tars_are_read_again_and_so_is_all_with_a_limit(tmp_path: Path, store: Store, read: list[str]) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=4)
    data = (web / "00001.tar").read_bytes()
    (web / "00001.tar").write_bytes(data[: len(data) * 3 // 4 // 512 * 512 - 512])
    again(web, store)
    add(web, "00002.tar", "new")
    read.clear()
    again(web, store)
    assert read == ["00001.tar", "00002.tar"]
    read.clear()
    import_web(str(web), store=store, name="web", limit=5, threads=1)
    assert read == ["00000.tar", "00001.tar"]


def test_a_former_version_that_is_spoiled_is_done_without(
    tmp_path: Path, store: Store, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    web = write_web(tmp_path / "web", shards=3, samples=2)
    parent = again(web, store)
    entries = list(load_manifest(parent.uri).shards)
    place = open_store(parent.uri)
    place.write(entries[0].parquet.uri, b"spoiled")
    place.delete(entries[1].commit_key)
    add(web, "00003.tar", "new")
    read.clear()
    child = again(web, store)
    assert read == ["00000.tar", "00001.tar", "00003.tar"]
    assert "shard 00000 is read again" in caplog.text
    assert verify(child.uri).problems == ()
    place.write("manifest.json", b"{}")
    add(web, "00004.tar", "newer")
    read.clear()
    again(web, store)
    assert read == ["00004.tar"], "gone on from the version that is whole"


def test_an_interrupted_import_goes_on(
    tmp_path: Path, store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    web = write_web(tmp_path / "web", shards=3, samples=2)
    again(web, store)
    add(web, "00003.tar", "new")
    take_over, taken = extending.take_over, list[str]()

    def dies(*arguments: object) -> object:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append("one")
        return take_over(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(importing, "take_over", dies)
    with pytest.raises(KeyboardInterrupt):
        again(web, store)
    monkeypatch.setattr(importing, "take_over", take_over)
    read.clear()
    child = again(web, store)
    assert read == ["00003.tar"]
    whole = again(web, open_store(str(tmp_path / "other")))
    assert commits(child) == commits(whole)
    assert read_commit(open_store(child.uri), "00002") is not None


def test_on_s3(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        store = open_store(f"{server.uri}/store")
        write_web(server.folder / BUCKET / "web", shards=2, samples=2)
        parent = import_web(f"{server.uri}/web", store=store, name="web", threads=1)
        open_store(f"{server.uri}/web").upload(add(tmp_path, "00002.tar", "new"), "00002.tar")
        read.clear()
        child = import_web(f"{server.uri}/web", store=store, name="web", threads=1)
        assert read == ["00002.tar"]
        assert [one.digest for one in load_manifest(child.uri).parents] == [parent.digest]
        assert verify(child.uri).problems == ()
