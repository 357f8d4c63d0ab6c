"""What may be deleted from a store, and what never; datasets handed out to other programs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store
from components.data.manifest import (
    FileRecord,
    Provenance,
    ShardRecord,
    dataset_store,
    load_manifest,
    plan_dataset,
    seal_dataset,
)
from components.data.publish import ShardBuilder
from components.data.records import own_file
from components.data.versions.handout import export_shards, shard_urls
from components.data.versions.leftovers import collect_leftovers
from tests.unit.data.test_manifest import build, seal


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_only_what_nothing_refers_to_is_deleted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sealed = dataset_store(store, "sealed", "1" * 64)
    plan_dataset(sealed, {"a": 1})
    records = [build(sealed, keys="ab")]
    seal(sealed, records)
    begun = dataset_store(store, "begun", "2" * 64)
    plan_dataset(begun, {"a": 2})
    build(begun)
    user = dataset_store(store, "user", "3" * 64)  # uses another dataset's tar in place
    tar = records[0].tar
    place = FileRecord(uri=f"{sealed.uri}/{tar.uri}", bytes=tar.bytes, sha256=tar.sha256)
    with ShardBuilder(user, "00000", tar=place) as builder:
        seal_dataset(user, Provenance("u", "web", {}, "3" * 64), [builder.commit()])
    for key in ("shards/mine.tar", "notes.txt", "models/base/shards/x", "locks/bootstrap.json"):
        store.write(key, b"somebody's")
    before = files(tmp_path)
    late = build(sealed, keys="ac")
    (Path(sealed.uri) / "shards" / ".00000.tar.x.tmp").write_bytes(b"half")
    told = collect_leftovers(store.uri, delete=False)
    assert len(told.keys) == 4 and files(tmp_path) > before
    assert f"datasets/sealed/{'1' * 16}/{late.tar.uri}" in told.keys
    assert collect_leftovers(store.uri, delete=True).bytes == told.bytes > 0
    assert files(tmp_path) == before
    assert collect_leftovers(store.uri, delete=True).keys == ()


def test_a_dataset_that_stands_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    seal(store, [build(store)])
    before = files(tmp_path)
    build(store, keys="ac")
    assert len(collect_leftovers(store.uri, delete=True).keys) == 3
    assert files(tmp_path) == before


def test_nothing_is_deleted_where_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    seal(store, [build(store)])
    build(store, keys="ac")
    table = load_manifest(store.uri).table.uri
    (tmp_path / table).unlink()
    before = files(tmp_path)
    with pytest.raises(DataError, match="Nothing was deleted"):
        collect_leftovers(store.uri, delete=True)
    assert files(tmp_path) == before


def test_urls_and_plainly_named_tars(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    records = [build(store, name) for name in ("b-2", "a_1")]
    seal(store, records)
    urls = shard_urls(store.uri)
    assert urls == [f"{store.uri}/{record.tar.uri}" for record in records]
    shown = CliRunner().invoke(app, ["dataset", "urls", store.uri])
    assert shown.stdout.splitlines() == urls
    out = tmp_path / "plain"
    exported = CliRunner().invoke(app, ["dataset", "export", store.uri, "--out", str(out), "--json"])
    assert json.loads(exported.stdout) == [str(out / name) for name in ("00000.tar", "00001.tar")]
    assert [(out / f"0000{n}.tar").read_bytes() for n in range(2)] == [Path(url).read_bytes() for url in urls]
    assert json.loads((out / "sizes.json").read_text()) == {"00000.tar": 2, "00001.tar": 2}
    with pytest.raises(ConfigError, match="is there already"):
        export_shards(store.uri, out)


def test_gc_and_upgrade_as_commands(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    seal(store, [build(store)])
    extra: ShardRecord = build(store, keys="ac")
    told = CliRunner().invoke(app, ["store", "gc", store.uri, "--dry-run", "--json"])
    assert extra.tar.uri in json.loads(told.stdout)["keys"] and (tmp_path / extra.tar.uri).exists()
    assert CliRunner().invoke(app, ["store", "gc", store.uri]).exit_code == 0
    assert not (tmp_path / extra.tar.uri).exists()
    done = CliRunner().invoke(app, ["store", "upgrade", store.uri, "--json"])
    assert json.loads(done.stdout) == {"uri": store.uri, "datasets": {}, "records": 0, "done_again": {}}


def test_a_file_is_named_by_its_content() -> None:
    assert own_file("00000", ".tar", 3, "0123456789abcdef" * 4).uri == "shards/00000-0123456789abcdef.tar"
