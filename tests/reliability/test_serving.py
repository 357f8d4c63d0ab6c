"""`capfilt serve` killed, Prefect's server restarted, Prefect gone: every run ends with the undisturbed table."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.served import Api, clean_environment, cli, prefect_server, serve, table, wait_for
from tests.helpers.tiny import options

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
OFTEN = ("--cron", "*/2 * * * *")


class World:
    """A store in which a bootstrap was finished undisturbed, and the table it ended with."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        # long enough to be met at work; what the other stages made is found
        self.options = options(store=str(self.root), rounds=0, filter__steps=150, filter__checkpoint__every_steps=20)
        self.table = table(self.run())

    def run(self) -> Any:
        """`capfilt run` to its end."""
        command = cli("run", "--json", *self.options)
        done = subprocess.run(
            command, cwd=self.root.parent, env=clean_environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def forget_the_filter(self) -> None:
        """As if the last training had not been done yet."""
        for folder in ("stages/finetune-filter", "stages/evaluate", "models/finetune-filter", "work"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def trains(self) -> bool:
        """Whether the filter's training has saved something."""
        return bool(list(self.root.glob("work/finetune-filter-*/checkpoints/[!.]*/complete.json")))

    def is_free(self) -> bool:
        """Whether nobody holds the lock."""
        return not list((self.root / "locks" / "bootstrap").glob("*.json"))

    def check(self) -> None:
        """The table is the undisturbed one, and no stage was left undone."""
        document = self.run()
        assert table(document) == self.table
        assert all(stage["cached"] for stage in document["stages"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("served"))


def test_serve_killed_in_mid_run_and_started_again_runs_its_next_tick(world: World, tmp_path: Path) -> None:
    world.forget_the_filter()
    with serve(world.options, tmp_path / "first.log") as first:
        first.api().start_by_hand("sample")
        first.wait("training", world.trains, 420)
        family = first.kill()
    gone, alive = psutil.wait_procs(family, timeout=90)
    assert not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE], first.story()
    assert world.is_free(), first.story()
    with serve([*OFTEN, *world.options], tmp_path / "second.log") as second:
        api = second.api()
        second.wait("crashed run", lambda: api.in_state("Crashed"), 60)
        second.wait("finished run", lambda: api.in_state("Completed"), 420)
        assert not api.in_state("Failed")
        assert "going on from" in second.story()
    world.check()


def test_a_restart_of_prefects_server_leaves_a_deployments_run_alone(world: World, tmp_path: Path) -> None:
    world.forget_the_filter()
    with (
        prefect_server(tmp_path / "prefect") as server,
        serve(world.options, tmp_path / "log", {"PREFECT_API_URL": server.url}) as served,
    ):
        api = Api(server.url)
        served.wait("service", lambda: "serving sample" in served.story(), 420)
        api.start_by_hand("sample")
        (running,) = served.wait("run", lambda: api.in_state("Running"), 420)
        served.wait("training", world.trains, 420)
        server.kill()
        time.sleep(5)
        server.start()
        served.wait(
            "end of the run",
            lambda: running["id"] in {run["id"] for run in api.in_state("Completed")},
            420,
        )
        assert "filter: going on from" not in served.story()
    world.check()


def test_prefect_gone_at_the_end_costs_a_warning(world: World, tmp_path: Path) -> None:
    world.forget_the_filter()
    with prefect_server(tmp_path / "prefect") as server, _running(world, tmp_path, server.url) as (process, log):
        wait_for("training", world.trains, 420, log.read_text)
        server.kill()
        wait_for("end of the work", world.is_free, 420, log.read_text)
        start = time.monotonic()
        document = json.loads(process.communicate(timeout=120)[0])
        assert time.monotonic() - start < 90
        assert process.returncode == 0, log.read_text()
        assert table(document) == world.table
        assert "Prefect is gone" in log.read_text()
        assert "defect" not in log.read_text()
        assert "Traceback" not in log.read_text()


@contextmanager
def _running(world: World, folder: Path, url: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            cli("run", "--json", *world.options),
            cwd=folder,
            env=clean_environment({"PREFECT_API_URL": url}),
            stdout=subprocess.PIPE,
            stderr=output,
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
