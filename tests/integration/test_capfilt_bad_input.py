"""Input that is not what it should be, across shards and in the middle of a run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.common.contracts import CapfiltResult, DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.progress import Progress
from components.common.storage import open_store, s3_client
from components.data.manifest import load_manifest, read_commit
from components.data.shards import read_shard
from components.data.versions.verify import verify
from components.data.web import import_web
from components.regeneration.config import CapfiltConfig
from components.regeneration.provenance import explain
from components.regeneration.recut import recut_dataset
from components.regeneration.run import run_capfilt
from tests.helpers.datasets import commit_file, shard_file
from tests.helpers.s3 import BUCKET, S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import good_sample, tar_bytes, write_web

Models = tuple[ModelRef, ModelRef]
CONFIG = CapfiltConfig(batch_size=2, threads=1, threshold=0.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


def run(web: str | DatasetRef, models: Models, root: Path, progress: Progress | None = None) -> CapfiltResult:
    store = open_store(str(root))
    return run_capfilt(web, *models, CONFIG, store=store, out=store, name="out", progress=progress)


def write_keys(folder: Path, *shards: str) -> Path:
    """A shard per string, a sample per letter."""
    folder.mkdir()
    for shard, keys in enumerate(shards):
        samples = [(key, good_sample(10 * shard + index)) for index, key in enumerate(keys)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(samples))
    return folder


@pytest.mark.parametrize("sealed", [False, True])
def test_of_a_key_in_several_shards_the_first_sample_counts(
    tmp_path: Path, models: Models, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_keys(tmp_path / "web", "abca", "bdeb", "fgc")
    web = import_web(str(folder), store=open_store(str(tmp_path / "store")), name="web") if sealed else str(folder)
    result = run(web, models, tmp_path / "out")
    manifest, out = load_manifest(result.dataset.uri), open_store(result.dataset.uri)
    assert [shard.counts.failed for shard in manifest.shards] == [{"duplicate_key": n} for n in (1, 2, 1)]
    assert result.metrics["capfilt/failed_duplicate_key"] == 4
    made = [[one.key for one in read_shard(shard_file(tmp_path / "out", f"{shard:05d}"))] for shard in range(3)]
    assert made == [list("abc"), list("de"), list("fg")]
    assert sealed or "2 samples have the key of one in an earlier shard" in caplog.text
    record = read_commit(out, "00001")
    assert record is not None and ["an earlier shard has this key" in bad.detail for bad in record.bad] == [True, True]
    assert verify(result.dataset.uri).problems == ()
    assert explain(result.dataset.uri, "b")["shard"]["name"] == "00000"
    for path in (tmp_path / "out/manifest.json", commit_file(tmp_path / "out", "00002")):
        path.unlink()
    assert run(web, models, tmp_path / "out").dataset == result.dataset
    place = {"store": open_store(str(tmp_path)), "name": "again"}
    recut = recut_dataset(result.dataset.uri, threshold=0.0, policy="keep_both", **place)
    assert load_manifest(recut.dataset.uri).totals == manifest.totals


def test_keys_that_do_not_repeat_are_no_part_of_the_plan(tmp_path: Path, models: Models) -> None:
    result = run(str(write_keys(tmp_path / "web", "ab", "cd")), models, tmp_path / "out")
    assert load_manifest(result.dataset.uri).totals.failed == {}
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert all(len(shard) == 4 for shard in plan["shards"])


class Meddler(Progress):
    """Does something once, when the first images are through."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__(None, "images", "out")
        self._actions = [action]

    def advance(self, n: int = 1, **info: object) -> None:
        super().advance(n, **info)
        if self._actions:
            self._actions.pop()()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with serve_s3(tmp_path / "s3") as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        yield running


@pytest.mark.parametrize("far", [False, True])
def test_a_shard_that_changes_during_the_run_stops_it(
    tmp_path: Path, models: Models, far: bool, request: pytest.FixtureRequest
) -> None:
    """Same size, other bytes: told by the hash of a local shard, by the tag of one on S3."""
    (tmp_path / "s3").mkdir()
    root = request.getfixturevalue("server").folder / BUCKET if far else tmp_path
    folder = write_web(root / "web", shards=12, samples=3)
    web = f"s3://{BUCKET}/web" if far else str(folder)
    whole = run(web, models, tmp_path / "whole").dataset
    last = folder / "00011.tar"
    data = last.read_bytes()
    at = data.index(b"an image numbered")
    changed = data[:at] + b"A" + data[at + 1 :]
    with (
        Meddler(lambda: last.write_bytes(changed)) as meddler,
        pytest.raises(DataError, match=r"00011.tar has changed since the plan was made.*Restore it"),
    ):
        run(web, models, tmp_path / "out", meddler)
    out = open_store(str(tmp_path / "out"))
    assert read_commit(out, "00000") is not None
    assert read_commit(out, "00011") is None and not out.exists("manifest.json")
    last.write_bytes(data)
    assert run(web, models, tmp_path / "out").dataset.digest == whole.digest
