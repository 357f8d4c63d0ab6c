"""Stores on a folder and on a real S3 server behave alike, and refuse with a remedy."""

import errno
from pathlib import Path

import pytest

from components.common import storage
from components.common.errors import StorageError
from components.common.storage import join_uri, normalise_uri, open_store, sha256_hex, split_uri
from tests.helpers.s3 import S3Server, serve_s3


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory):
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "_clients", {})
    return s3_server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "folder":
        return open_store(str(tmp_path / "root"))
    server = request.getfixturevalue("s3_environment")
    return open_store(join_uri(server.uri, tmp_path.name))


def test_objects_come_back_whole_and_in_ranges(store, tmp_path: Path):
    data = bytes(range(256)) * 9
    assert store.write("a/b.bin", data)
    assert store.read("a/b.bin") == data
    assert store.read("a/b.bin", start=5, stop=9) == data[5:9]
    assert store.read("a/b.bin", start=2000) == data[2000:]
    with store.open("a/b.bin") as stream:
        assert stream.read() == data
    info = store.info("a/b.bin")
    assert info is not None
    assert (info.key, info.size) == ("a/b.bin", len(data))
    store.download("a/b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    store.upload(tmp_path / "copy", "c.bin")
    assert [item.key for item in store.list()] == ["a/b.bin", "c.bin"]
    assert [item.key for item in store.list("a/")] == ["a/b.bin"]
    assert store.child("a").read("b.bin") == data
    store.delete("c.bin")
    store.delete("c.bin")
    assert not store.exists("c.bin")


def test_if_absent_leaves_the_first_writer_alone(store):
    assert store.write("commit.json", b"first", if_absent=True)
    assert not store.write("commit.json", b"second", if_absent=True)
    assert store.read("commit.json") == b"first"


def test_a_missing_object_is_named(store):
    with pytest.raises(StorageError, match="nowhere.bin: it does not exist"):
        store.read("nowhere.bin")


def test_check_leaves_nothing_behind(store):
    store.check()
    assert list(store.list()) == []


def test_wrong_secret_is_refused_with_the_remedy(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    monkeypatch.setattr(storage, "_clients", {})
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        open_store(s3_environment.uri).check()


def test_missing_bucket_is_named(s3_environment: S3Server):
    with pytest.raises(StorageError, match="no such bucket"):
        open_store("s3://nobody-made-this").check()


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("components.common.storage._clients", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(StorageError, match="write http://host:port"):
        open_store("s3://bucket/x").check()


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    for uri in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="is a file, not a folder"):
            open_store(str(uri)).check()


def test_silent_server_is_named(monkeypatch: pytest.MonkeyPatch):
    for name, value in S3Server("http://127.0.0.1:9", Path()).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage, "_clients", {})
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as caught:
        open_store("s3://some-bucket").read("x")
    assert caught.value.retryable


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(str(tmp_path))

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        store.write("shards/00000.tar", b"data")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_keys_cannot_leave_the_store(tmp_path: Path):
    with pytest.raises(StorageError, match="leaves the store"):
        open_store(str(tmp_path / "root")).write("../outside", b"x")


@pytest.mark.parametrize("uri", ["pipe:cat /etc/passwd", "http://example.org/x", "s3://B", "s3://"])
def test_foreign_schemes_are_refused(uri: str):
    with pytest.raises(StorageError):
        normalise_uri(uri)


def test_uris_survive_joining_and_splitting(tmp_path: Path):
    assert join_uri("s3://bucket/prefix/", "a", "b.tar") == "s3://bucket/prefix/a/b.tar"
    assert split_uri("s3://bucket/prefix/b.tar") == ("s3://bucket/prefix", "b.tar")
    assert normalise_uri(f"file://{tmp_path}") == str(tmp_path)
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
