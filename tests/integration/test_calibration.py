"""A filter measured on human captions, through real images, a real (tiny, random) model and the real import."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.common.contracts import Calibration, DatasetRef, ModelRef, ScoreWeights
from components.common.errors import ConfigError, DataError, GateError, ModelError
from components.common.storage import open_store
from components.data.coco import import_coco
from components.data.decoding import decode_image, resize_square
from components.data.views import EvalImage, load_eval_set
from components.inference.arithmetic import Arithmetic
from components.inference.filter import Filter
from components.regeneration.calibration import choose, remembered, run_calibration, score_pairs, settle
from components.regeneration.config import CalibrationConfig, CapfiltConfig
from components.regeneration.models import open_filter
from components.regeneration.purity import GRID, PurityCurve
from components.regeneration.run import run_capfilt
from components.regeneration.weighing import ScoredImage
from tests.helpers.doubled import SIXTH_DIGIT, Doubled
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import encoded, photo

CAPTIONS = [
    ["a red ball on the house", "the red ball, on a house!"],
    ["the blue cat under a tree", "a cat on the left"],
    ["two green dog", "A red ball on the house."],  # read like a caption of the first image
    ["the big tree", "the big tree"],
    ["a small house on the right", "three ball"],
    ["a picture of the cat", "the dog and two cat under the tree"],
]


@pytest.fixture(scope="module")
def filter(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return save_tiny_models(tmp_path_factory.mktemp("models"), filter_size=32)[1]


def human(folder: Path, captions: list[list[str]]) -> DatasetRef:
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index, texts in enumerate(captions):
        (folder / "images" / f"{index}.jpg").write_bytes(encoded(photo(index)))
        images.append({"id": index, "file_name": f"{index}.jpg"})
        annotations += [{"image_id": index, "caption": text} for text in texts]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return import_coco(
        str(folder / "captions.json"), str(folder / "images"), store=open_store(str(folder / "root")), name="val"
    )


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return human(tmp_path_factory.mktemp("val"), CAPTIONS)


def settings(target: float | None = None, **changes: object) -> CapfiltConfig:
    calibration = CalibrationConfig(**({"negatives": 3} | changes))
    return CapfiltConfig(batch_size=4, precision="fp32", target_precision=target, calibration=calibration)


def loaded(filter: ModelRef, arithmetic: type[Arithmetic] = Arithmetic) -> Filter:
    return open_filter(Path(filter.uri), settings(), arithmetic(torch.device("cpu"), "fp32"))


def by_hand(filter_: Filter, images: list[EvalImage], count: int) -> tuple[list[float], list[float]]:
    """Every image alone with every text; the wrong ones those of the images that look most like it."""
    texts = sorted({filter_.read(text) for image in images for text in image.captions})
    squares = [resize_square(decode_image(image.image), filter_.size)[None] for image in images]
    looks = [filter_.embed_images(square)[0] for square in squares]
    right, wrong = [], []
    for image, square, look in zip(images, squares, looks, strict=True):
        rows = dict(zip(texts, filter_.score(square, [texts])[0], strict=True))
        own = {filter_.read(text) for text in image.captions}
        right += [rows[text].probability for text in own]
        nearest = sorted(range(len(images)), key=lambda number: -float(look @ looks[number]))
        captions = [filter_.read(text) for number in nearest for text in images[number].captions]
        others = list(dict.fromkeys(text for text in captions if text not in own))
        wrong += [rows[text].probability for text in others[:count]]
    return sorted(right), sorted(wrong)


def flat(images: list[ScoredImage]) -> tuple[list[float], list[float]]:
    """Match probabilities of right and of wrong texts."""
    return (
        [text.probability for row in images for text in row.right],
        [text.probability for row in images for text in row.wrong],
    )


def test_right_texts_are_their_own_and_wrong_ones_those_of_lookalikes(filter: ModelRef, val: DatasetRef) -> None:
    images = load_eval_set(val)
    seen: list[int] = []
    found_right, found_wrong = flat(score_pairs(loaded(filter, Doubled), images, settings(), seen.append))
    right, wrong = by_hand(loaded(filter, Doubled), images, 3)
    assert sum(seen) == 2 * len(images)
    assert (len(right), len(wrong)) == (11, 18)  # "the big tree" is one text
    np.testing.assert_allclose(sorted(found_right), right, rtol=0, atol=SIXTH_DIGIT)
    np.testing.assert_allclose(sorted(found_wrong), wrong, rtol=0, atol=SIXTH_DIGIT)


def test_scores_that_tell_nothing_are_refused(filter: ModelRef, val: DatasetRef) -> None:
    config = settings().model_copy(update={"calibrated": "itc"})
    found = run_calibration(filter, val, config)
    nothing = found.model_copy(update={"weights": ScoreWeights(itm=0.0, itc=0.0, bias=0.1)})
    with pytest.raises(GateError, match=r"does not tell 11 right validation captions from 18 wrong ones .*: itc\)"):
        settle(config, nothing)


def test_a_threshold_is_chosen_of_the_score_it_is_for(filter: ModelRef, val: DatasetRef) -> None:
    with pytest.raises(ConfigError, match="a threshold of itm, .* score asks for itc: leave .* calibrated: itc"):
        run_calibration(filter, val, settings(0.55).model_copy(update={"score": "itc"}))
    run_calibration(filter, val, settings(0.55).model_copy(update={"score": "itm"}))


def test_as_many_wrong_texts_as_there_are(filter: ModelRef, val: DatasetRef) -> None:
    _, wrong = flat(score_pairs(loaded(filter), load_eval_set(val), settings(negatives=50), lambda done: None))
    texts = {loaded(filter).read(text) for row in CAPTIONS for text in row}
    assert len(wrong) == sum(len(texts) - len({loaded(filter).read(text) for text in row}) for row in CAPTIONS)


def test_a_calibration_is_its_curve(filter: ModelRef, val: DatasetRef, tmp_path: Path) -> None:
    config = settings()
    found = run_calibration(filter, val, config, work_dir=tmp_path)
    curve = PurityCurve(*flat(score_pairs(loaded(filter), load_eval_set(val), config, lambda done: None)), 0.5)
    assert found.curve == tuple(curve.points(GRID))
    assert found.chosen == curve.at(0.5)
    assert (found.images, found.positives, found.negatives) == (6, 11, 18)
    assert (found.filter, found.human) == (filter.digest, val.digest)
    names = {f"calibration/{name}" for name in ("threshold", "purity", "yield", "error")}
    assert found.metrics.keys() == names
    assert (found.score, found.weights, found.scores_uri) == ("itm", None, None)
    assert sum(one.texts for one in found.reliability) == 29
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    assert not list(tmp_path.iterdir())
    assert run_calibration(filter, val, settings(images=2)).images == 2


def test_the_chosen_threshold_goes_into_the_config(filter: ModelRef, val: DatasetRef) -> None:
    config = settings(0.55)
    found = run_calibration(filter, val, config)
    assert found.reached
    assert found.chosen.purity >= 0.55
    assert found.target == 0.55
    used = settle(config, found)
    assert used.threshold == found.chosen.threshold
    assert used == config.model_copy(update={"threshold": found.chosen.threshold, "target_precision": None})
    assert settle(settings(), found) == settings()


def test_the_scores_of_every_text_are_kept_by_image(filter: ModelRef, val: DatasetRef, tmp_path: Path) -> None:
    found = run_calibration(filter, val, settings(), store=open_store(str(tmp_path)))
    assert found.scores_uri is not None
    images = json.loads(Path(found.scores_uri).read_text())["images"]
    right = [score for image in images for _, score, _ in image["right"]]
    wrong = [score for image in images for _, score, _ in image["wrong"]]
    assert PurityCurve(right, wrong, 0.5).points(GRID) == list(found.curve)
    other = run_calibration(filter, val, settings(negatives=2), store=open_store(str(tmp_path)))
    assert other.scores_uri != found.scores_uri


def test_weights_are_fitted_and_go_into_the_config(filter: ModelRef, val: DatasetRef) -> None:
    config = settings(0.55).model_copy(update={"calibrated": "both"})
    assert config.needs_calibration
    found = run_calibration(filter, val, config)
    assert found.weights is not None
    used = settle(config, found)
    assert (used.weights, used.threshold) == (found.weights, found.chosen.threshold)
    assert not used.needs_calibration
    assert run_calibration(filter, val, used).weights == found.weights


def test_a_target_without_its_threshold_is_not_run(filter: ModelRef, val: DatasetRef, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a threshold or weights have yet to be chosen"):
        run_capfilt(val, filter, filter, settings(0.9), store=open_store(str(tmp_path)), name="out")
    assert not list(tmp_path.iterdir())


def test_a_target_out_of_reach_stops_and_names_what_can_be_had(filter: ModelRef, val: DatasetRef) -> None:
    config = settings(0.999)
    found = run_calibration(filter, val, config)
    assert not found.reached
    with pytest.raises(GateError, match="no threshold of this filter reaches a precision of 0.999") as error:
        settle(config, found)
    assert f"{found.chosen.purity:.4f}, at threshold {found.chosen.threshold:g}" in str(error.value)
    again = settings(found.chosen.purity)
    assert settle(again, run_calibration(filter, val, again)).threshold == found.chosen.threshold


def test_a_store_remembers_what_a_run_began_with(filter: ModelRef, val: DatasetRef, tmp_path: Path) -> None:
    store, config = open_store(str(tmp_path)), settings(0.55)
    calls: list[CapfiltConfig] = []

    def asked(config: CapfiltConfig) -> Calibration:
        def measure() -> Calibration:
            calls.append(config)
            return run_calibration(filter, val, config)

        return remembered(store, filter, val, config, measure)

    assert asked(config) == asked(config)
    assert len(calls) == 1
    faster = config.model_copy(update={"batch_size": 2, "workers": 7})
    assert asked(faster) == asked(config)
    assert len(calls) == 1
    assert asked(settings(0.6)).target == 0.6
    assert len(calls) == 2


@pytest.mark.parametrize(
    "captions", [[["a red ball"]], [["a red ball"], ["A red ball!"]], [["..."], ["!"]], [["a cat", "a dog"]]]
)
def test_without_two_different_captions_nothing_can_be_measured(
    filter: ModelRef, tmp_path: Path, captions: list[list[str]]
) -> None:
    with pytest.raises(DataError, match="at least two images with different captions"):
        run_calibration(filter, human(tmp_path, captions), settings())


def test_a_broken_filter_is_told(tmp_path: Path, val: DatasetRef) -> None:
    from safetensors.torch import load_file, save_file

    broken = save_tiny_models(tmp_path)[1]
    path = Path(broken.uri) / "model.safetensors"
    weights = load_file(path)
    weights["itm_head.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="scores are not finite"):
        run_calibration(broken, val, settings())


def test_without_a_target_the_configured_threshold_stands() -> None:
    curve = PurityCurve([0.9, 0.4], [0.1])
    point, reached = choose(curve, CapfiltConfig(threshold=0.3))
    assert (point.threshold, point.yield_share, reached) == (0.3, 1.0, True)
