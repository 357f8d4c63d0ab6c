"""A folder of images with texts beside them becomes the dataset that the same samples in tars give."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.errors import DataError
from components.common.storage import Store, open_store
from components.data.candidates import read_candidates
from components.data.manifest import load_manifest, read_commit
from components.data.shards import read_shard
from components.data.versions.verify import verify
from components.data.web import import_files, import_web, list_tars
from tests.helpers.datasets import shard_file
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import write_web


def unpacked(web: Path, folder: Path) -> Path:
    """Tars as img2dataset's files: a folder for each, statistics and tables beside them."""
    for tar in sorted(web.glob("*.tar")):
        (folder / tar.stem).mkdir(parents=True)
        for sample in read_shard(tar):
            for extension, data in sample.members.items():
                (folder / tar.stem / f"{sample.key}.{extension}").write_bytes(data)
        (folder / f"{tar.stem}_stats.json").write_text("{}")
        (folder / f"{tar.stem}.parquet").write_bytes(b"img2dataset's own")
    return folder


@pytest.fixture
def web(tmp_path: Path) -> Path:
    return write_web(tmp_path / "web")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_the_same_samples_as_from_tars(tmp_path: Path, web: Path, store: Store) -> None:
    folder = unpacked(web, tmp_path / "files")
    done: list[int] = []
    ref = import_files(str(folder), store=store, name="files", shard_size=5, progress=done.append)
    tars = import_web(str(web), store=store, name="tars")
    assert (ref.images, ref.pairs, sum(done)) == (tars.images, tars.pairs, 15)
    for shard in ("00000", "00001", "00002"):
        files = [shard_file(one.uri, shard, ".parquet") for one in (ref, tars)]
        assert read_candidates(files[0]) == read_candidates(files[1])
        read = [
            [(one.key, one.members) for one in read_shard(path)]
            for path in (shard_file(ref.uri, shard), web / f"{shard}.tar")
        ]
        assert read[0] == read[1]
    assert load_manifest(ref.uri).kind == "web" and verify(ref.uri).problems == ()
    assert import_files(str(folder), store=store, name="files", shard_size=5) == ref
    (folder / "00001" / "000010002.txt").unlink()
    assert import_files(str(folder), store=store, name="files", shard_size=5).digest != ref.digest


def test_what_is_of_no_use_is_told_and_listed(tmp_path: Path, web: Path, store: Store) -> None:
    folder = unpacked(web, tmp_path / "files")
    image = (folder / "00000" / "000000000.jpg").read_bytes()
    (folder / "00000" / "000000001.jpg").write_bytes(image[:300])
    (folder / "00000" / "000000002.png").write_bytes(image)
    (folder / "00000" / "000000003.json").write_text("{")
    (folder / "00000" / "000000003.txt").write_text("!!!")
    (folder / "README.txt").write_text("no sample")
    (folder / ".hidden.jpg").write_bytes(image)
    (folder / "other").mkdir()
    (folder / "other" / "000000000.jpg").write_bytes(image)
    arguments = ["dataset", "import-files", str(folder), "--store", store.uri, "--json"]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.stderr
    ref = json.loads(made.stdout)
    assert (ref["images"], ref["pairs"]) == (12, 12)  # two images have no usable text, and are dropped
    assert f"{folder}/00000/000000003: text is '!!!' (empty_text)" in made.stderr
    assert "1 names have texts but no image" in made.stderr
    listed = json.loads(CliRunner().invoke(app, ["dataset", "failed", ref["uri"], "--json"]).stdout)
    found = [(row["shard"], row["key"], row["reason"]) for row in listed]
    assert found == [("00000", "00000/000000001", "corrupt"), ("00000", "00000/000000002", "several_images")]
    for _, key, reason in found:
        assert f"of no use: {folder}/{key}: " in made.stderr and f"({reason})" in made.stderr
    text = CliRunner().invoke(app, ["dataset", "failed", ref["uri"]]).stdout
    assert f"several_images  {folder}/00000/000000002: extensions: jpg, json, png, txt" in text


def test_names_in_other_encodings_are_imported_or_told(tmp_path: Path, web: Path, store: Store) -> None:
    folder = unpacked(web, tmp_path / "files")
    image = (folder / "00000" / "000000000.jpg").read_bytes()
    (folder / "caf\udce9.jpg").write_bytes(image)  # in Latin-1, as Python has it
    (folder / "nuit\udce9.jpg").write_bytes(b"none")
    ref = import_files(str(folder), store=store, name="web")
    record = read_commit(open_store(ref.uri), "00000")
    assert record is not None
    assert r"caf\udce9" in {row.key for row in read_candidates(shard_file(ref.uri, "00000", ".parquet"))}
    assert [(bad.key, bad.detail.partition(": ")[0]) for bad in record.bad] == [
        (r"nuit\udce9", rf"{folder}/nuit\udce9"),
    ]


def test_an_interrupted_import_goes_on_and_ends_the_same(tmp_path: Path, web: Path, store: Store) -> None:
    folder = str(unpacked(web, tmp_path / "files"))
    left = [7]

    def stop(count: int) -> None:
        left[0] -= count
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_files(folder, store=store, name="web", shard_size=5, progress=stop)
    done: list[int] = []
    ref = import_files(folder, store=store, name="web", shard_size=5, progress=done.append)
    assert done[0] == 5 and sum(done) == 15
    fresh = open_store(str(tmp_path / "fresh"))
    assert import_files(folder, store=fresh, name="web", shard_size=5).digest == ref.digest


def test_from_s3_as_from_a_folder(tmp_path: Path, web: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unpacked(web, tmp_path / "files")
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        shutil.copytree(folder, server.folder / "capfilt-test" / "raw")
        ref = import_files(f"{server.uri}/raw", store=store, name="web")
    assert ref.digest == import_files(str(folder), store=open_store(str(tmp_path / "l")), name="web").digest


def test_the_wrong_command_is_told_the_right_one(tmp_path: Path, web: Path, store: Store) -> None:
    with pytest.raises(DataError, match="capfilt dataset import-files"):
        list_tars(str(unpacked(web, tmp_path / "files")))
    with pytest.raises(DataError, match="holds no images; tars are imported with `capfilt dataset import-web`"):
        import_files(str(web), store=store, name="web")
    with pytest.raises(DataError, match="there is no folder"):
        import_files(str(tmp_path / "nowhere"), store=store, name="web")
