"""The sample world's questions: each has one right answer in its scene, which a slow look at the scene confirms."""

import json
import random
from collections import Counter

import pytest

from components.data.sampleworld.config import SampleWorldConfig
from components.data.sampleworld.judge import judge_caption
from components.data.sampleworld.language import COLOUR_WORDS, SHAPE_WORDS, plural
from components.data.sampleworld.questions import KINDS, scene_questions, world_questions
from components.data.sampleworld.scene import Scene, holds, sample_scene
from components.data.sampleworld.world import SampleWorldPaths, generate_sample_world, human_scenes

SINGULAR = {plural(name): name for names in SHAPE_WORDS.values() for name in names}
CONFIG = SampleWorldConfig(human_train=30, human_val=4, human_test=12, web=1, image_size=32)


def scenes(count: int) -> list[Scene]:
    return [sample_scene(random.Random(seed)) for seed in range(count)]


def value_of(words: dict[str, tuple[str, ...]], text: str) -> str:
    return next(value for value, names in words.items() if text in names)


def matching(scene: Scene, words: list[str]) -> list[int]:
    """Places of the things that all of these words are true of."""
    colours = [value_of(COLOUR_WORDS, one) for one in words if any(one in names for names in COLOUR_WORDS.values())]
    shapes = [value_of(SHAPE_WORDS, one) for one in words if any(one in names for names in SHAPE_WORDS.values())]
    return [
        at
        for at, thing in enumerate(scene.things)
        if all(thing.colour == one for one in colours) and all(thing.shape == one for one in shapes)
    ]


def test_answers_are_right() -> None:
    met: Counter[str] = Counter()
    for seed, scene in enumerate(scenes(400)):
        for kind, asked in scene_questions(scene, random.Random(seed)):
            met[kind] += 1
            words, first = asked.question.split(), asked.answers[0]
            if kind == "yes/no":
                assert judge_caption(scene, " ".join(words[2:-1])).true == (first == "yes"), asked
                continue
            if kind == "count":
                found = len(scene.things) if "shapes" in words else len(matching(scene, [SINGULAR[words[2]]]))
                assert first == ("zero", "one", "two", "three")[found], asked
                continue
            subject = matching(scene, words[: words.index("seen")] if kind == "relation" else words)
            assert subject, asked
            thing = scene.things[subject[0]]
            if kind == "colour":
                assert {scene.things[at].colour for at in subject} == {first}, asked
            elif kind == "shape":
                assert {scene.things[at].shape for at in subject} == {first}, asked
            elif kind == "place":
                assert len(subject) == 1 and thing.place == first, asked
            else:
                other = matching(scene, words[words.index("seen") :])
                assert len(subject) == len(other) == 1 and holds(first, thing, scene.things[other[0]]), asked
    assert set(met) == set(KINDS)
    assert min(met.values()) > 100


def test_yes_and_no_are_about_as_frequent() -> None:
    asked = [one for seed, scene in enumerate(scenes(400)) for one in scene_questions(scene, random.Random(seed))]
    answers = Counter(one.answers[0] for kind, one in asked if kind == "yes/no")
    assert 0.35 < answers["no"] / answers.total() < 0.65


def test_they_are_of_the_pictures_that_were_drawn() -> None:
    rows = world_questions(CONFIG, "test")
    names = [name for name, _ in human_scenes(CONFIG, "test")]
    assert len(names) == 12 and list(dict.fromkeys(row["image"] for row in rows)) == names
    assert rows == world_questions(CONFIG, "test")
    assert rows != world_questions(CONFIG.model_copy(update={"seed": 1}), "test")
    assert all(len(row["answers"]) == 10 for row in rows)
    assert [row["question_id"] for row in rows] == list(range(len(rows)))


def test_the_scenes_are_those_of_the_captions(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths: SampleWorldPaths = generate_sample_world(CONFIG, tmp_path_factory.mktemp("world"))
    document = json.loads(paths.captions_train.read_text())
    by_name = {one["file_name"]: one["id"] for one in document["images"]}
    found = dict(human_scenes(CONFIG, "train"))
    assert list(by_name) == list(found)
    for note in document["annotations"]:
        name = next(name for name, number in by_name.items() if number == note["image_id"])
        assert judge_caption(found[name], note["caption"]).true
