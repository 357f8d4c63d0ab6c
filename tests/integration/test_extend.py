"""Web data that grew by a shard: one is worked on, the others are the same bytes, and the child names its parent."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from components.common.contracts import CapfiltResult, ModelRef
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store, s3_client
from components.data.manifest import load_manifest
from components.data.versions.verify import shard_rows, verify
from components.data.web import import_web
from components.regeneration.config import CapfiltConfig
from components.regeneration.models import CapfiltModels
from components.regeneration.provenance import explain
from components.regeneration.reading import Loaded
from components.regeneration.run import run_capfilt
from tests.helpers.datasets import files_by_shard
from tests.helpers.s3 import BUCKET, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import good_sample, tar_bytes, write_web

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the images that went through the models."""
    keys: list[str] = []
    process = CapfiltModels.process

    def counted(self: CapfiltModels, batch: Sequence[Loaded]) -> object:
        keys.extend(item.sample.key for item in batch)
        return process(self, batch)

    monkeypatch.setattr(CapfiltModels, "process", counted)
    return keys


def run(web: object, models: Models, out: str, extend: str | None = None, **changes: object) -> CapfiltResult:
    config = CapfiltConfig(**({"batch_size": 4, "threads": 1, "captions_per_image": 2} | changes))
    place = open_store(out)
    return run_capfilt(web, *models, config, store=place, out=place, name="out", extend=extend)


def add_shard(web: Path, number: int) -> None:
    content = [(f"{number:05d}{index:04d}", good_sample(1000 + index)) for index in range(3)]
    (web / f"{number:05d}.tar").write_bytes(tar_bytes(content))


def test_ten_shards_and_one(tmp_path: Path, models: Models, worked: list[str]) -> None:
    web = write_web(tmp_path / "web", shards=10, samples=2)
    parent = run(str(web), models, str(tmp_path / "parent")).dataset
    add_shard(web, 10)
    worked.clear()
    made = run(str(web), models, str(tmp_path / "child"), parent.uri)
    child = made.dataset
    assert worked == ["000100000", "000100001", "000100002"]
    before, after = files_by_shard(parent.uri), files_by_shard(child.uri)
    assert {name: after[name] for name in before} == before and len(after) == 11
    assert verify(child.uri).problems == ()
    parents = {one.role: one for one in load_manifest(child.uri).parents}
    assert (parents["extends"].digest, parents["extends"].uri) == (parent.digest, parent.uri)
    assert made.metrics["capfilt/images_in"] == 23
    # a run over all of it makes the same shards: an image's captions do not depend on what lies around it
    whole = run(str(web), models, str(tmp_path / "whole"))
    assert files_by_shard(whole.dataset.uri) == after
    assert {k: v for k, v in whole.metrics.items() if "second" not in k} == {
        k: v for k, v in made.metrics.items() if "second" not in k
    }
    assert explain(child.uri, "000000001")["seeds"] == explain(parent.uri, "000000001")["seeds"]
    assert run(str(web), models, str(tmp_path / "child"), parent.uri).dataset == child


def test_a_changed_shard_is_worked_on_again_and_so_is_an_import_with_it(
    tmp_path: Path, models: Models, worked: list[str]
) -> None:
    folder = write_web(tmp_path / "web", shards=3, samples=2)
    store = open_store(str(tmp_path / "store"))
    parent = run(import_web(str(folder), store=store, name="web"), models, str(tmp_path / "parent")).dataset
    add_shard(folder, 1)
    worked.clear()
    child = run(import_web(str(folder), store=store, name="web"), models, str(tmp_path / "child"), parent.uri).dataset
    assert worked == ["000010000", "000010001", "000010002"]
    assert verify(child.uri).problems == ()
    texts = {row.text for entry in load_manifest(child.uri).shards for row in shard_rows(child.uri, entry)}
    assert "an image numbered 1001" in texts and "an image numbered 101" not in texts


def test_other_models_or_settings_cannot_extend(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=1, samples=2)
    parent = run(str(web), models, str(tmp_path / "parent")).dataset
    with pytest.raises(ConfigError, match=r"was made otherwise: config.threshold: 0.5 there, 0.6 asked for"):
        run(str(web), models, str(tmp_path / "child"), parent.uri, threshold=0.6)
    other = models[0].model_copy(update={"digest": "d" * 64})
    with pytest.raises(ConfigError, match="was made otherwise: captioner"):
        run(str(web), (other, models[1]), str(tmp_path / "child"), parent.uri)
    with pytest.raises(DataError, match="only what CapFilt made"):
        imported = import_web(str(web), store=open_store(str(tmp_path / "store")), name="web")
        run(str(web), models, str(tmp_path / "child"), imported.uri)
    assert not (tmp_path / "child" / "plan.json").exists(), "a failed start leaves the place free"


def test_on_s3(
    tmp_path: Path,
    models: Models,
    worked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        write_web(server.folder / BUCKET / "web", shards=2, samples=2)
        parent = run(f"{server.uri}/web", models, f"{server.uri}/parent").dataset
        add_shard(tmp_path, 2)
        open_store(f"{server.uri}/web").upload(tmp_path / "00002.tar", "00002.tar")
        worked.clear()
        child = run(f"{server.uri}/web", models, f"{server.uri}/child", parent.uri).dataset
        assert len(worked) == 3 and verify(child.uri).problems == ()
        folder = server.folder / BUCKET
        before, after = files_by_shard(folder / "parent"), files_by_shard(folder / "child")
        assert {name: after[name] for name in before} == before
        write_web(server.folder / BUCKET / "twice", shards=1, samples=2)
        (data,) = (server.folder / BUCKET / "twice").glob("*.tar")
        open_store(f"{server.uri}/twice").write("00001.tar", data.read_bytes())
        assert "earlier shard" not in caplog.text
        run(f"{server.uri}/twice", models, f"{server.uri}/repeated")
        assert "2 samples have the key of one in an earlier shard, and all of them were used (" in caplog.text
        assert " in 00001): tars on S3" in caplog.text  # the last of them, with its shard
