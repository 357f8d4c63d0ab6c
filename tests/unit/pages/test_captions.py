"""The test images through the rounds, from the details that evaluations keep."""

import json
import random

import pytest

from components.common.contracts import RawData
from components.common.storage import open_store
from components.data.coco import import_coco
from components.data.sampleworld import SampleWorldConfig, generate_sample_world
from components.data.sampleworld.language import human_caption
from components.data.sampleworld.world import human_scenes, scenes_beside
from components.pages.captions import PINNED, SHOWN
from components.pages.captions import caption_rounds as captions_of
from tests.helpers.ended import DATASET, bootstrap_result, round_result

IMAGES = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    config = SampleWorldConfig(human_train=1, human_val=1, human_test=IMAGES, web=1)
    paths = generate_sample_world(config, folder / "world")
    test = import_coco(str(paths.captions_test), str(paths.images), store=open_store(str(folder)), name="human-test")
    return folder, config, paths, test


def details(folder, config, number, ciders, captions):
    """A round's details: CIDEr and captions by image."""
    names = [name.rpartition(".")[0] for name, _ in human_scenes(config, "test")]
    images = [
        {"key": key, "caption": said, "references": ["people"], "cider": cider, "text_rank": 0.0, "image_ranks": [0]}
        for key, said, cider in zip(names, captions, ciders, strict=True)
    ]
    path = folder / f"details-{number}.json"
    path.write_text(json.dumps({"images": images}))
    return round_result(number, {}, details_uri=str(path)), names


def bootstrap(world, rounds):
    _, _, paths, test = world
    raw = RawData(train=DATASET, val=DATASET, test=test, web=DATASET, truth_uri=str(paths.truth))
    return bootstrap_result(rounds, raw=raw)


def test_the_largest_moves_are_shown_and_the_pinned_ones_whatever_became_of_them(world, tmp_path):
    folder, config, _, _ = world
    true = [human_caption(scene, random.Random(0)) for _, scene in human_scenes(config, "test")]
    first, names = details(folder, config, 0, [1.0] * IMAGES, ["a dog"] * IMAGES)
    second, _ = details(folder, config, 1, [1.0 + 0.1 * (number - 9) for number in range(IMAGES)], true)
    found = captions_of(bootstrap(world, [first, second]), tmp_path)
    assert [one.key for one in found.won] == names[: -SHOWN - 1 : -1]
    assert [one.key for one in found.lost] == names[:SHOWN]
    assert (found.better, found.worse, found.images) == (10, 9, IMAGES)
    assert len(found.pinned) == PINNED
    assert [one.key for one in found.pinned] == [
        one.key for one in captions_of(bootstrap(world, [first]), tmp_path).pinned
    ]
    for one in (*found.won, *found.pinned):
        assert [said.round for said in one.told] == [0, 1]
        assert [said.true for said in one.told] == [False, True]
        assert one.image.startswith("data:image/") and one.references == ("people",)
    assert found.repeated[0] == (("a dog", IMAGES),)


def test_without_details_nothing_is_shown_of_them(world, tmp_path, caplog):
    gone = round_result(0, {}, details_uri=f"{tmp_path}/gone.json")
    assert captions_of(bootstrap(world, [gone]), tmp_path) is None
    assert "gone.json" in caplog.text
    assert captions_of(bootstrap(world, [round_result(0, {})]), tmp_path) is None


def test_scenes_are_those_of_the_world_beside_the_truth(world, tmp_path):
    _, config, paths, _ = world
    assert list(scenes_beside(str(paths.truth), "test").values()) == [
        scene for _, scene in human_scenes(config, "test")
    ]
    assert scenes_beside(f"{tmp_path}/web_truth.parquet", "test") == {}
