"""A store that the code of format 1 wrote: named as such, upgraded without a model, and at home wherever it lies."""

import json
import shutil
from pathlib import Path

import pytest

from components.common.errors import DataError
from components.common.locations import absolute_values
from components.common.seeding import digest_of
from components.common.storage import FolderStore, open_store
from components.data.manifest import file_uri, load_manifest
from components.data.versions.upgrade import upgrade_store
from components.data.versions.verify import verify
from components.data.views import load_eval_set
from components.regeneration.provenance import explain
from components.regeneration.recut import recut_dataset

GOLDEN = Path(__file__).parents[2] / "golden" / "format1" / "store"
DATASETS = {path.parent.name: path for path in sorted((GOLDEN / "datasets").glob("*/*"))}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "store"))


def place(store: Path, name: str) -> str:
    return str(store / DATASETS[name].relative_to(GOLDEN))


@pytest.mark.parametrize("name", DATASETS)
def test_a_reader_that_meets_format_1_names_the_command(store: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"capfilt store upgrade {store}` once"):
        load_manifest(place(store, name))


def test_everything_is_there_afterwards_and_nothing_points_to_where_the_store_was(store: Path) -> None:
    done = upgrade_store(str(store))
    assert len(done.datasets) == 4 and done.records == 4
    for name, golden in DATASETS.items():
        old = json.loads((golden / "manifest.json").read_text())
        manifest = load_manifest(place(store, name))
        assert verify(place(store, name)).problems == ()
        assert manifest.totals.model_dump(mode="json") == old["totals"] and manifest.fingerprint == old["fingerprint"]
        assert [shard.name for shard in manifest.shards] == [shard["name"] for shard in old["shards"]]
        assert [(shard.tar.sha256, shard.parquet.sha256) for shard in manifest.shards] == [
            (shard["tar"]["sha256"], shard["parquet"]["sha256"]) for shard in old["shards"]
        ]
        assert done.datasets[old["digest"]] == manifest.digest
        assert not list(Path(place(store, name)).glob("commits/?????.json"))
        assert not list(Path(place(store, name)).glob("shards/?????.*"))
    moved = [path for path in store.rglob("*.json") if "format1" not in path.name and b"/srv/" in path.read_bytes()]
    assert moved == []
    web, made, cut = (load_manifest(place(store, name)) for name in ("web", "web-capfilt-1", "cut"))
    assert {parent.role: parent.digest for parent in cut.parents}["dataset"] == made.digest
    assert {parent.role: parent.digest for parent in made.parents}["web"] == web.digest
    assert file_uri(place(store, "web"), web.shards[0].tar) == str(store / "sampleworld/w/web/00000.tar")
    assert len(load_eval_set(web.ref(place(store, "web")))) == 12


def test_stage_records_find_their_datasets(store: Path) -> None:
    upgrade_store(str(store))
    kinds = set()
    for path in (store / "stages").glob("*/*.json"):
        record = json.loads(path.read_text())
        assert path.stem == digest_of({name: record[name] for name in ("kind", "revision", "depends")})
        result = absolute_values(str(store), record["result"])
        ref = result.get("dataset", result)
        kinds.add(record["kind"])
        if "digest" in ref:
            manifest = load_manifest(ref["uri"])
            assert ref == manifest.ref(ref["uri"]).model_dump(mode="json")
        else:
            assert Path(result["web_folder"]).is_dir()
        if record["kind"] == "capfilt":
            assert record["depends"]["web"] == load_manifest(place(store, "web")).digest
    assert kinds == {"capfilt", "import-human", "import-web", "sample-world"}


def test_an_upgraded_dataset_is_explained_and_cut_again(store: Path) -> None:
    upgrade_store(str(store))
    key = next(row.key for row in load_eval_set(load_manifest(place(store, "web")).ref(place(store, "web"))))
    told = explain(place(store, "web-capfilt-1"), key)
    assert told["input"]["tar"].startswith(str(store / "sampleworld")) and len(told["seeds"]) == 2
    wide = recut_dataset(
        place(store, "web-capfilt-1"), threshold=0.0, policy="keep_both", store=open_store(str(store)), name="wide"
    )
    assert wide.dataset.images == 12 and verify(wide.dataset.uri).problems == ()


def test_an_interrupted_upgrade_is_run_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = upgrade_store(shutil.copytree(GOLDEN, tmp_path / "whole").as_posix())
    write, left = FolderStore.write, 0

    def dying(self: FolderStore, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return write(self, key, data, if_absent=if_absent)

    monkeypatch.setattr(FolderStore, "write", dying)
    for writes in range(1, 60):
        left = writes
        try:
            done = upgrade_store(str(store))
            break
        except KeyboardInterrupt:
            continue
    assert writes > 3, "it was interrupted"
    assert done.datasets == whole.datasets
    monkeypatch.undo()
    assert upgrade_store(str(store)).records == 0, "nothing is done twice"
    assert [verify(place(store, name)).problems for name in DATASETS] == [()] * 4
    assert sorted(path.name for path in store.glob("stages/*/*")) == sorted(
        path.name for path in (tmp_path / "whole").glob("stages/*/*")
    )


def test_a_dataset_that_is_not_whole_stays_as_it_was(store: Path) -> None:
    commit = Path(place(store, "web"), "commits", "00001.json")
    commit.write_bytes(commit.read_bytes().replace(b'"kept": ', b'"kept":  '))
    upgrade_store(str(store))
    other = Path(shutil.copytree(GOLDEN, store.parent / "other"))
    commit = Path(place(other, "web"), "commits", "00001.json")
    document = json.loads(commit.read_text())
    commit.write_text(json.dumps(document | {"metrics": {"x": 1.0}}))
    with pytest.raises(DataError, match=r"00001.json is not the commit that was sealed"):
        upgrade_store(str(other))
    assert json.loads(Path(place(other, "web"), "manifest.json").read_text())["format"] == 1
