"""A world in which takers of a lock meet: a store in memory, its clock, and a scheduler that decides every step.

Takers are threads, and only the one whose turn it is runs. A turn ends at every call of the store, before and after it
takes effect, so that any taker can be overtaken anywhere, stand still for any time, die, or lose an answer.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from components.common.errors import StorageError
from components.common.storage import ObjectInfo, Store

Draw = Callable[[int], int]
"""A number below the given one: the choices of a run."""


class DiedError(BaseException):
    """The taker's process is killed here."""


class World:
    """Takers, their store, and what happens next.

    Args:
        draw: decides: who goes on, what befalls a call, how long things take.
        faults: kinds of trouble: `pause`, `die`, `lost` (done, but no answer), `twice` (a request arrives a second
            time, late), `skew` (takers' clocks run differently).
    """

    def __init__(self, draw: Draw, faults: frozenset[str], stale: float) -> None:
        self.draw, self.faults, self.stale = draw, faults, stale
        self.now = 1_000_000.0
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.late: list[tuple[str, bytes]] = []
        self.steps = 0
        self._turn: Taker | None = None
        self._change = threading.Condition()
        self.takers: list[Taker] = []

    def run(self, works: list[Callable[["Taker"], None]], first: int = 0) -> None:
        """Run all takers to their ends; they are numbered from `first` on."""
        self.takers = [Taker(self, number, work) for number, work in enumerate(works, first)]
        for taker in self.takers:
            taker.thread.start()
        while living := [taker for taker in self.takers if not taker.ended]:
            ready = [taker for taker in living if taker.wakes <= self.now]
            if not ready:
                self.now = min(taker.wakes for taker in living)
                continue
            self._let_go_on(ready[self.draw(len(ready))])
        for taker in self.takers:
            taker.thread.join(10)
            if taker.error is not None:
                raise taker.error

    def _let_go_on(self, taker: "Taker") -> None:
        self.steps += 1
        assert self.steps < 5000, "takers go round in circles"
        self.now += self.draw(4) * 0.1
        if self.late and self.draw(3) == 0:
            key, data = self.late.pop(self.draw(len(self.late)))
            self.put(key, data)
        with self._change:
            self._turn = taker
            self._change.notify_all()
            assert self._change.wait_for(lambda: self._turn is None, 20)

    def step(self, taker: "Taker", most: float = 0.0) -> None:
        """End a taker's turn, here, for at least a moment and at most `most` seconds more."""
        taker.wakes = self.now + most
        self._hand_back(taker)

    def _hand_back(self, taker: "Taker") -> None:
        with self._change:
            self._turn = None
            self._change.notify_all()
            assert self._change.wait_for(lambda: self._turn is taker, 20)

    def begin(self, taker: "Taker") -> None:
        with self._change:
            assert self._change.wait_for(lambda: self._turn is taker, 20)

    def end(self, taker: "Taker") -> None:
        with self._change:
            taker.ended = True
            self._turn = None
            self._change.notify_all()

    def calm_down(self, seconds: float) -> None:
        """No more trouble; what is under way arrives, then time goes by."""
        self.faults = frozenset()
        while self.late:
            self.put(*self.late.pop())
        self.now += seconds

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = (data, float(int(self.now)))  # whole seconds, as S3 has them

    def trouble(self, taker: "Taker") -> None:
        """What may befall a taker between any two things it does."""
        if "pause" in self.faults and self.draw(12) == 0:
            self.step(taker, (0.5, 1.5, 3.0)[self.draw(3)] * self.stale)
        elif "die" in self.faults and self.draw(80) == 0:
            taker.died = True
            raise DiedError
        else:
            self.step(taker)


class Taker:
    """One process, on a machine of its own."""

    def __init__(self, world: World, number: int, work: Callable[["Taker"], None]) -> None:
        self.world, self.number = world, number
        self.wakes, self.ended, self.died = world.now, False, False
        self.skew = (world.draw(2001) - 1000.0) if "skew" in world.faults else 0.0
        self.error: BaseException | None = None
        self._work = work
        self.thread = threading.Thread(target=self._run, name=f"taker-{number}", daemon=True)

    def _run(self) -> None:
        _current.taker = self
        self.world.begin(self)
        try:
            with contextlib.suppress(DiedError):
                self._work(self)
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self.error = error
        finally:
            self.world.end(self)


class _Current(threading.local):
    taker: Taker


_current = _Current()


def taker() -> Taker:
    """Whose turn it is, in its own thread."""
    return _current.taker


class WorldStore(Store):
    """The world's objects, as a taker reaches them."""

    uri = "memory"

    def __init__(self, world: World) -> None:
        self.world = world

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Before the call takes effect, and after it."""
        self.world.trouble(taker())
        yield
        self.world.trouble(taker())
        if "lost" in self.world.faults and self.world.draw(25) == 0:
            raise StorageError("memory: no answer", retryable=True)

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        with self._call():
            if key not in self.world.objects:
                raise StorageError(f"{key}: it does not exist")
            data = self.world.objects[key][0]
        return data[start:stop]

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        assert not if_absent, "the lock must do without"
        with self._call():
            self.world.put(key, data)
            if "twice" in self.world.faults and self.world.draw(8) == 0:
                self.world.late.append((key, data))
        return True

    def info(self, key: str) -> ObjectInfo | None:
        with self._call():
            found = self.world.objects.get(key)
        return None if found is None else ObjectInfo(key, len(found[0]), "", found[1])

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._call():
            found = sorted(self.world.objects.items())
        return iter([ObjectInfo(k, len(d), "", at) for k, (d, at) in found if k.startswith(prefix)])

    def delete(self, key: str) -> None:
        with self._call():
            self.world.objects.pop(key, None)

    def upload(self, path: Path, key: str) -> None:
        self.write(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.read(key))

    def open(self, key: str) -> BinaryIO:
        raise NotImplementedError

    def local_path(self, key: str) -> Path | None:
        return None

    def child(self, *parts: str) -> Store:
        raise NotImplementedError

    def _creates_once(self, key: str) -> bool:
        return False
