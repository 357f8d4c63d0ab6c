"""Stores on a folder and on a real S3 server behave alike, and refuse with a remedy."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.common.errors import StorageError
from components.common.storage import join_uri, normalise_uri, open_store, s3_client, sha256_hex, split_uri
from tests.helpers.s3 import S3Server, serve_s3


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory):
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "_clients", {})
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
    monkeypatch.setattr(s3_client, "_clients", {})
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        open_store(s3_environment.uri).check()


def test_missing_bucket_is_named(s3_environment: S3Server):
    with pytest.raises(StorageError, match="no such bucket"):
        open_store("s3://nobody-made-this").check()


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("components.common.storage.s3_client._clients", {})
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
    monkeypatch.setattr(s3_client, "_clients", {})
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as caught:
        open_store("s3://some-bucket").read("x")
    assert caught.value.retryable


def test_a_process_follows_its_settings_to_another_server(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch):
    first = s3_client.client()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert s3_client.client().meta.endpoint_url == "http://127.0.0.1:9"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_environment.endpoint)
    assert s3_client.client() is first


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(str(tmp_path))

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        store.write("shards/00000.tar", b"data")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "a\0b"])
def test_keys_cannot_leave_the_store(tmp_path: Path, key: str):
    store = open_store(str(tmp_path / "root"))
    for call in (lambda: store.write(key, b"x"), lambda: store.read(key), lambda: store.info(key)):
        with pytest.raises(StorageError, match="leaves the store"):
            call()


def test_links_are_followed_and_replaced_by_writes(tmp_path: Path):
    """Shards on another disk, and the Hugging Face cache, whose snapshots hold links to blobs."""
    (tmp_path / "disk" / "more").mkdir(parents=True)
    (tmp_path / "disk" / "0.tar").write_bytes(b"zero")
    (tmp_path / "disk" / "more" / "1.tar").write_bytes(b"one")
    root = tmp_path / "root"
    root.mkdir()
    (root / "0.tar").symlink_to("../disk/0.tar")
    (root / "sub").symlink_to(tmp_path / "disk" / "more")
    (root / "gone.tar").symlink_to("nowhere")
    (root / "circle").symlink_to(root)
    store = open_store(str(root))
    assert [one.key for one in store.list()] == ["0.tar", "sub/1.tar"]
    assert [one.key for one in store.list("sub/")] == ["sub/1.tar"]
    assert store.read("0.tar") == b"zero"
    assert store.info("gone.tar") is None
    store.write("0.tar", b"new")
    assert (store.read("0.tar"), (tmp_path / "disk" / "0.tar").read_bytes()) == (b"new", b"zero")


def test_modified_is_when_the_store_took_it(store):
    before = time.time()
    store.write("a", b"x")
    first = store.info("a").modified
    assert before - 2 <= first <= time.time() + 2
    assert [one.modified for one in store.list("a")] == [pytest.approx(first, abs=1.0)]
    time.sleep(1.1)
    store.write("a", b"x")
    assert store.info("a").modified > first


def test_names_in_other_scripts(store):
    for key in ("данные/снимок №1.jpg", "画像/猫 50%?#.jpg", "a%20b/ü+&=.txt"):
        store.write(key, key.encode())
        assert store.read(key) == key.encode()
        assert [one.key for one in store.list(key[:3])] == [key]
        assert store.child(key.rpartition("/")[0]).exists(key.rpartition("/")[2])


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT, SMB, some FUSE file systems."""

    def link(source: object, target: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", link)


def test_without_hard_links_the_first_writer_is_left_alone_too(no_links: None, tmp_path: Path):
    store = open_store(str(tmp_path))
    able = store.check()
    assert not able.creates_once
    assert "no hard links" in able.note
    assert store.write("a/commit.json", b"first", if_absent=True)
    assert not store.write("a/commit.json", b"second", if_absent=True)
    assert store.read("a/commit.json") == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["commit.json"]


def test_without_hard_links_one_of_many_writers_wins(no_links: None, tmp_path: Path):
    store = open_store(str(tmp_path))
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(lambda me, key=f"{number}": store.write(key, str(me).encode(), if_absent=True), range(8))
            )
        assert sum(won) == 1
        assert store.read(f"{number}") == str(won.index(True)).encode()


def test_a_claim_left_behind_is_cleared_away(no_links: None, tmp_path: Path):
    claim = tmp_path / ".commit.json.claim"
    claim.touch()
    os.utime(claim, (time.time() - 120,) * 2)
    store = open_store(str(tmp_path))
    assert store.write("commit.json", b"x", if_absent=True)
    assert not claim.exists()


def test_a_folder_with_hard_links_creates_once(tmp_path: Path):
    able = open_store(str(tmp_path)).check()
    assert (able.creates_once, able.note) == (True, "")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAABCDEFGHIJKLMNOP:wJalr/XUtn+FEMI@bucket/x",
        "s3://key@bucket/x",
        "https://user:wJalr/XUtn@host/x",
        "https://bucket.s3.amazonaws.com/x?X-Amz-Credential=AKIA&X-Amz-Signature=wJalr/XUtn",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str):
    with pytest.raises(StorageError) as error:
        open_store(uri)
    assert "wJalr" not in str(error.value)
    if uri.startswith("s3"):
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(error.value)


def test_an_endpoint_with_an_underscore_is_a_fault_of_the_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("components.common.storage.s3_client._clients", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://my_minio:9000")
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL=http://my_minio:9000 is no usable address"):
        open_store("s3://bucket/x").check()


def test_home_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert normalise_uri("~/x") == str(tmp_path / "x")
    with pytest.raises(StorageError, match="no such home folder"):
        normalise_uri("~nobody-of-this-name/x")


@pytest.mark.parametrize("uri", ["pipe:cat /etc/passwd", "http://example.org/x", "s3://B", "s3://"])
def test_foreign_schemes_are_refused(uri: str):
    with pytest.raises(StorageError):
        normalise_uri(uri)


def test_uris_survive_joining_and_splitting(tmp_path: Path):
    assert join_uri("s3://bucket/prefix/", "a", "b.tar") == "s3://bucket/prefix/a/b.tar"
    assert split_uri("s3://bucket/prefix/b.tar") == ("s3://bucket/prefix", "b.tar")
    assert normalise_uri(f"file://{tmp_path}") == str(tmp_path)
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
