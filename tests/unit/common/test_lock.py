import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.common import lock
from components.common.lock import BusyError, exclusive, refuse_if_busy
from components.common.storage import Store, open_store

KEY = "locks/bootstrap.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_second_one_is_refused_with_owner_and_remedy(store: Store) -> None:
    refuse_if_busy(store, KEY)
    with exclusive(store, KEY, "bootstrap sample"), pytest.raises(BusyError) as error, exclusive(store, KEY, "other"):
        pytest.fail("two at once")
    for part in ("bootstrap sample works here", "--set store=", "delete"):
        assert part in str(error.value)
    assert not store.exists(KEY)


def test_free_again_after_an_error(store: Store) -> None:
    with pytest.raises(RuntimeError), exclusive(store, KEY, "one"):
        raise RuntimeError("ended")
    with exclusive(store, KEY, "two"):
        assert json.loads(store.read(KEY))["purpose"] == "two"


def test_a_killed_process_is_not_waited_for(store: Store) -> None:
    code = (
        "import os, signal, sys\n"
        "from components.common.lock import exclusive\n"
        "from components.common.storage import open_store\n"
        "with exclusive(open_store(sys.argv[1]), sys.argv[2], 'victim'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, store.uri, KEY], check=False)
    assert json.loads(store.read(KEY))["purpose"] == "victim"
    with exclusive(store, KEY, "next"):
        assert json.loads(store.read(KEY))["purpose"] == "next"


@pytest.mark.parametrize(("age", "free"), [(10.0, False), (400.0, True)])
def test_another_machine_is_judged_by_its_heartbeat(store: Store, age: float, free: bool) -> None:
    holder = {"token": "t", "purpose": "far", "host": "elsewhere", "heartbeat": time.time() - age, "since": 0}
    store.write(KEY, json.dumps(holder).encode())
    if free:
        with exclusive(store, KEY, "next"):
            pass
    else:
        with pytest.raises(BusyError, match="far works here"), exclusive(store, KEY, "next"):
            pass


def test_heartbeat_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with exclusive(store, KEY, "alive"):
        first = json.loads(store.read(KEY))["heartbeat"]
        time.sleep(0.3)
        assert json.loads(store.read(KEY))["heartbeat"] > first
