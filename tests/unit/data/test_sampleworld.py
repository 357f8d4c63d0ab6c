"""The sample world: its images are what its texts say, its files are of the usual layouts, its bytes never change."""

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.common.errors import DataError
from components.data.sampleworld import (
    NoiseProfile,
    SampleWorldConfig,
    Scene,
    generate_sample_world,
    judge_caption,
)
from components.data.sampleworld.drawing import RGB, draw_scene
from components.data.sampleworld.language import human_captions
from components.data.sampleworld.scene import SHAPES, Thing, holds, relation_between, sample_scene
from components.data.sampleworld.webtext import KINDS, web_text
from components.data.sampleworld.world import SampleWorldPaths

LEFT, MIDDLE, RIGHT = 1 / 6, 0.5, 5 / 6
RED_CIRCLE = Thing("circle", "red", "large", "plain", LEFT, MIDDLE, 0.15)
BLUE_STAR = Thing("star", "blue", "small", "striped", RIGHT, MIDDLE, 0.08)
PAIR = Scene((RED_CIRCLE, BLUE_STAR), "teal", "checkered")
NESTED = Scene(
    (
        Thing("square", "green", "large", "plain", MIDDLE, MIDDLE, 0.34),
        Thing("moon", "white", "small", "dotted", MIDDLE, MIDDLE, 0.12),
    ),
    "grey",
    "plain",
)
TWINS = Scene(
    (
        Thing("cross", "black", "medium", "plain", LEFT, LEFT, 0.115),
        Thing("cross", "black", "medium", "plain", LEFT, RIGHT, 0.115),
    ),
    "tan",
    "gradient",
)
SMALL = SampleWorldConfig(seed=3, human_train=6, human_val=3, human_test=4, web=45, shard_size=20)


@pytest.mark.parametrize(
    "text",
    [
        "a red circle left of a blue star",
        "a large crimson disc next to a small striped azure star on a tiled teal backdrop",
        "a blue star to the right of a red circle",
        "Red Circle & Blue Star - Wall Art | MyShop",
        "#big #red #circle #blue #star",
        "a circle",
        "two shapes on a turquoise wall",
        "there is a red circle on the left",
    ],
)
def test_true_texts_are_true(text: str) -> None:
    assert judge_caption(PAIR, text).true, judge_caption(PAIR, text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a red star", "star"),  # either word is right of something, but not of one thing
        ("a red circle right of a blue star", "right"),
        ("a blue star above a red circle", "above"),
        ("a blue star inside a red circle", "inside"),
        ("a dotted red circle", "dotted"),
        ("a small red circle and a blue star", "small"),
        ("a red circle on a pink background", "ground=pink"),
        ("a red circle on a plain teal background", "pattern=plain"),
        ("a blue star in the top left corner", "place=top left"),
        ("a red circle and a red circle", "red"),
        ("two red circles", "red"),
        ("a red circle , a blue star and a green heart", "green heart"),
        ("a red circle and a wooden chair", "chair"),
        ("a red blue circle", "blue"),
        ("a red circle , dotted", "dotted"),
    ],
)
def test_one_wrong_claim_is_found(text: str, wrong: str) -> None:
    verdict = judge_caption(PAIR, text)
    assert not verdict.true
    assert any(wrong in claim for claim in verdict.wrong), verdict
    assert verdict.claims >= len(verdict.wrong)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a red circle left of a blue star", 1),
        ("a red circle left of a green star", 4 / 5),
        ("a red circle below a green star", 3 / 5),  # the colour and the relation
        ("a red circle and a small striped green moon", 4 / 6),
        (
            "a red circle and a blue star and a black cross on the left",
            4 / 7,
        ),  # there is no third thing
        ("a red circle on a pink wall", 2 / 3),
        ("red , dotted", 1 / 2),
        ("a chair", 0),
        ("IMG_1234.JPG", None),
    ],
)
def test_share_of_claims_that_hold(text: str, share: float | None) -> None:
    verdict = judge_caption(PAIR, text)
    assert verdict.share == (None if share is None else pytest.approx(share)), verdict


@pytest.mark.parametrize("text", ["", "IMG_1234.JPG", "click to enlarge", "left of a a above", "on a teal background"])
def test_texts_that_name_nothing_are_not_true(text: str) -> None:
    assert not judge_caption(PAIR, text).true


def test_containment_is_read_in_every_form() -> None:
    for text in (
        "a moon inside a square",
        "a square with a moon inside",
        "a square around a moon",
        "a moon in a square",
    ):
        assert judge_caption(NESTED, text).true, text
    for text in ("a square inside a moon", "a moon with a square inside", "a moon left of a square"):
        assert not judge_caption(NESTED, text).true, text


def test_twins_count() -> None:
    assert judge_caption(TWINS, "two black crosses on a fading tan background").true
    assert judge_caption(TWINS, "a black cross above a black plus").true
    assert not judge_caption(TWINS, "three black crosses").true
    assert not judge_caption(TWINS, "two white crosses").true


def test_babble_is_judged_without_error() -> None:
    rng = random.Random(0)
    words = "a an two red circles left of , inside star in the top left corner background grey box chair ##s [UNK] &"
    for _ in range(500):
        text = " ".join(rng.choice(words.split()) for _ in range(rng.randrange(30)))
        verdict = judge_caption(PAIR, text)
        assert verdict.true == (bool(verdict.claims) and not verdict.wrong) or not verdict.true
        assert len(verdict.wrong) <= verdict.false <= verdict.claims


def test_what_people_say_is_true_and_differs() -> None:
    rng = random.Random(1)
    scenes = [sample_scene(rng) for _ in range(400)]
    captions = [human_captions(scene, 5, rng) for scene in scenes]
    for scene, five in zip(scenes, captions, strict=True):
        assert all(judge_caption(scene, caption).true for caption in five), (scene, five)
    assert len({caption for five in captions for caption in five}) > 1200


@pytest.mark.parametrize("kind", KINDS)
def test_web_texts_are_of_their_kind(kind: str) -> None:
    rng = random.Random(2)
    for _ in range(150):
        scene = sample_scene(rng)
        text = web_text(kind, scene, rng)  # type: ignore[arg-type]
        verdict = judge_caption(scene, text)
        assert verdict.true == (kind == "match"), (text, scene)
        if kind == "half-right":
            assert len(verdict.wrong) == 1 < verdict.claims
        if kind in ("alt-text", "junk"):
            assert not any(shape in text.lower().split() for shape in SHAPES)


def test_things_stay_inside_and_apart() -> None:
    rng = random.Random(4)
    for _ in range(500):
        scene = sample_scene(rng)
        for at, thing in enumerate(scene.things):
            assert thing.radius < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) + 0.02
            for other in scene.things[at + 1 :]:
                relation = relation_between(thing, other)
                assert holds(relation, thing, other), (relation, scene)
                assert relation in ("inside", "around") or np.hypot(thing.x - other.x, thing.y - other.y) > 0.29
        assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_drawn_in_its_colour_where_it_lies(shape: str) -> None:
    thing = Thing(shape, "yellow", "large", "plain", LEFT, RIGHT, 0.15)
    image = draw_scene(Scene((thing,), "teal", "plain"), 96, random.Random(0)).astype(int)
    yellow = np.abs(image - np.array(RGB["yellow"])).max(axis=2) < 25
    rows, columns = np.nonzero(yellow)
    assert 80 < yellow.sum() < 900
    assert abs(columns.mean() / 96 - LEFT) < 0.08 and abs(rows.mean() / 96 - RIGHT) < 0.08
    teal = np.abs(image - np.array(RGB["teal"])).max(axis=2) < 25
    assert teal.sum() > 0.8 * 96 * 96
    assert (~teal & ~yellow).sum() > 0  # anti-aliased: some pixels lie between


def test_all_shapes_and_textures_look_different() -> None:
    images = {}
    for shape in SHAPES:
        for texture in ("plain", "striped", "dotted"):
            scene = Scene((Thing(shape, "red", "large", texture, MIDDLE, MIDDLE, 0.15),), "grey", "plain")
            images[shape, texture] = draw_scene(scene, 72, random.Random(0)).astype(int)
    names = list(images)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            assert (np.abs(images[one] - images[other]).max(axis=2) > 60).sum() > 15, (one, other)


def _all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_equal_configs_give_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    generate_sample_world(SMALL, tmp_path / "a")
    generate_sample_world(SMALL, tmp_path / "b")
    generate_sample_world(SMALL.model_copy(update={"seed": 4}), tmp_path / "c")
    assert _all_bytes(tmp_path / "a") == _all_bytes(tmp_path / "b")
    other = _all_bytes(tmp_path / "c")
    drawn = {name: data for name, data in _all_bytes(tmp_path / "a").items() if not name.endswith("_stats.json")}
    assert not [name for name, data in drawn.items() if other[name] == data]


def test_human_files_are_coco_captions(tmp_path: Path) -> None:
    paths = generate_sample_world(SMALL, tmp_path)
    seen: set[int] = set()
    for annotations, count in ((paths.captions_train, 6), (paths.captions_val, 3), (paths.captions_test, 4)):
        data = json.loads(annotations.read_text())
        ids = [image["id"] for image in data["images"]]
        assert len(ids) == count and not seen & set(ids)
        seen |= set(ids)
        assert Counter(a["image_id"] for a in data["annotations"]) == dict.fromkeys(ids, 5)
        for image in data["images"]:
            drawn = cv2.imread(str(paths.images / image["file_name"]))
            assert drawn.shape == (72, 72, 3) == (image["height"], image["width"], 3)


def test_web_files_are_img2dataset_shards(tmp_path: Path) -> None:
    paths = generate_sample_world(SMALL, tmp_path)
    assert sorted(p.name for p in paths.web.glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(paths.web / "00001.tar") as tar:
        names = tar.getnames()
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert names[:4] == ["000010000.jpg", "000010000.txt", "000010000.json", "000010001.jpg"]
    rows = pq.read_table(paths.web / "00001.parquet").to_pylist()
    assert len(rows) == 20 and len(names) == 60
    for row in rows:
        assert json.loads(members[f"{row['key']}.json"]) == row
        assert members[f"{row['key']}.txt"].decode() == row["caption"]
        assert row["status"] == "success"
    stats = json.loads((paths.web / "00002_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["status_dict"]) == (5, 5, {"success": 5})


def test_truth_lies_apart_and_agrees(tmp_path: Path) -> None:
    paths = generate_sample_world(SMALL, tmp_path)
    rows = pq.read_table(paths.truth).to_pylist()
    texts = {
        r["key"]: r["caption"] for part in sorted(paths.web.glob("*.parquet")) for r in pq.read_table(part).to_pylist()
    }
    assert [row["key"] for row in rows] == list(texts)
    for row in rows:
        scene = Scene.from_json(row["scene"])
        assert judge_caption(scene, row["human_caption"]).true
        assert judge_caption(scene, texts[row["key"]]).true == (row["kind"] == "match")
    learners_see = b"".join(data for name, data in _all_bytes(tmp_path).items() if not name.startswith("truth"))
    assert b"half-right" not in learners_see and b"other-image" not in learners_see


@pytest.mark.parametrize("share", [0.0, 0.3, 0.55, 1.0])
def test_the_mixture_is_exact(tmp_path: Path, share: float) -> None:
    config = SMALL.model_copy(update={"web": 100, "shard_size": 100, "bad_share": share})
    kinds = Counter(pq.read_table(generate_sample_world(config, tmp_path).truth, columns=["kind"])["kind"].to_pylist())
    assert kinds["match"] == 100 - round(100 * share)
    for kind, part in config.noise.shares().items():
        assert abs(kinds[kind] - 100 * share * part) < 1


def test_a_finished_world_is_found_done_and_a_broken_off_one_is_finished(tmp_path: Path) -> None:
    paths = generate_sample_world(SMALL, tmp_path)
    whole = _all_bytes(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert generate_sample_world(SMALL, tmp_path) == paths == SampleWorldPaths.under(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times
    (tmp_path / "world.json").unlink()
    (paths.web / "00001.tar").write_bytes(b"half")
    generate_sample_world(SMALL, tmp_path)
    assert _all_bytes(tmp_path) == whole


def test_another_world_in_the_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    generate_sample_world(SMALL, tmp_path)
    with pytest.raises(DataError, match="web: 45 there, 46 asked for"):
        generate_sample_world(SMALL.model_copy(update={"web": 46}), tmp_path)
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(DataError, match=r"not a sample world's marker"):
        generate_sample_world(SMALL, tmp_path)


def test_wrong_configs_are_refused() -> None:
    with pytest.raises(ValidationError, match="must add up to 1"):
        NoiseProfile(junk=0.5)
    with pytest.raises(ValidationError, match="bad_shares"):
        SampleWorldConfig(bad_shares=0.5)  # type: ignore[call-arg]


def test_tars_are_read_by_a_stranger(tmp_path: Path) -> None:
    paths = generate_sample_world(SMALL, tmp_path)
    data = (paths.web / "00000.tar").read_bytes()
    assert data.endswith(bytes(1024)) and len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


def test_a_ground_that_is_said_to_be_large_is_wrong_and_no_crash() -> None:
    scene = sample_scene(random.Random(0))
    assert "size=large" in judge_caption(scene, "a shape on a large wall").wrong
