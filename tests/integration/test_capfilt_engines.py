"""The same bytes come out of every engine, whoever dies in between."""

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from components.common.contracts import CapfiltResult, ModelRef
from components.common.errors import CapfiltError, ConfigError, GateError
from components.common.storage import open_store
from components.inference.probe import fast_precision
from components.regeneration import engines as engine
from components.regeneration.config import CapfiltConfig
from components.regeneration.guard import GuardConfig
from components.regeneration.run import run_capfilt
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_web(tmp_path_factory.mktemp("web"), shards=6, samples=5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, web: Path, models: Models) -> CapfiltResult:
    return run(web, models, tmp_path_factory.mktemp("alone"))


def run(web: Path, models: Models, root: Path, **changes: object) -> CapfiltResult:
    config = CapfiltConfig(**({"batch_size": 2, "threads": 1} | changes))
    return run_capfilt(str(web), *models, config, store=open_store(str(root)), name="out")


def same(a: CapfiltResult, b: CapfiltResult) -> bool:
    speed = "capfilt/images_per_second"
    return a.dataset.digest == b.dataset.digest and {k: v for k, v in a.metrics.items() if k != speed} == {
        k: v for k, v in b.metrics.items() if k != speed
    }


class Killer:
    """Kills, once, the first process that `victim` names after some shard was committed."""

    def __init__(self, root: Path, victim: str) -> None:
        self.root, self.victim, self.killed = root, victim, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            if self.root.is_dir() and list(self.root.rglob("commits/*.json")):
                for process in psutil.Process().children(recursive=True):
                    try:
                        if self.victim in " ".join(process.cmdline()):
                            process.send_signal(signal.SIGKILL)
                            self.killed += 1
                            return
                    except psutil.NoSuchProcess:
                        continue


def test_processes_make_the_same_dataset_though_one_is_killed(
    tmp_path: Path, web: Path, models: Models, alone: CapfiltResult
) -> None:
    with Killer(tmp_path / "datasets", "spawn_main") as killer:
        result = run(web, models, tmp_path, workers=2)
    assert same(result, alone)
    assert killer.killed <= 1  # on a fast machine it may come too late; the next test does not depend on it


def _of_a_pool(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline() if process.status() != "zombie" else ())


def test_processes_that_always_die_end_the_run_with_advice(tmp_path: Path, web: Path, models: Models) -> None:
    stop = threading.Event()

    def kill_all() -> None:
        while not stop.wait(0.02):
            pool = [one for one in psutil.Process().children() if _of_a_pool(one)]
            if len(pool) == 2:  # Python's own pool trips over a death while it is still starting the others
                for process in pool:
                    process.kill()

    thread = threading.Thread(target=kill_all)
    thread.start()
    try:
        with pytest.raises(CapfiltError, match="worker processes died 2 times, 6 shards are left"):
            run(web, models, tmp_path, workers=2, retries=1)
    finally:
        stop.set()
        thread.join()


def test_an_error_in_a_process_is_the_runs_error(tmp_path: Path, web: Path, models: Models) -> None:
    with pytest.raises(GateError, match="collapsed in shard"):
        run(web, models, tmp_path, workers=2, guard=GuardConfig(max_top_caption_share=0.01, min_captions=1))
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray cluster; the temporary folder of its actors."""
    ray = pytest.importorskip("ray")
    scratch = tmp_path_factory.mktemp("actors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_TMPDIR", "/tmp")  # its sockets' paths must be short
        patch.setenv("TMPDIR", str(scratch))
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        yield scratch
        ray.shutdown()


def test_ray_makes_the_same_dataset_and_leaves_nothing_behind(
    tmp_path: Path, web: Path, models: Models, alone: CapfiltResult, cluster: Path
) -> None:
    assert same(run(web, models, tmp_path, engine="ray", workers=1), alone)
    assert list(cluster.glob("capfilt-*")) == []


@pytest.mark.usefixtures("cluster")
def test_a_worker_larger_than_any_node_is_refused(tmp_path: Path, web: Path, models: Models) -> None:
    with pytest.raises(
        ConfigError, match=r"needs 3 CPU and 0 GPU, and no node .* 2 CPU and 0 GPU\); set capfilt.threads"
    ):
        run(web, models, tmp_path, engine="ray", threads=3)


@pytest.mark.usefixtures("cluster")
def test_no_room_in_the_cluster_ends_with_what_is_missing(
    tmp_path: Path, web: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(engine, "_LOOK_SECONDS", 0.5)
    monkeypatch.setattr(engine, "_ROOM_SECONDS", 1.0)
    guest = ray.remote(num_cpus=1)(Guest).remote()
    ray.get(guest.here.remote())
    try:
        with pytest.raises(CapfiltError, match=r"a worker needs 2 CPU and 0 GPU, free .* 1 CPU and 0 GPU"):
            run(web, models, tmp_path, engine="ray", threads=2)
    finally:
        ray.kill(guest)


@pytest.mark.usefixtures("cluster")
def test_auto_is_tried_where_the_actors_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    there = CapfiltConfig(engine="ray")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:1")  # the session is open already
    assert engine.engine_precision(there) == fast_precision()
    monkeypatch.setattr(engine, "_ROOM_SECONDS", 1.0)
    guest = ray.remote(num_cpus=2)(Guest).remote()
    ray.get(guest.here.remote())
    try:
        with pytest.raises(CapfiltError, match="had a free CPU within 1 s .* set capfilt.precision to fp32 or bf16"):
            engine.engine_precision(there)
    finally:
        ray.kill(guest)


class Guest:
    """Somebody else's actor."""

    def here(self) -> bool:
        return True


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_costs_time_only(tmp_path: Path, web: Path, models: Models, alone: CapfiltResult) -> None:
    with Killer(tmp_path / "datasets", "ray::ShardWorker") as killer:
        # One retry must do: what waits for the dead actor's successor must not count as another death.
        result = run(web, models, tmp_path, engine="ray", workers=2, retries=1)
    assert same(result, alone)
    assert killer.killed == 1


@pytest.mark.usefixtures("cluster")
def test_actors_that_cannot_load_the_models_end_the_run(tmp_path: Path, web: Path, models: Models) -> None:
    lost = models[0].model_copy(update={"uri": str(tmp_path / "emptied")})
    shutil.copytree(models[0].uri, lost.uri)
    Path(lost.uri, "model.safetensors").unlink()
    with pytest.raises(CapfiltError, match="workers that load the models died 2 times(.|\n)*model.safetensors"):
        run(web, (lost, models[1]), tmp_path, engine="ray", workers=1, retries=1)


@pytest.mark.usefixtures("cluster")
def test_an_error_in_an_actor_is_the_runs_error(tmp_path: Path, web: Path, models: Models) -> None:
    with pytest.raises(GateError, match="collapsed in shard"):
        run(
            web,
            models,
            tmp_path,
            engine="ray",
            workers=1,
            guard=GuardConfig(max_top_caption_share=0.01, min_captions=1),
        )


def test_auto_goes_on_at_the_precision_it_began_with(
    tmp_path: Path, web: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def precision(root: Path) -> str:
        with pytest.raises(GateError):  # stops after the first shard
            run(web, models, root, guard=GuardConfig(max_top_caption_share=0.01, min_captions=1))
        (plan,) = root.rglob("plan.json")
        return str(json.loads(plan.read_text())["config"]["precision"])

    monkeypatch.setattr(engine, "fast_precision", lambda: "bf16")
    assert precision(tmp_path / "a") == "bf16"
    monkeypatch.setattr(engine, "fast_precision", lambda: "fp32")
    assert precision(tmp_path / "a") == "bf16"
    assert precision(tmp_path / "b") == "fp32"
    asked = run(web, models, tmp_path / "c", precision="fp32")
    assert not (tmp_path / "c" / "precision.json").exists(), "what is asked for counts, and says nothing of `auto`"
    assert run(web, models, tmp_path / "d").dataset.digest == asked.dataset.digest


def test_the_address_of_a_cluster_that_is_gone_is_not_followed(
    tmp_path: Path, web: Path, models: Models, alone: CapfiltResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    ray.shutdown()
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' paths must be short
    (temporary / "ray").mkdir()
    (temporary / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        assert same(run(web, models, tmp_path, engine="ray", workers=1), alone)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
