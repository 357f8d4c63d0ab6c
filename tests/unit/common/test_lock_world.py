"""Whatever happens to those who want the lock: never two that commit, and someone gets it."""

import contextlib
import random
import secrets
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.common import lock as lock_module
from components.common.errors import StorageError
from components.common.lock import BusyError, Lock, LockLostError
from tests.helpers.lockworld import Taker, World, WorldStore, taker

KEY, STALE = "locks/x.json", 100.0
FAULTS = ["pause", "die", "lost", "twice", "skew"]
LONG = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _in_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks, sleep and machines are the world's."""
    monkeypatch.setattr(lock_module, "_clock", lambda: taker().world.now + taker().skew)
    monkeypatch.setattr(lock_module, "_sleep", lambda seconds: taker().world.step(taker(), seconds))
    monkeypatch.setattr(lock_module, "_place", lambda: f"machine {taker().number}")
    monkeypatch.setattr(secrets, "token_hex", lambda count: f"{taker().world.draw(256**count):0{2 * count}x}")
    monkeypatch.setattr(time, "time", lambda: 5.0)  # nothing may hang on a wall clock


class Ledger:
    """Who took the lock, who committed, and that the two agree."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str]] = []
        self.commits: list[int] = []
        self.refused = 0

    def work(self, world: World, commits: int, tries: int = 1) -> Callable[[Taker], None]:
        """Try to take the lock, so often, and commit under it, so often each time."""

        def work(me: Taker) -> None:
            for _ in range(tries):
                with contextlib.suppress(BusyError, LockLostError, StorageError):
                    self._hold(world, me, commits)
                world.step(me, world.draw(int(1.5 * STALE)) if tries > 1 else 0)

        return work

    def _hold(self, world: World, me: Taker, commits: int) -> None:
        lock = Lock(WorldStore(world), KEY, f"taker {me.number}", stale_seconds=STALE)
        try:
            lock.take()
        except (BusyError, LockLostError, StorageError):
            self.refused += 1
            raise
        self.taken.append((me.number, lock.token))
        try:
            for _ in range(commits):
                world.trouble(me)  # the work
                if world.draw(2) == 0:
                    with contextlib.suppress(StorageError):
                        lock.beat()
                lock.check()
                world.step(me, world.draw(int(STALE / 2)))  # between check and commit, within what is promised
                assert self.taken[-1] == (me.number, lock.token), f"{me.number} commits after {self.taken[-1]} took it"
                self.commits.append(me.number)
        finally:
            if not me.died:
                lock.release()


@LONG
@given(faults=st.frozensets(st.sampled_from(FAULTS)), takers=st.integers(2, 4), seed=st.integers(0, 2**32))
def test_never_two_that_commit(faults: frozenset[str], takers: int, seed: int) -> None:
    world, ledger = World(random.Random(seed).randrange, faults, STALE), Ledger()
    world.run([ledger.work(world, commits=3, tries=3) for _ in range(takers)])
    if not faults - {"twice", "skew"}:
        assert ledger.commits, "all were refused, and nobody worked"
    world.calm_down(10 * STALE)
    late = Ledger()
    world.run([late.work(world, commits=1)], first=takers)
    assert late.commits == [takers], "whoever comes when all are gone gets the lock"


@settings(LONG, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_takers_that_come_at_once_do_not_all_give_up(seed: int) -> None:
    world, ledger = World(random.Random(seed).randrange, frozenset(), STALE), Ledger()
    world.run([ledger.work(world, commits=1) for _ in range(4)])
    assert ledger.commits
    assert ledger.refused + len(ledger.taken) == 4
    assert not world.objects, "nothing is left behind"
