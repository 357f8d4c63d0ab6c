"""The chaos runs in small (in full: python -m tests.benchmarks.chaos): killed on a real S3 server, then gone on."""

import random
from pathlib import Path

import pytest

from components.common.storage import s3_client
from tests.helpers.chaos import Job, Killer, Pace
from tests.helpers.s3 import BUCKET, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

SHARDS = 8


def test_a_run_killed_twice_on_s3_makes_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = save_tiny_models(tmp_path / "models")
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        bucket = server.folder / BUCKET
        web = f"s3://{BUCKET}/{write_web(bucket / 'web', SHARDS, samples=4).name}"

        def job(name: str) -> Job:
            return Job(web, f"s3://{BUCKET}/{name}/out", bucket / name / "out", models, tmp_path / name)

        expected = job("whole").finish()
        killed = job("killed")
        killer = Killer(killed, random.Random(1), SHARDS, Pace.of(job("whole").folder))
        kills = [kill for moment in (0, 3) if (kill := killer.kill_run(moment)) is not None]
        assert kills, "no kill met a run"
        assert not killed.sealed()
        assert killed.finish() == expected
