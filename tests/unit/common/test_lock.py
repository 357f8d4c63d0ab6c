import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.common import lock
from components.common.errors import StorageError
from components.common.lock import BusyError, LockLostError, exclusive, refuse_if_busy, who_holds
from components.common.storage import Store, join_uri, open_store, s3_client
from tests.helpers.s3 import S3Server, serve_s3

KEY = "locks/bootstrap.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A folder, and a server without conditional writes."""
    if request.param == "folder":
        return open_store(str(tmp_path))
    server: S3Server = request.getfixturevalue("server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "_clients", {})
    return open_store(join_uri(server.uri, tmp_path.name))


def tickets(store: Store) -> list[dict[str, Any]]:
    return [json.loads(store.read(one.key)) for one in store.list("locks/") if one.key.endswith(".json")]


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process passes for one on another machine."""
    monkeypatch.setattr(lock, "_place", lambda: "elsewhere")


def test_second_one_is_refused_with_owner_and_remedy(store: Store) -> None:
    refuse_if_busy(store, KEY)
    with exclusive(store, KEY, "bootstrap sample"):
        with pytest.raises(BusyError) as error, exclusive(store, KEY, "other"):
            pytest.fail("two at once")
        with pytest.raises(BusyError):
            refuse_if_busy(store, KEY)
    for part in ("bootstrap sample works here", "--set store=", "delete"):
        assert part in str(error.value)
    assert list(store.list()) == []


def test_free_again_after_an_error(store: Store) -> None:
    with pytest.raises(RuntimeError), exclusive(store, KEY, "one"):
        raise RuntimeError("ended")
    with exclusive(store, KEY, "two"):
        assert [one["purpose"] for one in tickets(store)] == ["two"]


HOLDER = """
import sys, time
from components.common.lock import exclusive
from components.common.storage import open_store
with exclusive(open_store(sys.argv[1]), sys.argv[2], 'victim'):
    print('held', flush=True)
    time.sleep(600)
"""


def start_holder(store: Store) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, store.uri, KEY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_process_is_not_waited_for(store: Store) -> None:
    with start_holder(store) as process:
        with pytest.raises(BusyError, match="victim works here"), exclusive(store, KEY, "next"):
            pytest.fail("two at once")
        process.send_signal(signal.SIGSTOP)  # standing still is not being gone
        with pytest.raises(BusyError, match="victim works here"):
            refuse_if_busy(store, KEY, stale_seconds=0.0)
        process.kill()
    with exclusive(store, KEY, "next"):
        assert [one["purpose"] for one in tickets(store)] == ["next"]


def test_what_this_process_left_behind_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete", refuse)
        with exclusive(store, KEY, "first"):
            pass
    assert [one["purpose"] for one in tickets(store)] == ["first"]
    with exclusive(store, KEY, "second"):
        pass


def refuse(self: Store, key: str) -> None:
    raise StorageError(f"cannot delete {key}: no answer", retryable=True)


def test_letting_go_does_not_hide_what_went_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store), "delete", refuse)
    with pytest.raises(ValueError, match="the real one"), exclusive(store, KEY, "first"):
        raise ValueError("the real one")


@pytest.mark.parametrize("wrong", [-360.0, 360.0, 86400.0])
def test_no_clock_but_the_stores_counts(store: Store, monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    """A taker whose clock is wrong by minutes neither robs a holder elsewhere nor is robbed."""
    right = time.time
    with exclusive(store, KEY, "holder"):
        elsewhere(monkeypatch)
        monkeypatch.setattr(time, "time", lambda: right() + wrong)
        with pytest.raises(BusyError, match="holder works here"), exclusive(store, KEY, "other"):
            pytest.fail("two at once")
        with pytest.raises(BusyError, match="holder works here"):
            refuse_if_busy(store, KEY)


def test_a_silent_holder_elsewhere_is_replaced_and_stops(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with exclusive(store, KEY, "asleep") as first:
        first.check()
        here = lock._place()
        elsewhere(monkeypatch)
        time.sleep(4.5)  # S3 dates by whole seconds
        with exclusive(store, KEY, "next", stale_seconds=3.0) as second:
            assert "taking over from asleep" in caplog.text
            second.check()
            assert first.held
            with pytest.raises(LockLostError, match=r"another took it over.*run the same command again"):
                first.check()
            assert not first.held
            monkeypatch.setattr(lock, "_place", lambda: here)
            with pytest.raises(LockLostError):
                first.beat()
            second.check()
            assert [one["purpose"] for one in tickets(store)] == ["next"]


def test_a_late_heartbeat_does_not_bring_a_lost_lock_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder stood still between looking and writing: its ticket is there again, its revocation too."""
    with exclusive(store, KEY, "asleep") as first:
        elsewhere(monkeypatch)
        time.sleep(4.5)
        with exclusive(store, KEY, "next", stale_seconds=3.0) as second:
            first._write("holding")
            second.check()
            with pytest.raises(LockLostError):
                first.check()


def test_a_ticket_deleted_by_hand_is_a_lost_lock(store: Store) -> None:
    with exclusive(store, KEY, "holder") as held:
        for one in list(store.list("locks/")):
            store.delete(one.key)
        with pytest.raises(LockLostError, match="its ticket was deleted"):
            held.check()


@pytest.mark.parametrize(("age", "free"), [(10.0, False), (400.0, True)])
def test_a_holder_of_an_earlier_release_is_judged_by_its_date(tmp_path: Path, age: float, free: bool) -> None:
    store = open_store(str(tmp_path))
    holder = {"token": "t", "purpose": "far", "host": "elsewhere", "heartbeat": time.time(), "since": 0}
    store.write(KEY, json.dumps(holder).encode())
    os.utime(tmp_path / KEY, (time.time() - age,) * 2)
    assert (who_holds(store, KEY) is None) == free
    if free:
        with exclusive(store, KEY, "next"):
            pass
        assert not store.exists(KEY)
    else:
        with pytest.raises(BusyError, match="far works here"), exclusive(store, KEY, "next"):
            pass


def test_a_ticket_that_cannot_be_read_stands_in_the_way_until_it_is_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("locks/bootstrap/abc.json", b"[1")
    with pytest.raises(BusyError, match=r"abc\.json"), exclusive(store, KEY, "next"):
        pass
    os.utime(tmp_path / "locks/bootstrap/abc.json", (0, 0))
    with exclusive(store, KEY, "next"):
        pass


def test_heartbeat_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with exclusive(store, KEY, "alive", stale_seconds=4.0):
        elsewhere(monkeypatch)
        time.sleep(5.5)
        with pytest.raises(BusyError, match="alive works here"), exclusive(store, KEY, "next", stale_seconds=4.0):
            pytest.fail("two at once")


def test_old_revocations_are_cleared_away(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name, age in (("old", 8 * 86400), ("young", 86400)):
        store.write(f"locks/bootstrap/{name}.revoked", b"{}")
        os.utime(tmp_path / f"locks/bootstrap/{name}.revoked", (time.time() - age,) * 2)
    with exclusive(store, KEY, "next"):
        pass
    assert [one.key for one in store.list()] == ["locks/bootstrap/young.revoked"]


RIVAL = """
import os, sys, time
from components.common.errors import CapfiltError
from components.common.lock import BusyError, exclusive
from components.common.storage import open_store
store, log = open_store(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
store.check()
end, held = time.time() + float(sys.argv[3]), 0
while time.time() < end and held < 2:
    try:
        with exclusive(store, 'locks/x.json', 'rival') as lock:
            os.write(log, f'{os.getpid()} in\\n'.encode())
            time.sleep(0.02)
            lock.check()
            os.write(log, f'{os.getpid()} out\\n'.encode())
            held += 1
    except BusyError:
        time.sleep(0.01)
print(held)
"""


def test_rivals_on_one_machine_take_turns(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", RIVAL, store.uri, str(log), "120"]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    held = [int(rival.communicate(timeout=200)[0]) for rival in rivals]
    assert held == [2, 2, 2], "somebody never got it"
    lines = log.read_text().splitlines()
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert len(pairs) == sum(held)
    for begin, end in pairs:
        assert (begin.split()[1], end.split()[1]) == ("in", "out"), "two at once"
        assert begin.split()[0] == end.split()[0], "two at once"
