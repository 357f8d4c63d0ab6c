"""Tables of image paths and texts become web data; rows of no use are named by file and line."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store
from components.data.candidates import Candidate, read_candidates
from components.data.manifest import load_manifest, read_commit
from components.data.shards import read_shard
from components.data.versions.verify import verify
from components.data.web import import_table
from components.data.web.texts import web_texts
from tests.helpers.datasets import shard_file
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import encoded, photo

Import = Callable[..., DatasetRef]
ROWS = [
    ("images/p_0.jpg", "a dog, on a \"mat\""),
    ("images/p_1.jpg", "first of two\nlines"),
    ("images/p_1.jpg", "second text"),
    ("./images/p_2.jpg", "a cat"),
    ("images/p_3.png", "a tree"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"p_{number}.jpg").write_bytes(encoded(photo(number)))
    (tmp_path / "images" / "p_3.png").write_bytes(encoded(photo(3), "PNG"))
    return tmp_path


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("file", "said")) -> str:
    if path.suffix == ".parquet":
        columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([header, *rows])
    return str(path)


def imported(table: str, folder: Path, **options: Any) -> DatasetRef:
    chosen = {"image": "file", "text": "said", "name": "web", "threads": 2} | options
    return import_table(table, store=open_store(str(folder / "store")), **chosen)


def candidates(ref: DatasetRef, shard: str = "00000") -> list[Candidate]:
    return read_candidates(shard_file(ref.uri, shard, ".parquet"))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_images_and_texts_arrive(folder: Path, kind: str) -> None:
    done, expected = list[int](), list[int]()
    ref = imported(write(folder / f"list.{kind}", ROWS), folder, progress=done.append, expect=expected.append)
    assert (ref.images, ref.pairs, sum(done), expected) == (4, 5, 4, [4])
    assert [(row.key, row.text, row.source) for row in candidates(ref)] == [
        ("000000000", 'a dog, on a "mat"', "web"),
        ("000000001", "first of two lines", "web"),
        ("000000001", "second text", "web"),
        ("000000003", "a cat", "web"),
        ("000000004", "a tree", "web"),
    ]
    samples = list(read_shard(shard_file(ref.uri, "00000")))
    for sample, (path, _) in zip(samples, [ROWS[0], *ROWS[2:]], strict=True):
        assert sample.members[Path(path).suffix[1:]] == (folder / path).read_bytes()
        texts = [one.text for one in web_texts(sample.members)]
        assert texts == [row.text for row in candidates(ref) if row.key == sample.key]
    assert load_manifest(ref.uri).kind == "web"
    assert verify(ref.uri).problems == ()


def test_the_kinds_of_tables_give_the_same_data(folder: Path) -> None:
    tables = (imported(write(folder / f"list.{kind}", ROWS), folder, name=kind) for kind in ("csv", "tsv", "parquet"))
    first, *others = (candidates(ref) for ref in tables)
    assert all(one == first for one in others)


def test_rows_of_no_use_are_named_with_file_and_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "images" / "broken.jpg").write_bytes(encoded(photo(9))[:200])
    table = folder / "bad.csv"
    table.write_text(
        "file,said\n"
        "images/p_0.jpg,\"a text\nof two lines\"\n"  # lines 2 and 3
        "images/p_1.jpg\n"  # 4: a field is missing
        "images/none.jpg,gone\n"
        "images/broken.jpg,half\n"
        "https://example.org/a.jpg,far away\n"
        "../outside.jpg,no\n"
        ",nothing\n"
        "\n"
        "images/p_1.jpg,!!!\n"  # 11: says nothing
        "images/p_2.jpg,good\n"
        "images/p_3.png,good too\n"
        + "".join(f"images/p_0.jpg,{number}\nimages/p_2.jpg,{number}\n" for number in range(3))
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        ref = imported(str(table), folder)
    record = read_commit(open_store(ref.uri), "00000")
    assert record is not None
    found = {bad.reason: bad.detail for bad in record.bad}
    lines = {"bad_row": 4, "missing_image": 5, "corrupt": 6, "not_local": 7, "unsafe_name": 8, "no_image": 9}
    assert found.keys() == lines.keys()
    for reason, line in lines.items():
        assert found[reason].startswith(f"{table}: line {line}: "), found[reason]
    assert f"{table}: line 11: text is '!!!' (empty_text)" in caplog.text
    assert f"{table}: line 4: it has 1 fields, the header 2 (bad_row)" in caplog.text
    counts = load_manifest(ref.uri).totals
    assert (counts.samples, counts.kept, counts.dropped) == (16, 9, 1)


def test_a_path_that_is_no_unicode_is_told_with_its_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = folder / "latin.csv"
    rows = [f"images/p_{at}.jpg,a dog\n".encode() for at in range(3)]
    table.write_bytes(b"".join([b"file,said\n", rows[0], b"images/caf\xe9.jpg,gone\n", *rows[1:]]))
    record = read_commit(open_store(imported(str(table), folder).uri), "00000")
    assert record is not None
    assert [bad.detail for bad in record.bad] == [rf"{table}: line 3: there is no {folder}/images/caf\udce9.jpg"]
    assert rf"there is no {folder}/images/caf\udce9.jpg" in caplog.text  # and can be written by any log


def test_whole_paths_and_an_image_folder(folder: Path) -> None:
    whole = [(str(folder / "images" / "p_0.jpg"), "one"), ((folder / "images" / "p_1.jpg").as_uri(), "two")]
    ref = imported(write(folder / "whole.csv", whole), folder)
    assert ref.pairs == 2
    short = write(folder / "short.csv", [("p_0.jpg", "one"), ("p_1.jpg", "two")])
    assert imported(short, folder, images_uri=str(folder / "images")).pairs == 2


def test_an_interrupted_import_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(folder / "list.csv", ROWS)
    whole = imported(table, folder, name="whole", shard_size=1)
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(table, folder, shard_size=1, progress=stop)
    read: list[str] = []
    monkeypatch.setattr("components.data.imports.decode_image", lambda data: read.append("image"))
    ref = imported(table, folder, shard_size=1)
    assert len(read) == 2  # of four: two shards were committed
    assert ref.digest == whole.digest
    assert imported(table, folder, shard_size=1) == ref  # found
    assert len(read) == 2


def test_an_image_that_was_added_later_counts(folder: Path) -> None:
    table = write(folder / "list.csv", [*ROWS, ("images/late.jpg", "late")])
    first = imported(table, folder)
    (folder / "images" / "late.jpg").write_bytes(encoded(photo(7)))
    assert (first.pairs, imported(table, folder).pairs) == (5, 6)


def test_what_cannot_be_meant_is_refused_before_any_work(folder: Path) -> None:
    table = write(folder / "list.csv", ROWS)
    with pytest.raises(ConfigError, match=r"column 'caption' is not there; its columns are file, said"):
        imported(table, folder, text="caption")
    with pytest.raises(ConfigError, match="which kind of table"):
        imported(write(folder / "list.xls", ROWS), folder)
    with pytest.raises(DataError, match="is no file"):
        imported(str(folder / "none.csv"), folder)
    (folder / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable parquet"):
        imported(str(folder / "no.parquet"), folder)
    assert not (folder / "store" / "datasets").exists()
    gone = write(folder / "gone.csv", [("a.jpg", "x"), ("b.jpg", "y")])
    with pytest.raises(DataError, match=r"2 of 2 samples cannot be used .*line 2"):
        imported(gone, folder)


def test_from_s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(folder / "list.csv", ROWS)
    with serve_s3(folder / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        remote = open_store(f"{server.uri}/raw")
        for path in [Path(table), *(folder / "images").iterdir()]:
            remote.upload(path, path.relative_to(folder).as_posix())
        ref = imported(f"{server.uri}/raw/list.csv", folder, name="remote")
    assert ref.digest == imported(table, folder, name="local").digest


def test_the_command(folder: Path) -> None:
    table = write(folder / "list.tsv", ROWS)
    arguments = ["dataset", "import-table", table, "--image", "file", "--text", "said", "--store", str(folder / "s")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["pairs"] == 5
    wrong = CliRunner().invoke(app, [*arguments[:5], "--text", "nothing", *arguments[7:]])
    assert wrong.exit_code == 2 and "its columns are file, said" in wrong.stderr
