"""How far a filter can be trusted, measured on human validation captions, and the threshold that follows.

Right texts are the images' own captions. Wrong ones are hard: for every image captions of the images that look most
like it to the filter, by ITC's image features (never one that is read like a caption of the image). Captions drawn at
random would flatter it: on two seeds of the sample world (0.55 of the web texts wrong, threshold 0.5 of ITM) those of
lookalikes promise a purity of 0.73 and 0.81, and of the web texts that are kept 0.88 and 0.91 are right. The texts
nearest to the image would blame it: whoever chooses texts for their high score finds where the score errs, and on
photographs, where many captions fit many images, a filter with a ROC-AUC of 0.82 came out below a coin (0.38).

So it is an estimate, neither a lower nor an upper bound. Purity on the web is higher in so far as most web noise fits
worse than these texts, and as some of these do fit the image they were not written for; it is lower in so far as web
texts are wrong in a single detail, or are worded unlike the human captions.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from components.common.contracts import Calibration, DatasetRef, ModelRef, PurityPoint
from components.common.errors import ConfigError, DataError, GateError, ModelError
from components.common.identity import deciding
from components.common.progress import Progress
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri
from components.common.tracking import UNTRACKED, Tracker
from components.data.decoding import Pixels
from components.data.scores import BLIP_COLUMNS, ITM
from components.data.views import EvalImage, iterate_images
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.memory import batches, with_halving
from components.inference.protocols import AnyScorer
from components.inference.squares import images_of
from components.model.checkpoints.weights import fetch_model
from components.regeneration.config import CALIBRATION, CapfiltConfig
from components.regeneration.models import open_any_filter
from components.regeneration.purity import GRID, PurityCurve
from components.regeneration.weighing import ScoredImage, ScoredText, deciding_scores, reliability

logger = logging.getLogger(__name__)

REVISION = 2  # 2: wrong texts are those of lookalikes, not the nearest to the image
"""Raised when the same filter and captions would be measured otherwise."""


def run_calibration(
    filter: ModelRef,
    human: DatasetRef,
    config: CapfiltConfig,
    *,
    store: Store | None = None,
    work_dir: Path | None = None,
    tracker: Tracker = UNTRACKED,
    step: int = 0,
    label: str = "calibration",
) -> Calibration:
    """Measure a filter on human captions; weigh its scores and choose the threshold where the config asks for it.

    Args:
        filter: the filter.
        human: captions it was not trained on; the first `config.calibration.images` images are used.
        config: settings of the CapFilt run that the filter is for.
        store: where the scores of all texts are kept, so that the next round can be compared; None: nowhere.
        work_dir: local folder for fetched files; by default one that is deleted afterwards.
        tracker: gets `calibration/threshold`, `calibration/purity`, `calibration/yield` and `calibration/error` at
            `step`.

    Raises:
        ConfigError: `calibrated` asks for BLIP's two scores, and the filter has others.
        DataError: there are no two images with different captions.
        ModelError: the filter does not load, or its scores are not finite.
    """
    with tempfile.TemporaryDirectory(prefix="capfilt-calibration-", dir=work_dir) as folder:
        images = list(islice(iterate_images(human, cache_dir=Path(folder)), config.calibration.images))
        arithmetic = Arithmetic(pick_device(), config.precision)
        loaded = open_any_filter(fetch_model(filter.uri, Path(folder) / "models"), config, arithmetic)
        if config.calibrated is not None and loaded.columns != BLIP_COLUMNS:
            raise ConfigError(
                f"calibrated weighs a BLIP filter's two scores, and {filter.uri} has others: leave it out"
            )
        _check_measured(config, loaded.columns[0].name)
        with Progress(2 * len(images), "images", label) as progress:
            scores = score_pairs(loaded, images, config, progress.advance)
    said = [value for row in scores for text in (*row.right, *row.wrong) for value in text[1:] if value is not None]
    if not np.isfinite(said).all():
        raise ModelError(f"{filter.uri}: its scores are not finite: its weights are damaged, or its training diverged")
    bad_share = config.calibration.bad_share
    by_image = deciding_scores(scores, config.calibrated or "itm", config.weights, bad_share)
    right, wrong = ([score for row in side for score in row] for side in by_image[:2])
    curve = PurityCurve(right, wrong, bad_share)
    chosen, reached = choose(curve, config)
    bins, error = reliability(right, wrong, bad_share)
    calibration = Calibration(
        filter=filter.digest,
        human=human.digest,
        chosen=chosen,
        target=config.target_precision,
        reached=reached,
        curve=tuple(curve.points(GRID)),
        images=len(images),
        positives=len(right),
        negatives=len(wrong),
        bad_share=bad_share,
        score=config.calibrated or "itm",
        weights=by_image[2],
        reliability=bins,
        error=error,
        scores_uri=None if store is None else _keep_scores(store, filter, human, config, scores),
    )
    tracker.log_dataset(human, "validation")
    tracker.log_metrics(calibration.metrics, step=step)
    return calibration


def _check_measured(config: CapfiltConfig, first: str) -> None:
    """ConfigError where a threshold would be chosen by the filter's first score and applied to another."""
    if config.target_precision is not None and config.score not in (None, first):
        itc = "; of BLIP's cosine it is chosen with calibrated: itc" if first == ITM else ""
        raise ConfigError(
            f"target_precision chooses a threshold of {first}, which the filter gives first, and score asks for "
            f"{config.score}: leave score out, or set a threshold{itc}"
        )


def _keep_scores(
    store: Store, filter: ModelRef, human: DatasetRef, config: CapfiltConfig, scores: Sequence[ScoredImage]
) -> str:
    """Write the scores of all texts under a name made of what they depend on."""
    inputs = {"filter": filter.digest, "human": human.digest, "config": measured_by(config)}
    images = [row._asdict() for row in scores]
    key = f"calibrations/scores-{digest_of(inputs)[:16]}.json"
    store.write(key, json.dumps({**inputs, "images": images}, ensure_ascii=False, sort_keys=True).encode())
    return join_uri(store.uri, key)


def measured_by(config: CapfiltConfig) -> dict[str, object]:
    """The settings that a calibration depends on, as plain JSON."""
    return deciding(config, CALIBRATION)


def choose(curve: PurityCurve, config: CapfiltConfig) -> tuple[PurityPoint, bool]:
    """The threshold for the target, or the purest if none reaches it, or without a target the configured one."""
    if config.target_precision is None:
        return curve.at(config.threshold), True
    found = curve.least(config.target_precision)
    return (found, True) if found is not None else (curve.purest(), False)


def settle(config: CapfiltConfig, calibration: Calibration, filter: ModelRef | None = None) -> CapfiltConfig:
    """The config with the weights that were fitted, and with the threshold that was chosen in its target's place.

    Args:
        config: the settings.
        calibration: of the filter that will be used.
        filter: that filter.

    Raises:
        ConfigError: the calibration is another filter's.
        GateError: no threshold reaches the target, or what `calibrated` weighs tells right from wrong by nothing.
    """
    if config.calibrated is not None:
        _check_weights(config, calibration)
        config = config.model_copy(update={"weights": calibration.weights})
    if config.target_precision is None:
        return config
    if filter is not None and filter.digest != calibration.filter:
        raise ConfigError(
            f"the calibration is of filter {calibration.filter[:12]}, and {filter.uri} is {filter.digest[:12]}: a "
            "threshold belongs to one filter; measure this one"
        )
    chosen = calibration.chosen
    if not calibration.reached:
        raise GateError(
            f"no threshold of this filter reaches a precision of {config.target_precision:g} on the validation "
            f"captions ({calibration.positives} right texts, {calibration.negatives} wrong ones): the highest is "
            f"{chosen.purity:.4f}, at threshold {chosen.threshold:g}, where {chosen.yield_share:.1%} of the right "
            "texts pass. Ask for less, set a threshold instead, or give a better filter or more validation images"
        )
    logger.info(
        "threshold %g for a precision of %g: purity %.4f, yield %.4f on %d images",
        chosen.threshold,
        config.target_precision,
        chosen.purity,
        chosen.yield_share,
        calibration.images,
    )
    return config.model_copy(update={"threshold": chosen.threshold, "target_precision": None})


def _check_weights(config: CapfiltConfig, calibration: Calibration) -> None:
    """GateError where no score was of use to the regression: everything would be kept, or nothing."""
    weights = calibration.weights
    if weights is not None and max(weights.itm, weights.itc) <= 0:
        raise GateError(
            f"what the filter says does not tell {calibration.positives} right validation captions from "
            f"{calibration.negatives} wrong ones (capfilt.calibrated: {config.calibrated}): finetune it longer, give "
            "more validation images, or set a threshold of its match probability (calibrated: null)"
        )


def remembered(
    store: Store, filter: ModelRef, human: DatasetRef, config: CapfiltConfig, measure: Callable[[], Calibration]
) -> Calibration:
    """The calibration that a store keeps for these inputs, else a new one, kept from now on.

    A run that is taken up again, by another machine too, must find the very threshold it began with: rounding of the
    last digit would make it another dataset.
    """
    asked = digest_of(
        {"revision": REVISION, "filter": filter.digest, "human": human.digest, "config": measured_by(config)}
    )
    key = f"calibrations/{asked[:16]}.json"
    if not store.exists(key):
        store.write(key, measure().model_dump_json(indent=1).encode(), if_absent=True)
    return Calibration.model_validate_json(store.read(key))


# --------------------------------------------------------------------------------------------------------------- scores


def score_pairs(
    filter: AnyScorer, images: Sequence[EvalImage], config: CapfiltConfig, advance: Callable[[int], object]
) -> list[ScoredImage]:
    """The filter's first two scores (BLIP: both) of every image with its own captions and with those of lookalikes.

    Raises:
        DataError: no image has a caption that another lacks.
    """
    own = [_read(filter, image.captions) for image in images]
    texts = {text for row in own for text in row}
    if all(len(row) == len(texts) for row in own):
        raise DataError(
            f"a filter is measured on at least two images with different captions; the validation data have {len(own)} "
            f"images and {len(texts)} different captions to offer: give more"
        )
    looks = _image_features(filter, images, config, advance)
    wrong = [lookalikes_texts(looks, number, own, config.calibration.negatives) for number in range(len(images))]
    scores: list[ScoredImage] = []
    for batch in batches(len(images), config.batch_size):
        rows = with_halving(
            lambda part: list(filter.score(_squares(filter, images, part), [[*own[n], *wrong[n]] for n in part])), batch
        )
        for number, row in zip(batch, rows, strict=True):
            texts_here = [*own[number], *wrong[number]]
            said = [ScoredText(text, *score[:2]) for text, score in zip(texts_here, row, strict=True)]
            count = len(own[number])
            scores.append(ScoredImage(images[number].key, tuple(said[:count]), tuple(said[count:])))
        advance(len(batch))
    return scores


def lookalikes_texts(looks: torch.Tensor, number: int, own: Sequence[Sequence[str]], count: int) -> list[str]:
    """The first `count` captions of the images that look most like one, without those it has itself.

    Args:
        looks: ITC features `[n, d]` of all images.
        number: which image.
        own: the captions of each image.
    """
    order = (looks @ looks[number]).argsort(descending=True, stable=True).tolist()
    others = (text for index in order if index != number for text in own[index] if text not in own[number])
    return list(islice(dict.fromkeys(others), count))


def _read(filter: AnyScorer, captions: Sequence[str]) -> list[str]:
    """The different captions of an image as the filter reads them."""
    return list(dict.fromkeys(text for caption in captions if (text := filter.read(caption))))


def _image_features(
    filter: AnyScorer, images: Sequence[EvalImage], config: CapfiltConfig, advance: Callable[[int], object]
) -> torch.Tensor:
    """ITC features `[n, d]`."""
    rows: list[torch.Tensor] = []
    for batch in batches(len(images), config.batch_size):
        rows += with_halving(lambda part: list(filter.embed_images(_squares(filter, images, part))), batch)
        advance(len(batch))
    return torch.stack(rows)


def _squares(filter: AnyScorer, images: Sequence[EvalImage], numbers: Sequence[int]) -> Pixels | list[Pixels]:
    return images_of([images[number] for number in numbers], filter.size)
