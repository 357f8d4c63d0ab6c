"""Labels of the sample world against its judge of captions, and that no text and no picture with texts comes near."""

import ast
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.data.decoding import decode_image
from components.data.sampleworld import SampleWorldConfig, generate_sample_world, judge_caption, language
from components.data.sampleworld.labels import (
    DEPTH,
    NOTHING,
    OF_A_THING,
    OF_THE_GROUND,
    label_scene,
    labelled_pictures,
)
from components.data.sampleworld.scene import PLACES, Scene, sample_scene

ROOT = Path(__file__).resolve().parents[3]
SCENES = [sample_scene(random.Random(seed)) for seed in range(300)]


def said_of(scene: Scene) -> list[str]:
    """What the labels say, as captions."""
    labels = label_scene(scene)
    ground, pattern = (values[at] for values, at in zip(OF_THE_GROUND.values(), labels.ground, strict=True))
    told = []
    for at, place in enumerate(PLACES):
        for thing in labels.things[at]:
            if thing[0] == NOTHING:
                continue
            shape, colour, size, texture = (v[n] for v, n in zip(OF_A_THING.values(), thing, strict=True))
            words = [word for word in (size, texture) if word not in ("medium", "plain")]
            told.append(f"a {' '.join([*words, colour, shape])} {language.PLACE_WORDS[place][0]}")
    return [f"{text} on a {pattern if pattern != 'plain' else ''} {ground} wall" for text in told]


def test_the_judge_finds_true_what_the_labels_say() -> None:
    wrong = [(scene, text) for scene in SCENES for text in said_of(scene) if not judge_caption(scene, text).true]
    assert not wrong


def test_labels_leave_nothing_out() -> None:
    assert [len(said_of(scene)) for scene in SCENES] == [len(scene.things) for scene in SCENES]
    assert any((label_scene(scene).things[:, 1] != NOTHING).any() for scene in SCENES), "no scene with an inner thing"


def test_one_wrong_label_would_be_found() -> None:
    scene = SCENES[0]
    shape = scene.things[0].shape
    other = next(one for one in OF_A_THING["shape"] if all(thing.shape != one for thing in scene.things))
    assert not all(judge_caption(scene, text.replace(shape, other)).true for text in said_of(scene))


def test_what_lies_inside_another_thing_is_its_second_label() -> None:
    nested = next(scene for scene in SCENES if len({thing.place for thing in scene.things}) < len(scene.things))
    middle = label_scene(nested).things[PLACES.index("middle")]
    assert middle.shape == (DEPTH, len(OF_A_THING))
    assert [OF_A_THING["size"][row[2]] for row in middle] == ["large", "small"]


def test_pictures_are_a_function_of_seed_and_number() -> None:
    config = SampleWorldConfig(seed=3, image_size=48)
    all_four, last_two = labelled_pictures(config, 0, 4), labelled_pictures(config, 2, 2)
    assert all_four.images.shape == (4, 48, 48, 3)
    assert np.array_equal(all_four.images[2:], last_two.images)
    assert np.array_equal(all_four.labels.things[2:], last_two.labels.things)
    other = labelled_pictures(SampleWorldConfig(seed=4, image_size=48), 0, 4)
    assert not np.array_equal(all_four.images, other.images)


def test_no_labelled_picture_is_a_human_or_a_web_picture(tmp_path: Path) -> None:
    config = SampleWorldConfig(seed=0, human_train=40, human_val=20, human_test=20, web=120, shard_size=60)
    paths = generate_sample_world(config, tmp_path)
    with_texts = {hashlib.sha256(decode_image(file.read_bytes()).tobytes()).digest() for file in paths.images.iterdir()}
    rows = [row for file in paths.web.glob("*.parquet") for row in pq.read_table(file)["sha256"].to_pylist()]
    labelled = labelled_pictures(config, 0, 200)
    seen = {hashlib.sha256(image.tobytes()).digest() for image in labelled.images}
    assert len(with_texts) == 80
    assert len(rows) == 120
    assert len(seen) == 200
    assert not seen & with_texts
    scenes = {row["scene"] for row in pq.read_table(paths.truth).to_pylist()}
    of_labels = {digest_of_labels(Scene.from_json(scene)) for scene in scenes}
    pairs = zip(labelled.labels.things, labelled.labels.ground, strict=True)
    same = sum((things.tobytes(), ground.tobytes()) in of_labels for things, ground in pairs)
    assert same < 20, "labelled pictures repeat the web's scenes more often than so small a world does by chance"


def digest_of_labels(scene: Scene) -> tuple[bytes, bytes]:
    labels = label_scene(scene)
    return labels.things.tobytes(), labels.ground.tobytes()


@pytest.mark.parametrize(
    ("module", "readers"),
    [
        ("components.data.sampleworld.labels", {"components/training/seeing.py"}),
        ("components.model.labelling", {"components/training/seeing.py"}),
        ("components.training.seeing", set()),
    ],
)
def test_labels_reach_nothing_that_learns_from_texts(module: str, readers: set[str]) -> None:
    """Only the training of the encoder reads labels, and nothing reads that: what goes on is a folder of weights."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("components", "flows", "capfilt")
        for path in (ROOT / package).rglob("*.py")
        if module in imported(path)
    }
    assert found == readers


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{one.name}" for one in node.names}
    return names


def test_the_shipped_encoder_holds_a_vision_transformer_and_nothing_else() -> None:
    from components.model.checkpoints.tensors import read_tensors

    folder = ROOT / "configs" / "sample-vit"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert {name.partition(".")[0] for name in read_tensors(folder)} == {"embeddings", "encoder", "layernorm"}
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit"
