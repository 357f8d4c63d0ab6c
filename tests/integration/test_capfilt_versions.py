"""Datasets cut again, explained, verified and compared."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from components.common.contracts import CapfiltResult, ModelRef
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store
from components.data.candidates import Candidate
from components.data.manifest import file_uri, load_manifest
from components.data.shards import read_shard, scan_shard
from components.data.versions.diff import diff
from components.data.versions.verify import shard_rows, verify
from components.data.web import import_web
from components.regeneration.config import CapfiltConfig
from components.regeneration.provenance import explain
from components.regeneration.recut import recut_dataset
from components.regeneration.run import run_capfilt
from tests.helpers.datasets import commit_file, shard_file
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, good_sample, tar_bytes, write_web

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_web(tmp_path_factory.mktemp("web"), shards=2, samples=12)
    good = good_sample(50)
    odd = [(key, {**good, "jpg": data}) for key, (data, _) in bad_images().items()]
    odd += [("empty-text", {**good, "txt": b""}), ("twice", good), ("other", good), ("twice", good)]
    (folder / "00002.tar").write_bytes(tar_bytes(odd))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, web: Path, models: Models) -> CapfiltResult:
    return run(web, models, tmp_path_factory.mktemp("made"))


def run(web: Path, models: Models, root: Path, **changes: object) -> CapfiltResult:
    config = CapfiltConfig(**({"batch_size": 4, "threads": 1, "captions_per_image": 2} | changes))
    return run_capfilt(str(web), *models, config, store=open_store(str(root)), name="out")


def rows_of(uri: str) -> list[Candidate]:
    return [row for entry in load_manifest(uri).shards for row in shard_rows(uri, entry)]


def files_of(uri: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(uri, "shards").iterdir()}


@pytest.mark.parametrize(("threshold", "policy"), [(0.2, "keep_both"), (0.8, "best_of"), (0.5, "fallback")])
def test_a_recut_is_what_a_run_with_these_settings_would_have_written(
    tmp_path: Path, made: CapfiltResult, threshold: float, policy: str
) -> None:
    cut = recut_dataset(
        made.dataset.uri, threshold=threshold, policy=policy, store=open_store(str(tmp_path)), name="cut"
    )
    before, after = rows_of(made.dataset.uri), rows_of(cut.dataset.uri)
    plain = [(row.key, row.image_sha256, row.source, row.text, row.itm_probability) for row in before]
    assert [(row.key, row.image_sha256, row.source, row.text, row.itm_probability) for row in after] == plain
    assert all(row.itm_probability >= threshold for row in after if row.kept)
    if policy == "keep_both":
        assert sum(row.kept for row in after) > sum(row.kept for row in before)
    else:
        assert max(Counter(row.key for row in after if row.kept and row.source == "web").values()) == 1
    old, new = load_manifest(made.dataset.uri).totals, load_manifest(cut.dataset.uri).totals
    assert (new.samples, new.failed) == (old.samples, old.failed)
    assert new.kept_pairs == cut.dataset.pairs == cut.metrics["capfilt/kept_pairs"]
    assert verify(cut.dataset.uri).problems == ()
    assert load_manifest(cut.dataset.uri).kind == "recut"


def test_the_same_cut_gives_the_same_shards_and_a_recut_can_be_recut(tmp_path: Path, made: CapfiltResult) -> None:
    store = open_store(str(tmp_path))
    same = recut_dataset(made.dataset.uri, threshold=0.5, policy="keep_both", store=store, name="cut")
    assert files_of(same.dataset.uri) == files_of(made.dataset.uri)
    wide = recut_dataset(made.dataset.uri, threshold=0.0, policy="keep_both", store=store, name="wide")
    back = recut_dataset(wide.dataset.uri, threshold=0.5, policy="keep_both", store=store, name="back")
    assert files_of(back.dataset.uri) == files_of(made.dataset.uri)
    again = recut_dataset(made.dataset.uri, threshold=0.5, policy="keep_both", store=store, name="cut")
    assert again.dataset == same.dataset


def test_which_caption_is_the_txt_is_a_choice_and_the_json_holds_all(tmp_path: Path, made: CapfiltResult) -> None:
    store = open_store(str(tmp_path))
    texts: dict[str, list[str]] = {}
    for choice in ("web", "synthetic", "best", "random"):
        cut = recut_dataset(
            made.dataset.uri, threshold=0.0, policy="keep_both", store=store, name=choice, text=choice
        ).dataset
        assert verify(cut.uri).problems == () and load_manifest(cut.uri).config["text"] == choice
        samples = [one for entry in load_manifest(cut.uri).shards for one in read_shard(file_uri(cut.uri, entry.tar))]
        texts[choice] = [one.members["txt"].decode() for one in samples]
        for text, sample in zip(texts[choice], samples, strict=True):
            captions = json.loads(sample.members["json"])["captions"]
            assert text in [caption["text"] for caption in captions]
            if choice == "synthetic":
                assert text == next(one["text"] for one in captions if one["source"] == "synthetic")
            elif choice == "best":
                assert text == max(captions, key=lambda one: one["itm_probability"])["text"]
    assert texts["web"] != texts["random"] != texts["synthetic"] != texts["web"] != texts["best"]


def test_a_recut_of_an_imported_dataset_and_of_a_coin(tmp_path: Path, web: Path, models: Models) -> None:
    store = open_store(str(tmp_path))
    imported = import_web(str(web), store=store, name="web", limit=20)
    coin = run_capfilt(imported, *models, CapfiltConfig(coin=0.5, threads=1), store=store, name="coin")
    assert load_manifest(coin.dataset.uri).totals.samples == 20
    cut = recut_dataset(coin.dataset.uri, threshold=0.5, policy="keep_both", store=store, name="cut")
    assert {row.reason for row in rows_of(cut.dataset.uri)} <= {"", "below_threshold", "duplicate", "empty_text"}
    assert verify(cut.dataset.uri).problems == ()


def test_a_recut_needs_scores_a_probability_and_its_web_shards(
    tmp_path: Path, web: Path, models: Models, made: CapfiltResult
) -> None:
    store = open_store(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="no probability"):
        recut_dataset(made.dataset.uri, threshold=1.5, policy="keep_both", store=store, name="cut")
    imported = import_web(str(web), store=store, name="web")
    with pytest.raises(DataError, match="without scores"):
        recut_dataset(imported.uri, threshold=0.5, policy="keep_both", store=store, name="cut")
    copied = shutil.copytree(web, tmp_path / "web")
    moved = run(copied, models, tmp_path / "moved")
    shutil.copy(copied / "00000.tar", copied / "00001.tar")
    with pytest.raises(DataError, match="holds other web shards"):
        recut_dataset(moved.dataset.uri, threshold=0.1, policy="keep_both", store=store, name="cut")
    shutil.rmtree(copied)
    with pytest.raises(DataError, match="cannot be read"):
        recut_dataset(moved.dataset.uri, threshold=0.1, policy="keep_both", store=store, name="cut")


def test_explain_tells_where_a_sample_comes_from_and_why(made: CapfiltResult, web: Path, models: Models) -> None:
    told = explain(made.dataset.uri, "000010003")
    samples = {sample.key: sample for sample in scan_shard(web / "00001.tar").samples}
    assert told["input"]["tar"] == str(web / "00001.tar")
    assert told["input"]["offsets"] == [samples["000010003"].offset]
    assert [one["source"] for one in told["candidates"]] == ["web", "synthetic", "synthetic"]
    assert told["candidates"][0]["text"] == "an image numbered 103"
    assert all(one["reason"] for one in told["candidates"])
    assert len(set(told["seeds"])) == 2
    assert {parent["role"]: parent["digest"] for parent in told["parents"]}["filter"] == models[1].digest
    failed = explain(made.dataset.uri, "html")
    assert failed["failures"][0]["reason"] == "markup"
    assert not failed["kept"]
    with pytest.raises(DataError, match="has no sample 'nobody'"):
        explain(made.dataset.uri, "nobody")


def test_explain_without_the_input(tmp_path: Path, web: Path, models: Models) -> None:
    copied = shutil.copytree(web, tmp_path / "web")
    result = run(copied, models, tmp_path / "out")
    shutil.rmtree(copied)
    assert "cannot be read" in explain(result.dataset.uri, "000010003")["input"]["unknown"]


def test_verify_finds_nothing_wrong_with_a_good_dataset(made: CapfiltResult, web: Path, tmp_path: Path) -> None:
    found = verify(made.dataset.uri)
    assert found.problems == ()
    assert found.samples == 34
    assert verify(import_web(str(web), store=open_store(str(tmp_path)), name="web").uri).problems == ()


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda root: flip(shard_file(root, "00000"), 900), "the tar has other bytes"),
        (lambda root: shard_file(root, "00001").unlink(), "missing"),
        (lambda root: flip(shard_file(root, "00001", ".parquet"), 50), "the candidate table has other bytes"),
        (lambda root: commit_file(root, "00001").unlink(), "the commit record is missing"),
        (
            lambda root: shutil.copy(shard_file(root, "00001"), shard_file(root, "00000")),
            "the tar has other bytes",
        ),
    ],
)
def test_verify_finds_damage(tmp_path: Path, made: CapfiltResult, damage: object, found: str) -> None:
    root = Path(shutil.copytree(made.dataset.uri, tmp_path / "copy"))
    damage(root)  # type: ignore[operator]
    problems = verify(str(root)).problems
    assert len(problems) == 1
    assert found in problems[0]


def test_diff_of_two_cuts(tmp_path: Path, made: CapfiltResult) -> None:
    assert diff(made.dataset.uri, made.dataset.uri)["same"]
    cut = recut_dataset(
        made.dataset.uri, threshold=0.7, policy="keep_both", store=open_store(str(tmp_path)), name="cut"
    )
    found = diff(made.dataset.uri, cut.dataset.uri)
    lost = made.dataset.pairs - cut.dataset.pairs
    assert not found["same"]
    assert lost > 0
    assert found["captions"] == {
        "in_both": cut.dataset.pairs,
        "only_in_a": lost,
        "only_in_b": 0,
        "decided_otherwise": lost,
    }
    assert all(0.5 <= one["itm_probability"] < 0.7 for one in found["examples"]["only_in_a"])
    assert any("threshold: 0.5 there, 0.7 asked for" in line for line in found["config"])
    assert diff(cut.dataset.uri, made.dataset.uri)["captions"]["only_in_b"] == lost
