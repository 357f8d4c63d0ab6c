"""Intervals against scipy's bootstrap and metrics made anew from the images drawn, and by how often they are right."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.contracts import Interval
from components.common.errors import DataError
from components.common.resampling import IntervalConfig, bootstrap
from components.evaluation.captions import bleu_scores, rouge_l
from components.evaluation.intervals import METRICS, compare, estimates, measured, read_measured, uncertainty
from components.evaluation.ptb import tokenize
from components.evaluation.vqa import ANY, OFFICIAL, Scored, vqa_metrics

stats = pytest.importorskip("scipy.stats")

CONFIG = IntervalConfig(resamples=150, seed=5)
WORDS = ["a", "red", "blue", "square", "disc", "left", "of", "above"]
Image = dict[str, Any]


def some_details(seed: int, images: int = 14, gain: float = 0.0) -> dict[str, Any]:
    """Details of one round; references are the same in every round."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(99)
    rows = []
    for number in range(images):
        captions = int(truth.integers(1, 6))
        references = [" ".join(truth.choice(WORDS, truth.integers(3, 9))) for _ in range(captions)]
        ranks = [float(rank) for rank in rng.geometric(0.2 + gain, captions) - 1]
        rows.append(
            {
                "key": f"image-{number:02d}",
                "caption": " ".join(rng.choice(WORDS, rng.integers(3, 9))),
                "references": references,
                "cider": float(rng.gamma(2.0)) + gain,
                "text_rank": None if number == 3 else float(rng.geometric(0.3 + gain) - 1) + 0.5 * (number == 4),
                "image_ranks": [None if number == 5 else rank for rank in ranks],
            }
        )
    return {"round": 0, "images": rows}


def recall(ranks: Sequence[float | None], k: int) -> float:
    return sum(rank is not None and rank < k for rank in ranks) / len(ranks)


def metric_of(images: Sequence[Image], name: str) -> float:
    """A metric made anew of these images."""
    if name == "eval/retrieval/mean_recall":
        return sum(metric_of(images, one) for one in METRICS[:6]) / 6
    if "recall_at" in name:
        ranks = [[image["text_rank"]] if "/text_" in name else image["image_ranks"] for image in images]
        return recall([rank for ranks_ in ranks for rank in ranks_], int(name.rsplit("_", 1)[1]))
    texts = [tokenize(image["caption"]) for image in images]
    references = [[tokenize(text) for text in image["references"]] for image in images]
    if name == "eval/caption/cider":
        return math.fsum(image["cider"] for image in images) / len(images)
    if name == "eval/caption/rouge_l":
        return math.fsum(map(rouge_l, references, texts)) / len(images)
    return bleu_scores(references, texts)[int(name[-1]) - 1]


def scipys(statistic: Callable[[Sequence[int]], float], images: int) -> tuple[float, float]:
    """scipy's interval, over the same draws: it resamples the images' numbers."""
    rng = np.random.default_rng(CONFIG.seed)
    numbers = (np.arange(images),)
    options = {"n_resamples": CONFIG.resamples, "confidence_level": CONFIG.level, "method": "BCa", "vectorized": False}
    found = stats.bootstrap(numbers, statistic, rng=rng, **options).confidence_interval
    return float(found.low), float(found.high)


ROUND_0, ROUND_1 = some_details(0), some_details(1, gain=0.1)


@pytest.mark.parametrize("name", METRICS)
def test_a_rounds_interval_is_scipys(name: str) -> None:
    images = ROUND_0["images"]
    ours = estimates(measured(ROUND_0), CONFIG)[name]
    expected = scipys(lambda drawn: metric_of([images[i] for i in drawn], name), len(images))
    assert (ours.low, ours.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_differences_interval_is_scipys(name: str) -> None:
    before, after = ROUND_0["images"], ROUND_1["images"]

    def difference(drawn: Sequence[int]) -> float:
        return metric_of([after[i] for i in drawn], name) - metric_of([before[i] for i in drawn], name)

    ours = compare(measured(ROUND_0), measured(ROUND_1), CONFIG)[name]
    assert ours.before == pytest.approx(metric_of(before, name))
    assert ours.after == pytest.approx(metric_of(after, name))
    assert ours.difference == pytest.approx(ours.after - ours.before)
    expected = scipys(difference, len(before))
    assert (ours.interval.low, ours.interval.high) == pytest.approx(expected, abs=1e-9)


def test_how_many_are_drawn_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = compare(measured(ROUND_0), measured(ROUND_1), CONFIG)
    monkeypatch.setattr("components.common.resampling._DRAWS", 50)
    in_parts = compare(measured(ROUND_0), measured(ROUND_1), CONFIG)
    for name in METRICS:
        assert in_parts[name].interval.low == pytest.approx(at_once[name].interval.low, abs=1e-12)
        assert in_parts[name].interval.high == pytest.approx(at_once[name].interval.high, abs=1e-12)


def test_the_same_details_give_the_same_intervals_in_whatever_order() -> None:
    shuffled = json.loads(json.dumps({"images": ROUND_1["images"][::-1]}))
    once, again = (compare(measured(ROUND_0), measured(one), CONFIG) for one in (ROUND_1, shuffled))
    assert once == again
    other = compare(measured(ROUND_0), measured(ROUND_1), CONFIG.model_copy(update={"seed": 6}))
    assert other["eval/caption/cider"].interval != once["eval/caption/cider"].interval


def test_captions_of_an_image_are_no_independent_queries() -> None:
    """Five times the same caption tell nothing new: the interval is that of one."""
    once = [{**image, "references": image["references"][:1], "image_ranks": image["image_ranks"][:1]}
            for image in ROUND_0["images"]]  # fmt: skip
    five = [{**image, "references": 5 * image["references"], "image_ranks": 5 * image["image_ranks"]} for image in once]
    name = "eval/retrieval/image_recall_at_5"
    single, many = (estimates(measured({"images": images}), CONFIG)[name] for images in (once, five))
    assert many == single
    assert single.high - single.low > 0.2


def test_a_round_against_itself_is_noise() -> None:
    comparisons = compare(measured(ROUND_0), measured(ROUND_0), CONFIG)
    assert {one.interval for one in comparisons.values()} == {Interval(low=0, high=0)}
    assert {one.verdict for one in comparisons.values()} == {"within noise"}


def test_a_large_gain_is_clear_and_pairing_makes_it_so() -> None:
    """Every image gains a little, and images differ by far more: only on the same draws does the gain show."""
    after = [{**image, "cider": image["cider"] + 0.05 + 0.01 * (i % 3)} for i, image in enumerate(ROUND_0["images"])]
    found = compare(measured(ROUND_0), measured({"images": after}), CONFIG)["eval/caption/cider"]
    assert found.verdict == "clear"
    assert 0.05 < found.interval.low < found.difference < found.interval.high < 0.07
    alone = estimates(measured(ROUND_0), CONFIG)["eval/caption/cider"]
    assert alone.high - alone.low > 10 * (found.interval.high - found.interval.low)


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({}, "no details of an evaluation"),
        ({"images": [{"key": "a"}]}, "no details of an evaluation"),
        ({"images": ROUND_0["images"][:1]}, "at least two test images, not 1"),
        ({"images": ROUND_0["images"] + ROUND_0["images"][:1]}, "hold an image twice"),
        ({"images": [{**ROUND_0["images"][0], "cider": math.nan}]}, "no details of an evaluation"),
        ({"images": [{**ROUND_0["images"][0], "image_ranks": []}]}, "no details of an evaluation"),
    ],
)
def test_other_files_are_refused(details: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        measured(details)


@pytest.mark.parametrize("change", [{"key": "another"}, {"references": ["another"]}])
def test_other_test_images_are_refused(change: dict[str, Any]) -> None:
    other = {"images": [*ROUND_1["images"][1:], {**ROUND_1["images"][0], **change}]}
    with pytest.raises(DataError, match=r"not measured on the same test images: (1|2) differ.*image-00"):
        compare(measured(ROUND_0), measured(other), CONFIG)


def test_a_base_models_ranks_alone_have_intervals_by_their_own_names(tmp_path: Path) -> None:
    bare = {"base": "digest", "images": [{name: image[name] for name in BARE} for image in ROUND_0["images"]]}
    (tmp_path / "details.json").write_text(json.dumps(bare))
    found = estimates(read_measured(str(tmp_path / "details.json")), CONFIG)
    whole = estimates(measured(ROUND_0), CONFIG)
    assert found == {
        name.replace("eval/retrieval/", "base/"): one
        for name, one in whole.items()
        if name.startswith("eval/retrieval")
    }


BARE = ("key", "references", "text_rank", "image_ranks")


def test_a_round_is_compared_with_round_0_and_round_0_with_nothing() -> None:
    first, second = measured(ROUND_0), measured(ROUND_1)
    zero = uncertainty([(first, None)], CONFIG)
    assert (set(zero.values), zero.changes, zero.level) == (set(METRICS), {}, 0.95)
    one = uncertainty([(second, first)], CONFIG)
    assert one.changes == compare(first, second, CONFIG)


def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "details.json").write_text("{")
    with pytest.raises(DataError, match=r"details\.json is no JSON"):
        read_measured(str(tmp_path / "details.json"))


# ------------------------------------------------------------------------------------------------------------- answers

KINDS = {"colour": ("red", "dark red", "blue"), "yes/no": ("yes", "no"), "": ("left", "the left")}
COLOUR = f"{OFFICIAL}_colour"


def some_answers(seed: int, images: int = 36, gain: float = 0.0) -> dict[str, Any]:
    """Details of answers to one to three questions an image; questions and annotators are the same in every round."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(98)
    rows = []
    for number in range(images):
        for kind, words in list(KINDS.items())[: 1 + number % 3]:
            answers = [str(truth.choice(words)) for _ in range(10)]
            right = rng.random() < 0.5 + gain
            answer = str(answers[0]) if right else str(rng.choice([*words, "grey"]))
            row = {"key": f"image-{number:02d}", "question": f"what {kind}?", "kind": kind}
            rows.append(row | {"answer": answer, "answers": answers})
    rng.shuffle(rows)
    return {"round": 0, "questions": rows}


def answers_metric(details: dict[str, Any], drawn: Sequence[int], name: str) -> float:
    """An accuracy made anew of the images drawn, by the scorer."""
    keys = sorted({row["key"] for row in details["questions"]})
    rows = [row for number in drawn for row in details["questions"] if row["key"] == keys[number]]
    found = vqa_metrics(Scored(row["answer"], row["answers"], row["kind"]) for row in rows)[name]
    return round(found, 12)  # equal ones are equal, however they were added up


ANSWERS_0, ANSWERS_1 = some_answers(0), some_answers(1, gain=0.3)


@pytest.mark.parametrize("name", [OFFICIAL, ANY, COLOUR])
def test_an_accuracys_intervals_are_scipys(name: str) -> None:
    """Of one round, and of the difference of two."""
    one = estimates(measured(ANSWERS_0), CONFIG)[name]
    assert (one.low, one.high) == pytest.approx(scipys(lambda drawn: answers_metric(ANSWERS_0, drawn, name), 36))
    ours = compare(measured(ANSWERS_0), measured(ANSWERS_1), CONFIG)[name]
    before, after = (answers_metric(details, range(36), name) for details in (ANSWERS_0, ANSWERS_1))
    assert (ours.before, ours.after) == pytest.approx((before, after))

    def difference(drawn: Sequence[int]) -> float:
        return answers_metric(ANSWERS_1, drawn, name) - answers_metric(ANSWERS_0, drawn, name)

    assert (ours.interval.low, ours.interval.high) == pytest.approx(scipys(difference, 36), abs=1e-9)


def test_a_kind_that_few_images_are_asked_of_has_no_interval() -> None:
    """A draw of the images could be without any; and questions of no kind make none."""
    assert set(estimates(measured(ANSWERS_0), CONFIG)) == {OFFICIAL, ANY, COLOUR}
    assert set(estimates(measured(some_answers(0, images=60)), CONFIG)) == {OFFICIAL, ANY, COLOUR, f"{OFFICIAL}_yes_no"}


def test_questions_of_an_image_are_no_independent_ones() -> None:
    """Five times the same question tells nothing new: the interval is that of one."""
    once = [row for row in ANSWERS_0["questions"] if row["kind"] == "colour"]
    single, many = (estimates(measured({"questions": rows}), CONFIG)[OFFICIAL] for rows in (once, 5 * once))
    assert (many.low, many.high) == pytest.approx((single.low, single.high))
    assert single.high - single.low > 0.2


@pytest.mark.parametrize("change", [{"key": "another"}, {"question": "another"}, {"answers": ["another"]}])
def test_other_questions_are_refused(change: dict[str, Any]) -> None:
    first, *others = ANSWERS_1["questions"]
    with pytest.raises(DataError, match="not measured on the same test images"):
        compare(measured(ANSWERS_0), measured({"questions": [{**first, **change}, *others]}), CONFIG)


@pytest.mark.parametrize("questions", [[], [{"key": "a"}], None])
def test_what_is_no_record_of_answers_is_refused(questions: Any) -> None:
    with pytest.raises(DataError, match="no details of an evaluation: questions|at least two test images"):
        measured({"questions": questions})


SPLITS = 2000


def simulated_gains(images: int) -> np.ndarray:
    """Per image and split the gain in hits of five captions that share the image's luck; then in a skewed score."""
    rng = np.random.default_rng(0)
    luck = rng.uniform(-0.3, 0.3, (images, SPLITS))
    before, after = (rng.binomial(5, np.clip(level + luck, 0, 1)) for level in (0.5, 0.6))
    return np.concatenate([after - before, 5 * rng.gamma(1.0, size=(images, SPLITS)) - 4.5], axis=1)


@pytest.mark.parametrize("images", [100, 300])
def test_intervals_are_right_as_often_as_they_say(images: int) -> None:
    """2,000 test splits, of which both metrics rise by 0.1."""
    rows = (np.full((images, 1), 5.0), simulated_gains(images))
    spread = bootstrap(lambda sums: sums[1] / sums[0], rows, IntervalConfig())
    held = np.array([one.low <= 0.1 <= one.high for one in spread.intervals(0.95)])
    assert held.reshape(2, SPLITS).mean(1) == pytest.approx([0.95, 0.95], abs=0.02)
