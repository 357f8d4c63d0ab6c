"""CapFilt's stages over web data that grew, and over a store that was moved; without Prefect, which only shows them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from components.common.contracts import CapfiltResult, ModelRef
from components.config import load_config
from components.data.manifest import load_manifest
from components.regeneration.models import CapfiltModels
from components.regeneration.reading import Loaded
from flows.preparation import prepare
from flows.regeneration import calibrate, regenerate
from flows.stages import open_bootstrap
from tests.helpers.datasets import files_by_shard
from tests.helpers.tiny import overrides
from tests.helpers.tiny_models import save_tiny_models

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def world(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample world's files: human captions, images, two web tars."""
    root = tmp_path_factory.mktemp("world") / "store"
    with pytest.MonkeyPatch.context() as patch:
        _without_prefect(patch)
        with open_bootstrap(load_config(None, overrides(store=str(root), tracking__enabled="false"))) as context:
            prepare(context)
    return next((root / "sampleworld").iterdir())


def _without_prefect(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("flows.stages.work_calmly", lambda as_task, body: body())


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the images that went through the models."""
    _without_prefect(monkeypatch)
    keys: list[str] = []
    process = CapfiltModels.process

    def counted(self: CapfiltModels, batch: Sequence[Loaded]) -> object:
        keys.extend(item.sample.key for item in batch)
        return process(self, batch)

    monkeypatch.setattr(CapfiltModels, "process", counted)
    return keys


def run(models: Models, settings: Sequence[str]) -> tuple[CapfiltResult, dict[str, bool]]:
    """What the flow of CapFilt alone does, and which of its stages were found done."""
    captioner, filter = models
    with open_bootstrap(load_config(None, settings)) as context:
        raw = prepare(context)
        made = regenerate(context, 1, raw.web, captioner, filter, calibrate(context, 0, filter, raw.val))
    return made, {report.stage: report.cached for report in context.reports}


def given(world: Path, web: Path, store: Path, **more: object) -> list[str]:
    human = world / "human"
    files = {f"data__human__{split}": str(human / f"captions_{split}.json") for split in ("train", "val", "test")}
    files |= {"data__source": "files", "data__web": str(web), "data__human__images": str(human / "images")}
    return overrides(**{"store": str(store), "tracking__enabled": "false", **files, **more})


def test_only_what_is_new_is_worked_on_where_the_models_are_the_same(
    models: Models, world: Path, tmp_path: Path, worked: list[str]
) -> None:
    web = Path(shutil.copytree(world / "web", tmp_path / "web"))
    last = sorted(web.glob("*.tar"))[-1]
    kept = last.rename(tmp_path / last.name)
    settings = given(world, web, tmp_path / "store")
    before = run(models, settings)[0].dataset
    first = set(worked)
    kept.rename(last)
    worked.clear()
    made, cached = run(models, settings)
    assert worked and not first & set(worked)
    assert {stage for stage, was in cached.items() if not was} == {"import/web", "round-1/capfilt"}
    parents = {parent.role: parent for parent in load_manifest(made.dataset.uri).parents}
    assert parents["extends"].digest == before.digest
    assert [parent.role for parent in load_manifest(parents["web"].uri).parents] == ["extends"]
    assert files_by_shard(before.uri).items() <= files_by_shard(made.dataset.uri).items()
    worked.clear()
    run(models, [*settings, "capfilt.threshold=0.3"])
    assert set(worked) > first, "with other settings all of it"


def test_a_store_copied_elsewhere_the_original_deleted(
    models: Models, world: Path, tmp_path: Path, worked: list[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new place"
    tracked = {"tracking__enabled": "true"}
    before = run(models, given(world, world / "web", old, **tracked))[0]
    shutil.copytree(old, new)
    shutil.rmtree(old)
    worked.clear()
    after, cached = run(models, given(world, world / "web", new, **tracked))
    assert all(cached.values()) and worked == []
    assert after.dataset.uri == before.dataset.uri.replace(str(old), str(new))
    assert after.dataset.digest == before.dataset.digest
    assert not old.exists(), "something was made again at the old place"
