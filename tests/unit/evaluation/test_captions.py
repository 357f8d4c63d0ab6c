"""Caption metrics: known values, refusals, and the loaders' error messages."""

import json
import math

import pytest

from components.common.errors import DataError, StorageError
from components.evaluation.captions import caption_metrics, load_predictions, load_references
from components.evaluation.ptb import tokenize


def test_a_perfect_caption_scores_one_and_cider_ten():
    references = {"1": ["a red dog runs on grass"], "2": ["two blue birds sit in trees"]}
    got = caption_metrics(references, {key: texts[0] for key, texts in references.items()})
    assert got["BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert got["ROUGE-L"] == pytest.approx(1)
    assert got["CIDEr"] == pytest.approx(10)


def test_nothing_in_common_scores_zero():
    got = caption_metrics({"1": ["a red dog"], "2": ["two blue birds"]}, {"1": "xx yy zz", "2": "vv ww uu"})
    assert all(value == pytest.approx(0, abs=1e-6) for value in got.values())


def test_brevity_penalty_by_hand():
    """Two right words of four: precision 1, penalty exp(1 - 4/2)."""
    assert caption_metrics({"1": ["one two three four"]}, {"1": "one two"})["BLEU-1"] == pytest.approx(
        math.exp(-1), abs=1e-6
    )


def test_order_of_images_does_not_matter():
    references = {"1": ["a dog", "the dog"], "2": ["a cat sits"], "3": ["birds fly"]}
    predictions = {"1": "a dog", "2": "a dog sits", "3": "birds"}
    turned = dict(reversed(references.items()))
    assert caption_metrics(references, predictions) == pytest.approx(caption_metrics(turned, predictions))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog, running!", "a dog running"),
        ("don't CAN'T It's", "do n't ca n't it 's"),
        ("a cannot-do t-shirt", "a cannot-do t-shirt"),
        ("Mr. X. (left)", "mr. x. -lrb- left -rrb-"),
        ("", ""),
        ("  \n\t ", ""),
        ("🐶 a dog 🐶", "a dog"),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ({"1": ["a"], "2": ["b"]}, {"1": "a"}, "no prediction.*first: 2"),
        ({"1": ["a"]}, {"1": "a", "9": "b"}, "without references.*first: 9"),
        ({"1": []}, {"1": "a"}, "empty list"),
        ({}, {}, "empty"),
    ],
)
def test_unequal_ids_are_refused(references, predictions, message):
    with pytest.raises(DataError, match=message):
        caption_metrics(references, predictions)


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_loads_coco_and_karpathy_references(tmp_path):
    coco = {"images": [], "annotations": [{"image_id": 7, "caption": "a"}, {"image_id": 7, "caption": "b"}]}
    karpathy = [{"image": "x/7.jpg", "caption": ["a", "b"]}]
    assert load_references(write(tmp_path / "a.json", coco)) == {"7": ["a", "b"]}
    assert load_references(write(tmp_path / "b.json", karpathy)) == {"x/7.jpg": ["a", "b"]}


def test_loads_results(tmp_path):
    assert load_predictions(write(tmp_path / "a.json", [{"image_id": 7, "caption": "a"}])) == {"7": "a"}


@pytest.mark.parametrize("load", [load_references, load_predictions])
@pytest.mark.parametrize(
    "value", ["{not json", [], {}, "3", [{"image_id": 1}], [{"caption": "a"}], [3], [{"image_id": 1, "caption": []}]]
)
def test_bad_files_are_named(tmp_path, load, value):
    path = write(tmp_path / "bad.json", value)
    with pytest.raises(DataError, match=r"bad\.json"):
        load(path)


def test_predictions_twice_or_annotations_instead(tmp_path):
    twice = [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]
    with pytest.raises(DataError, match="more than one prediction"):
        load_predictions(write(tmp_path / "a.json", twice))
    with pytest.raises(DataError, match="annotation file"):
        load_predictions(write(tmp_path / "b.json", {"annotations": twice}))


def test_missing_file(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere\.json"):
        load_predictions(str(tmp_path / "nowhere.json"))
