"""Search finds what a slow loop over the model itself finds, in datasets and folders; another model is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import capfilt
from capfilt.cli.main import app
from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import ConfigError, DataError, ModelError
from components.common.storage import open_store
from components.data.decoding import decode_image, resize_square
from components.data.search import largest, open_index
from components.data.shards import read_shard
from components.data.web import import_web
from components.inference.arithmetic import Arithmetic
from components.model.checkpoints.publishing import reference_model
from components.regeneration.config import CapfiltConfig
from components.regeneration.models import open_filter
from components.regeneration.recut import recut_dataset
from components.regeneration.run import run_capfilt
from tests.helpers.s3 import serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web

CONFIG = CapfiltConfig(batch_size=4, threads=1, threshold=0.9, precision="fp32", max_words=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    folder = tmp_path_factory.mktemp("models")
    made = save_tiny_models(folder)
    # as anybody would give them: by their folders
    return (reference_model(made[0].uri, "captioner"), reference_model(made[1].uri, "filter"))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_web(tmp_path_factory.mktemp("web"), shards=3, samples=5)


@pytest.fixture(scope="module")
def dataset(web: Path, models: tuple[ModelRef, ModelRef], tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return run_capfilt(str(web), *models, CONFIG, store=store, name="out").dataset


def slowly(web: Path, filter_uri: str, words: str) -> dict[str, tuple[float, float]]:
    """Cosine and match of every image of the web shards, one at a time, straight from the model."""
    filter = open_filter(Path(filter_uri), CONFIG, Arithmetic(torch.device("cpu"), "fp32"))
    found = {}
    for tar in sorted(web.glob("*.tar")):
        for sample in read_shard(tar):
            square = resize_square(decode_image(sample.members["jpg"]), filter.size)[None]
            (score,) = filter.score(square, [[words]])[0]
            found[sample.key] = score.similarity, score.probability
    return found


def test_words_find_what_the_model_itself_is_nearest_to(
    web: Path, models: tuple[ModelRef, ModelRef], dataset: DatasetRef
) -> None:
    words = "a red ball on the left of the house"  # more than the filter reads
    wanted = slowly(web, models[1].uri, words)
    hits = capfilt.search(dataset.uri, words, top=15)
    assert [hit["key"] for hit in hits] == sorted(wanted, key=lambda key: -wanted[key][0])
    assert [hit["similarity"] for hit in hits] == pytest.approx([wanted[hit["key"]][0] for hit in hits], abs=2e-3)
    assert {one["source"] for hit in hits for one in hit["captions"]} == {"web", "synthetic"}
    assert not all(one["kept"] for hit in hits for one in hit["captions"])  # what was dropped is found too

    judged = capfilt.search(dataset.uri, words, top=3, rerank=10)
    nearest = {hit["key"] for hit in hits[:10]}
    assert [hit["key"] for hit in judged] == sorted(nearest, key=lambda key: -wanted[key][1])[:3]
    assert [hit["itm_probability"] for hit in judged] == pytest.approx([wanted[hit["key"]][1] for hit in judged])


def test_images_whose_captions_say_the_words_come_first(dataset: DatasetRef) -> None:
    every = capfilt.search(dataset.uri, "xyz", top=15)
    assert not any(one["says"] for hit in every for one in hit["captions"])
    told = next(one for hit in reversed(every) for one in hit["captions"] if not one["kept"] and one["text"])
    words = " ".join(told["text"].split()[:3])
    by_vectors = capfilt.search(dataset.uri, words, top=15, captions=False)
    assert [hit["similarity"] for hit in by_vectors] == sorted((hit["similarity"] for hit in by_vectors), reverse=True)
    cosines = np.array([hit["similarity"] for hit in by_vectors])
    said = [[(one["says"], one["kept"]) for one in hit["captions"]] for hit in by_vectors]
    assert any((True, False) in one for one in said)
    more = [4 if (True, True) in one else 2 if (True, False) in one else 0 for one in said]
    wanted = np.argsort(-(cosines / cosines.std() + more), kind="stable")
    found = capfilt.search(dataset.uri, words, top=15)
    assert [hit["key"] for hit in found] == [by_vectors[row]["key"] for row in wanted]


def test_an_index_made_of_a_dataset_comes_before_its_own_vectors(dataset: DatasetRef, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy")
    shutil.copytree(dataset.uri, copy)
    other = reference_model(save_tiny_models(tmp_path / "other", filter_size=48)[1].uri, "filter")
    assert capfilt.index(copy, other.uri, batch_size=8) == 15  # dropped ones, too, which lie in the web tars alone
    hits = capfilt.search(copy, "a ball", top=15)
    assert open_index(copy).model.digest == other.digest and all(hit["captions"] for hit in hits)
    with pytest.raises(ModelError, match="were made by"):
        capfilt.search(copy, "a ball", model=open_index(dataset.uri).model.uri)


def test_an_image_finds_itself_and_the_same_in_a_recut_dataset(web: Path, dataset: DatasetRef, tmp_path: Path) -> None:
    sample = list(read_shard(web / "00001.tar"))[3]
    (tmp_path / "query.jpg").write_bytes(sample.members["jpg"])
    cut = recut_dataset(dataset.uri, threshold=0.1, policy="best_of", store=open_store(str(tmp_path)), name="cut")
    for uri in (dataset.uri, cut.dataset.uri):
        hits = capfilt.search(uri, image=tmp_path / "query.jpg", top=2)
        assert hits[0]["key"] == sample.key and hits[0]["similarity"] == pytest.approx(1, abs=2e-3)


def test_another_model_is_refused_and_a_moved_one_can_be_named(
    dataset: DatasetRef, models: tuple[ModelRef, ModelRef], tmp_path: Path
) -> None:
    captioner, other = save_tiny_models(tmp_path / "other", filter_size=48)
    with pytest.raises(ModelError, match="--model .it was at .*regenerate"):
        capfilt.search(dataset.uri, "a ball", model=other.uri)
    moved = tmp_path / "moved"
    Path(models[1].uri).rename(moved)
    try:
        with pytest.raises(ModelError, match="is not at .* any more: name its folder with --model"):
            capfilt.search(dataset.uri, "a ball")
        assert capfilt.search(dataset.uri, "a ball", model=moved)
    finally:
        moved.rename(models[1].uri)


def test_a_folder_and_an_imported_dataset_are_found_in_once_indexed(
    web: Path, models: tuple[ModelRef, ModelRef], dataset: DatasetRef, tmp_path: Path
) -> None:
    words = "a green tree"
    wanted = [hit["key"] for hit in capfilt.search(dataset.uri, words, top=15)]
    photos = tmp_path / "photos"
    for tar in sorted(web.glob("*.tar")):
        for sample in read_shard(tar):
            (photos / tar.stem).mkdir(parents=True, exist_ok=True)
            (photos / tar.stem / f"{sample.key}.JPG").write_bytes(sample.members["jpg"])
    (photos / "broken.png").write_bytes(b"no image")
    (photos / ".hidden.png").write_bytes(b"no image")
    imported = import_web(str(web), store=open_store(str(tmp_path)), name="web")
    for place in (str(photos), imported.uri):
        with pytest.raises(DataError, match="capfilt index"):
            capfilt.search(place, words)
        assert capfilt.index(place, models[1].uri, batch_size=4) == 15
        found = [Path(hit["key"]).stem for hit in capfilt.search(place, words, top=15, rerank=0)]
        # all words are read here, four there: these are three
        assert found == wanted
        assert len(capfilt.search(place, words, top=2, rerank=4)) == 2
    record = json.loads((photos / "capfilt.index" / "index.json").read_text())
    assert [one["key"] for one in record["failed"]] == ["broken.png"]


def test_on_s3_as_in_folders(
    web: Path,
    models: tuple[ModelRef, ModelRef],
    dataset: DatasetRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, run = "a red ball", CliRunner().invoke
    image = tmp_path / "query.jpg"
    image.write_bytes(list(read_shard(web / "00002.tar"))[1].members["jpg"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        bucket = server.folder / "capfilt-test"
        shutil.copytree(dataset.uri, bucket / "out")
        shutil.copytree(web, bucket / "web")
        done = run(app, ["index", f"{server.uri}/web", "--model", models[1].uri, "--batch-size", "4", "--json"])
        assert done.exit_code == 0 and json.loads(done.stdout)["images"] == 15, done.stderr
        asked: list[list[str]] = [[words, "--rerank", "6"], ["--image", str(image), "--top", "3"]]
        for options in asked:
            there, here, indexed = (
                json.loads(run(app, ["search", uri, *options, "--json"]).stdout)
                for uri in (f"{server.uri}/out", dataset.uri, f"{server.uri}/web")
            )
            assert there == here
            assert [(hit["shard"], hit["key"]) for hit in indexed] == [(hit["shard"], hit["key"]) for hit in here]
    assert here[0]["key"] == "000020001" and here[0]["itm_probability"] is None


def test_an_index_has_one_place(web: Path, models: tuple[ModelRef, ModelRef]) -> None:
    with pytest.raises(DataError, match="index the folder they lie in, or import them"):
        capfilt.index(f"{web}/0000{{0..1}}.tar", models[1].uri)


def test_the_command_line(dataset: DatasetRef, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["search", dataset.uri, "a red ball", "--top", "3", "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)) == 3
    done = run(app, ["search", dataset.uri, "a red ball", "--top", "2", "--rerank", "3"])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 3
    assert run(app, ["search", dataset.uri]).exit_code == 2
    assert run(app, ["search", dataset.uri, "ball", "--image", str(tmp_path / "x.jpg")]).exit_code == 2
    with pytest.raises(ConfigError, match="no words"):
        capfilt.search(dataset.uri, "  ")


def test_equally_near_images_come_in_their_order() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.9, 0.5], np.float32)
    assert [largest(scores, count).tolist() for count in (0, 1, 3, 9)] == [[], [1], [1, 4, 0], [1, 4, 0, 2, 5, 3]]
