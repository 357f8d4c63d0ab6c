"""What is handed on is opened by programs we did not write; lists and scores of others come in; text filters count."""

import gc
import io
import json
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from typer.testing import CliRunner

import capfilt
from capfilt.cli.main import app
from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError, DataError
from components.common.storage import sha256_hex
from components.data.candidates import Candidate
from components.data.manifest import load_manifest
from components.data.selection import PAIRS, read_selection
from components.data.versions.huggingface import EXPORT_KEY
from components.data.versions.verify import shard_rows, verify
from components.regeneration.config import CapfiltConfig
from components.regeneration.provenance import explain
from tests.helpers.s3 import S3Server, serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, good_sample, photo, tar_bytes

PAGE = Path(__file__).parents[2] / "docs" / "sharing.md"
SECRET = "X-Amz-Signature=0123456789abcdef"


def uid(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


def sample(number: int) -> dict[str, bytes]:
    """An img2dataset sample with a uid, an address with a signature, and a field whose type changes."""
    fields = {"uid": uid(number), "url": f"https://x/{number}.jpg?{SECRET}", "width": 64 if number % 2 else "64"}
    members = {**good_sample(number), "json": json.dumps({**fields, "path": "/home/somebody/x.jpg"}).encode()}
    if number % 3 == 2:
        members["png"] = encoded(photo(number), "PNG")
        del members["jpg"]
    return members


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shards`, `captioner` and `filter`, as the page names them."""
    root = tmp_path_factory.mktemp("sharing")
    save_tiny_models(root)
    (root / "captioner" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# A captioner\n")
    (root / "shards").mkdir()
    for shard in range(2):
        content = [(f"{shard:05d}{index:04d}", sample(10 * shard + index)) for index in range(7)]
        (root / "shards" / f"{shard:05d}.tar").write_bytes(tar_bytes(content))
    return root


@pytest.fixture(scope="module")
def made(folder: Path) -> CapfiltResult:
    config = CapfiltConfig(threshold=0.01, threads=1, batch_size=7)
    models = {"captioner": folder / "captioner", "filter": folder / "filter"}
    return capfilt.regenerate(web=folder / "shards", out=folder / "made", config=config, **models)


@pytest.fixture(scope="module")
def exported(folder: Path, made: CapfiltResult) -> Path:
    capfilt.export(made.dataset.uri, folder / "exported", license="cc-by-4.0", licenses={"filter": "mit"})
    return folder / "exported"


def rows_of(uri: str) -> list[Candidate]:
    return [row for entry in load_manifest(uri).shards for row in shard_rows(uri, entry)]


def kept_of(uri: str) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for row in rows_of(uri):
        if row.kept:
            found.setdefault(row.key, []).append(row)
    return found


def samples_of(exported: Path) -> list[dict[str, bytes]]:
    """What plain webdataset finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(webdataset.WebDataset(sorted(map(str, exported.glob("data/*.tar"))), shardshuffle=False))
        gc.collect()  # webdataset leaves its files to the collector
    return found


# What was exported


@pytest.mark.filterwarnings("ignore")
def test_datasets_opens_it_offline(
    exported: Path, made: CapfiltResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    kept = kept_of(made.dataset.uri)
    read = datasets.load_dataset(str(exported), split="train", cache_dir=str(tmp_path / "card"))
    assert len(read) == len(kept) == made.dataset.images > 10
    for row in read:
        captions = kept[row["__key__"]]
        told = row["json"]
        assert told["captions"] == [one.text for one in captions] and row["txt"] == told["text"]
        assert told["sources"] == [one.source for one in captions] and told["weights"] == [1.0] * len(captions)
        assert told["scores"]["itm"] == pytest.approx([one.itm_probability for one in captions])
        assert told["scores"]["itc"] == pytest.approx([one.itc_similarity for one in captions])
        assert row["jpg"].size == (64, 48) and told["uid"] == uid(int(told["uid"][16:], 16))
    # The types it infers by itself from the first samples are those that the card says.
    guessed = datasets.load_dataset("webdataset", data_files={"train": str(exported / "data" / "*.tar")},
                                    split="train", cache_dir=str(tmp_path / "guessed"))  # fmt: skip
    assert guessed.features == read.features
    assert guessed.remove_columns("__url__").to_dict() == read.remove_columns("__url__").to_dict()


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_validates_it_and_reads_its_records(
    exported: Path, made: CapfiltResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlcroissant
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path))
    read = mlcroissant.Dataset(jsonld=exported / "croissant.json")
    assert not read.metadata.ctx.issues.errors
    recommended = {"citeAs", "datePublished"}
    assert len(read.metadata.ctx.issues.warnings) == len(recommended), read.metadata.ctx.issues.report()
    kept = kept_of(made.dataset.uri)
    records = {one["samples/key"].decode(): one for one in read.records("samples")}
    assert records.keys() == kept.keys()
    for key, record in records.items():
        assert [one.decode() for one in record["samples/captions"]] == [one.text for one in kept[key]]
        assert record["samples/score_itm"] == pytest.approx([one.itm_probability for one in kept[key]])
    images = {one["images/sample"].decode(): one["images/image"] for one in read.records("images")}
    assert images.keys() == kept.keys() and all(image.size == (64, 48) for image in images.values())


def test_webdataset_and_the_reader_of_open_clip_open_it(exported: Path, made: CapfiltResult) -> None:
    """open_clip itself needs torchvision; this is the pipeline of its `get_wds_dataset`, without its tokenizer."""

    def wanted(one: dict[str, object]) -> bool:
        return "txt" in one and any(name in one for name in ("png", "jpg", "jpeg", "webp"))

    urls = sorted(map(str, exported.glob("data/*.tar")))
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(urls),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.select(wanted),
        webdataset.decode("pilrgb", handler=webdataset.reraise_exception),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.map_dict(image=lambda image: np.asarray(image), text=lambda text: text),
        webdataset.to_tuple("image", "text"),
        webdataset.batched(4, partial=True),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        batches = list(pipeline)
        gc.collect()
    texts = [text for _, batch in batches for text in batch]
    assert len(texts) == made.dataset.images
    assert all(image.shape == (48, 64, 3) for batch, _ in batches for image in batch)
    assert sum(json.loads((exported / "data" / "sizes.json").read_text()).values()) == len(texts)


def test_images_are_those_of_the_web_byte_for_byte(exported: Path) -> None:
    web = {f"{shard:05d}{index:04d}": sample(10 * shard + index) for shard in range(2) for index in range(7)}
    found = samples_of(exported)
    assert {frozenset(one) - {"__key__", "__url__", "__local_path__"} for one in found} == {
        frozenset({"jpg", "json", "txt"})
    }
    formats = set()
    for one in found:
        told = json.loads(one["json"])
        formats.add(told["format"])
        assert one["jpg"] == web[one["__key__"]]["png" if told["format"] == "png" else "jpg"]
        assert sha256_hex(one["jpg"]) == told["image_sha256"]
        assert Image.open(io.BytesIO(one["jpg"])).format == told["format"].upper()
    assert formats == {"jpeg", "png"}


def test_the_card_tells_where_it_is_from_and_no_secret_and_no_path(
    exported: Path, made: CapfiltResult, folder: Path
) -> None:
    card = (exported / "README.md").read_text()
    manifest = load_manifest(made.dataset.uri)
    for parent in manifest.parents:
        assert parent.digest in card
    assert manifest.digest in card and "bsd-3-clause" in card and "| mit |" in card and "license: cc-by-4.0" in card
    assert re.search(r"\| web \| shards \| [0-9a-f]{64} \| unknown: ask \|", card)
    for name, value in (("threshold", "0.01"), ("policy", "keep_both"), ("images in", "14")):
        assert f"| {name} | {value} |" in card
    for path in exported.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        for hidden in (str(folder).encode(), b"/home/somebody", SECRET.encode()):
            assert hidden not in data, path


def test_a_killed_export_goes_on_and_gives_the_same_bytes(
    exported: Path, made: CapfiltResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.data.versions import huggingface

    asked = {"license": "cc-by-4.0", "licenses": {"filter": "mit"}}
    whole, calls = huggingface._table, []

    def dies(*given: object) -> bytes:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface, "_table", dies)
    with pytest.raises(KeyboardInterrupt):
        capfilt.export(made.dataset.uri, tmp_path, **asked)
    assert not (tmp_path / EXPORT_KEY).exists()
    capfilt.export(made.dataset.uri, tmp_path, **asked)
    assert len(calls) == 3  # the first shard was not made again
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(exported): path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    capfilt.export(made.dataset.uri, tmp_path, **asked)  # and nothing is done where all is done
    assert len(calls) == 3


def test_what_lies_there_is_left_alone(exported: Path, made: CapfiltResult, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.txt lies there"):
        capfilt.export(made.dataset.uri, tmp_path)
    with pytest.raises(ConfigError, match="split train"):
        capfilt.export(made.dataset.uri, exported, split="test")
    with pytest.raises(ConfigError, match="lies inside the dataset"):
        capfilt.export(made.dataset.uri, Path(made.dataset.uri, "x"))
    with pytest.raises(ConfigError, match="captain is nothing that this dataset was made from"):
        capfilt.export(made.dataset.uri, tmp_path, licenses={"captain": "mit"})


def test_s3_gets_the_same_files(exported: Path, made: CapfiltResult, s3: S3Server) -> None:
    from components.common.storage import open_store

    out = f"{s3.uri}/exported"
    capfilt.export(made.dataset.uri, out, license="cc-by-4.0", licenses={"filter": "mit"})
    store = open_store(out)
    files = {info.key: store.read(info.key) for info in store.list()}
    assert files == {
        path.relative_to(exported).as_posix(): path.read_bytes() for path in exported.rglob("*") if path.is_file()
    }


# Lists of samples


def test_a_list_of_datacomp_makes_a_version_and_comes_back(made: CapfiltResult, tmp_path: Path) -> None:
    by_uid = {uid(10 * int(key[:5]) + int(key[5:])): key for key in kept_of(made.dataset.uri)}
    wanted = sorted(by_uid)[::2]
    pairs = np.array([(int(one[:16], 16), int(one[16:], 16)) for one in [*wanted, "f" * 32]], np.dtype("u8,u8"))
    pairs.sort()
    np.save(tmp_path / "uids.npy", pairs)
    found = capfilt.select(made.dataset.uri, tmp_path / "uids.npy", out=tmp_path / "some")
    assert (found.listed, found.missing) == (len(wanted) + 1, 1)
    uri = found.dataset.uri
    assert set(kept_of(uri)) == {by_uid[one] for one in wanted}
    assert not verify(uri).problems
    before, after = load_manifest(made.dataset.uri).totals, load_manifest(uri).totals
    assert after.samples == before.samples and after.kept + after.dropped == before.kept + before.dropped
    assert {row.reason for row in rows_of(uri)} - {row.reason for row in rows_of(made.dataset.uri)} == {"not_selected"}
    parent = {one["__key__"]: one for one in capfilt.open_dataset(made.dataset.uri)}
    for one in capfilt.open_dataset(uri):
        assert {**one, "__url__": ""} == {**parent[one["__key__"]], "__url__": ""}
    CliRunner().invoke(app, ["dataset", "list", uri, str(tmp_path / "back.npy")], catch_exceptions=False)
    back = np.load(tmp_path / "back.npy")
    assert back.dtype == PAIRS and np.array_equal(back, pairs[:-1] if pairs[-1][0] == 2**64 - 1 else pairs)
    again = capfilt.select(made.dataset.uri, tmp_path / "uids.npy", out=tmp_path / "some")
    assert again == found


def test_a_plain_list_cuts_web_data_before_any_model(folder: Path, tmp_path: Path) -> None:
    from components.common.storage import open_store
    from components.data.web import import_web

    web = import_web(str(folder / "shards"), store=open_store(str(tmp_path / "store")), name="web")
    keys = ["000000001", uid(12).upper(), "000000005"]
    (tmp_path / "keys.txt").write_text("\n".join(["# mine", *keys, ""]))
    found = capfilt.select(web.uri, tmp_path / "keys.txt", out=tmp_path / "some").dataset
    assert list(kept_of(found.uri)) == ["000000001", "000000005", "000010002"]
    assert not verify(found.uri).problems
    for one in capfilt.open_dataset(found.uri):
        told = json.loads(one["json"])
        assert [caption["source"] for caption in told["captions"]] == ["web"] and told["path"]
    result = capfilt.regenerate(
        web=found.uri, captioner=folder / "captioner", filter=folder / "filter", out=tmp_path / "clean",
        config=CapfiltConfig(threshold=0.0, threads=1),
    )  # fmt: skip
    assert result.metrics["capfilt/images_in"] == 3
    capfilt.export(found.uri, tmp_path / "out")
    assert len(samples_of(tmp_path / "out")) == 3


def test_lists_that_are_none_are_refused(made: CapfiltResult, tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "numbers.npy", np.arange(5))
    (tmp_path / "nothing.txt").write_text("# nothing\n\n")
    (tmp_path / "strange.txt").write_text("nobody\nno one\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    refused = {
        "pickle.npy": "no pickle is read",
        "numbers.npy": "dtype u8,u8",
        "nothing.txt": "no sample",
        "binary.txt": "no text in UTF-8",
        "strange.txt": "e.g. nobody",
    }
    for name, told in refused.items():
        with pytest.raises(DataError, match=told):
            capfilt.select(made.dataset.uri, tmp_path / name, out=tmp_path / name.replace(".", "-"))
        assert not (tmp_path / name.replace(".", "-") / "plan.json").exists()
    right = tmp_path / "right.txt"
    right.write_text(next(iter(kept_of(made.dataset.uri))))
    capfilt.select(made.dataset.uri, right, out=tmp_path / "strange-txt")  # the place is free for the right one


def test_pairs_are_found_as_plain_search_finds_them(tmp_path: Path) -> None:
    """First halves that are equal, and the largest numbers."""
    rng = np.random.default_rng(0)
    uids = {f"{first:016x}{last:016x}" for first in [0, 1, 2**63, 2**64 - 1] for last in rng.integers(0, 2**63, 20)}
    listed = sorted(uids)[::2]
    array = np.array([(int(one[:16], 16), int(one[16:], 16)) for one in reversed(listed)], np.dtype("u8,u8"))
    np.save(tmp_path / "list.npy", array)
    selection = read_selection(str(tmp_path / "list.npy"))
    assert {one for one in uids if selection.wants("key", one)} == set(listed) and selection.missing == 0


# Scores of other programs


def test_a_score_of_another_program_cuts(made: CapfiltResult, tmp_path: Path) -> None:
    keys = sorted({row.key for row in rows_of(made.dataset.uri)})
    values = {key: float(at) for at, key in enumerate(keys)}
    del values[keys[3]]
    table = pa.table({"image": [*values, "elsewhere"], "aesthetic": [*values.values(), 1.0]})
    pq.write_table(table, tmp_path / "scores.parquet")
    found = capfilt.add_scores(
        made.dataset.uri, tmp_path / "scores.parquet", {"looks": "aesthetic"}, key="image", out=tmp_path / "scored"
    )
    assert found.unused == 1 and found.missing == sum(row.key == keys[3] for row in rows_of(made.dataset.uri))
    uri = found.dataset.uri
    assert not verify(uri).problems
    assert {row.key: row.others["looks"].value for row in rows_of(uri) if "looks" in row.others} == values
    assert [row.kept for row in rows_of(uri)] == [row.kept for row in rows_of(made.dataset.uri)]
    parent = next(one for one in load_manifest(uri).parents if one.role == "scorer:looks")
    assert parent.digest == sha256_hex((tmp_path / "scores.parquet").read_bytes())
    cut = capfilt.recut(uri, out=tmp_path / "cut", keep="itm >= 0 and looks >= 5", weigh="looks")
    assert set(kept_of(cut.dataset.uri)) == {key for key in values if values[key] >= 5}
    assert all(row.weight == values[row.key] for rows in kept_of(cut.dataset.uri).values() for row in rows)
    with pytest.raises(ConfigError, match="found for scorer"):
        capfilt.recut(uri, out=tmp_path / "other", keep="looks >= 5", threshold_of={"looks": "0123456789"})
    assert any("looks" in one.get("scores", {}) for one in explain(uri, keys[0])["candidates"])
    capfilt.export(uri, tmp_path / "out")
    lists = [json.loads(one["json"])["scores"]["looks"] for one in samples_of(tmp_path / "out")]
    assert any(None in one for one in lists) and any(None not in one for one in lists)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"key": ["000000000"], "score": [float("nan")]}, "no finite number"),
        ({"key": ["000000000"], "score": [float("inf")]}, "no finite number"),
        ({"key": ["000000000", "000000000"], "score": [1.0, 2.0]}, "two values"),
        ({"key": ["elsewhere"], "score": [1.0]}, "the keys there are such as 000000000"),
        ({"id": ["000000000"], "score": [1.0]}, "no column key: it has id, score"),
    ],
)
def test_scores_that_are_none_are_refused(
    made: CapfiltResult, tmp_path: Path, columns: dict[str, list[object]], told: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "scores.parquet")
    with pytest.raises(DataError, match=told):
        capfilt.add_scores(made.dataset.uri, tmp_path / "scores.parquet", {"new": "score"}, out=tmp_path / "scored")


def test_a_score_does_not_take_anothers_name(made: CapfiltResult, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["000000000"], "score": [1.0]}), tmp_path / "scores.parquet")
    with pytest.raises(ConfigError, match="has a score itm already"):
        capfilt.add_scores(made.dataset.uri, tmp_path / "scores.parquet", {"itm": "score"}, out=tmp_path / "scored")


# Text filters


def test_filtered_texts_are_not_scored_and_say_why(folder: Path, made: CapfiltResult, tmp_path: Path) -> None:
    filters = {"block": ["Numbered 3", "12"], "words": "..6"}
    config = CapfiltConfig(threshold=0.01, threads=1, batch_size=7, text_filters=filters)
    models = {"captioner": folder / "captioner", "filter": folder / "filter"}
    found = capfilt.regenerate(web=folder / "shards", out=tmp_path / "made", config=config, **models)
    before = {(row.key, row.source): row for row in rows_of(made.dataset.uri)}
    reasons: dict[str, int] = {}
    for row in rows_of(found.dataset.uri):
        other = before[row.key, row.source]
        expected = "filtered_words" if len(row.text.split()) > 6 else (
            "filtered_block" if row.text in ("an image numbered 3", "an image numbered 12") else other.reason
        )  # fmt: skip
        assert (row.text, row.reason) == (other.text, expected)
        scored = row.itm_probability is not None
        assert scored == (not expected.startswith("filtered_"))
        assert not scored or row.itm_probability == pytest.approx(other.itm_probability, abs=1e-5)
        reasons[expected] = reasons.get(expected, 0) + expected.startswith("filtered_")
    assert reasons["filtered_block"] == 2 and reasons["filtered_words"] >= 1
    assert {name: found.metrics[f"capfilt/{name}"] for name in reasons if name.startswith("filtered_")} == {
        name: count for name, count in reasons.items() if name.startswith("filtered_")
    }
    told = explain(found.dataset.uri, "000000003")["candidates"][0]
    assert (told["text"], told["kept"], told["reason"]) == ("an image numbered 3", False, "filtered_block")
    again = capfilt.recut(made.dataset.uri, out=tmp_path / "cut", threshold=0.01, text_filters=filters)
    assert [(row.key, row.text) for row in rows_of(again.dataset.uri) if row.kept] == [
        (row.key, row.text) for row in rows_of(found.dataset.uri) if row.kept
    ]


# The page


def commands() -> Iterator[list[str]]:
    """The commands of the page, in order."""
    for block in re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("capfilt "):
                yield shlex.split(line)[1:]


def test_every_command_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "terms.txt").write_text("# not for us\nnumbered 3\n")
    keys = [f"{shard:05d}{index:04d}" for shard in range(2) for index in range(7)]
    pq.write_table(pa.table({"key": keys, "aesthetic": [6.0] * len(keys)}), folder / "aesthetic.parquet")
    done = []
    for line in commands():
        line = [part.replace("0.5", "0.01") for part in line]  # random models match nothing better
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, (line, result.output, result.stderr)
        done.append(line[1] if line[0] == "dataset" else line[0])
    assert {"regenerate", "export", "list", "select", "add-scores", "recut"} <= set(done)
