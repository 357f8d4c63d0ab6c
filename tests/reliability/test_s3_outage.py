"""A server that is away for a while is waited for, and told of; a wrong address is not."""

import io
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import botocore.config
import pytest

from components.common import patience
from components.common.errors import ConfigError, StorageError
from components.common.lock import exclusive
from components.common.storage import S3Store, Store, open_store, s3, s3_client
from tests.helpers.faults import always, at, none, serve_faults
from tests.helpers.s3 import BUCKET, S3Server, serve_s3

DATA = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def _own_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(s3_client, "_clients", {})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the product's seven cost a second or two in each call
    monkeypatch.delenv(s3_client.ANSWERED, raising=False)
    yield
    for client in s3_client._clients.values():
        client.close()


def reach(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{BUCKET}/out")
    store.write("a", DATA)
    return store


def test_a_server_stopped_and_started_again_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.5)
    (tmp_path / "s3").mkdir()
    (tmp_path / "up").write_bytes(DATA)
    with serve_s3(tmp_path / "s3") as first:
        store = reach(first, monkeypatch)
    port = int(first.endpoint.rpartition(":")[2])
    back = threading.Event()

    def bring_back() -> None:
        time.sleep(2.0)
        with serve_s3(tmp_path / "s3", port):
            back.set()
            done.wait(60)

    done = threading.Event()
    server = threading.Thread(target=bring_back)
    server.start()
    try:
        assert store.read("a") == DATA
        assert back.is_set(), "it was not away"
        store.upload(tmp_path / "up", "b")
        assert [one.key for one in store.list()] == ["a", "b"]
    finally:
        done.set()
        server.join()
    assert caplog.text.count("no answer from the S3 server") == 1
    assert caplog.text.count("trying again for 300 s more (CAPFILT_S3_PATIENCE)") == 1
    assert "answers again after" in caplog.text


def test_a_server_that_hangs_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(tmp_path) as server:
        store = reach(server, monkeypatch)
        s3_client._clients.clear()
        whole = botocore.config.Config

        def short(**options: object) -> object:
            return whole(**options | {"read_timeout": 1})

        monkeypatch.setattr(botocore.config, "Config", short)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        wake = threading.Timer(4.0, server.process.send_signal, [signal.SIGCONT])
        wake.start()
        start = time.monotonic()
        try:
            assert store.read("a") == DATA
        finally:
            wake.join()
        assert time.monotonic() - start > 3


def test_time_is_up_in_the_end_and_the_first_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPFILT_S3_PATIENCE", "2")
    with serve_s3(tmp_path) as server:
        store = reach(server, monkeypatch)
        lock = exclusive(store, "locks/x.json", "work")
        lock.__enter__()
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot read s3://.*no answer") as error:
        store.read("a")
    assert 2 <= time.monotonic() - start < 200  # and not the 300 of whoever sets nothing
    assert error.value.retryable
    monkeypatch.setenv("CAPFILT_S3_PATIENCE", "0")
    assert not lock.__exit__(type(error.value), error.value, None), "letting go hid what went wrong"


def test_an_address_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server("http://127.0.0.1:9", Path()).environment().items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(StorageError, match="no answer from the S3 server at http://127.0.0.1:9"):
        open_store(f"s3://{BUCKET}/x").read("a")
    assert time.monotonic() - start < 200  # and not the 300 for a server that was there


def test_a_process_that_starts_during_an_outage_knows_that_the_server_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_s3(tmp_path) as server:
        reach(server, monkeypatch)
    monkeypatch.setenv("CAPFILT_S3_PATIENCE", "2")
    code = (
        "import sys, logging; logging.basicConfig(level='WARNING')\n"
        "from components.common.storage import open_store\nopen_store(sys.argv[1]).read('a')"
    )
    child = subprocess.run([sys.executable, "-c", code, f"s3://{BUCKET}/out"], capture_output=True, text=True)
    assert "trying again for" in child.stderr


def test_refusals_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(tmp_path) as server, serve_faults(server.endpoint) as proxy:
        store = reach(S3Server(proxy.endpoint, server.folder), monkeypatch)
        proxy.reset(always("denied"))
        with pytest.raises(StorageError, match="may not do this"):
            store.read("a")
        assert proxy.requests == 1


@pytest.mark.parametrize("kind", ["cut", "reset_in_body"])
def test_a_stream_goes_on_where_it_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with serve_s3(tmp_path) as server, serve_faults(server.endpoint) as proxy:
        store = reach(S3Server(proxy.endpoint, server.folder), monkeypatch)
        assert isinstance(store, S3Store)
        for number in (0, 1):
            proxy.reset(at(number, kind))
            with io.BufferedReader(s3.BodyReader(store, "a"), 1000) as stream:  # in small pieces
                first = stream.read(5)
                assert first + stream.read() == DATA
        proxy.reset(none)


def test_what_is_replaced_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(tmp_path) as server, serve_faults(server.endpoint) as proxy:
        store = reach(S3Server(proxy.endpoint, server.folder), monkeypatch)
        assert isinstance(store, S3Store)
        proxy.reset(at(0, "cut"))
        stream = s3.BodyReader(store, "a")
        begun = stream.read(100)
        assert begun
        store.write("a", DATA[::-1])
        with pytest.raises(StorageError, match="replaced while it was read"):
            while stream.read(1000):
                pass
        stream.close()


def test_a_lost_answer_to_a_conditional_write_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of our own requests arrive, the second is refused: we were the first all the same."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with serve_faults(f"http://{host}:{port}") as proxy:
            for name, value in S3Server(proxy.endpoint, tmp_path).environment().items():
                monkeypatch.setenv(name, value)
            s3_client.client().create_bucket(Bucket=BUCKET)
            store = open_store(f"s3://{BUCKET}/out")
            assert store.check().creates_once
            monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.1)
            proxy.reset(at(1, "lost"))  # a HEAD first, then the PUT
            assert store.write("a", b"ours", if_absent=True)
            assert proxy.injected.total() == 1
            assert not store.write("a", b"theirs", if_absent=True)
            assert store.read("a") == b"ours"
    finally:
        server.stop()


def test_a_server_without_conditional_writes_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_s3(tmp_path) as server:
        store = reach(server, monkeypatch)
        able = store.check()
        assert not able.creates_once
        assert "no conditional writes" in able.note
        client = s3_client.client()
        put = client.put_object

        def knows_no_conditions(**options: object) -> object:
            if "IfNoneMatch" in options:
                from botocore.exceptions import ClientError

                answer = {"Code": "NotImplemented", "Message": "A header you provided implies functionality …"}
                raise ClientError({"Error": answer}, "PutObject")
            return put(**options)

        monkeypatch.setattr(client, "put_object", knows_no_conditions)
        assert not store.check().creates_once
        assert store.write("new", b"first", if_absent=True)
        assert not store.write("new", b"second", if_absent=True)
        assert store.read("new") == b"first"


def test_the_setting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPFILT_S3_PATIENCE", "long")
    with pytest.raises(ConfigError, match="CAPFILT_S3_PATIENCE=long is no number"):
        patience.seconds()
    monkeypatch.setenv("CAPFILT_S3_PATIENCE", "600")
    assert patience.seconds() == 600
    with patience.at_most(5):
        assert patience.seconds() == 5


def test_pauses_grow_and_a_line_a_minute_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience, "_sleep", sleep)
    monkeypatch.setattr(patience, "_silence", patience._Silence())

    def away() -> None:
        raise StorageError("no answer", retryable=True)

    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):
        patience.patiently(away, 300.0)
    assert 299 <= now[0] <= 302
    assert max(pauses) <= 32
    assert sorted(pauses[:5]) == pauses[:5]
    assert 4 <= len(caplog.records) <= 6
