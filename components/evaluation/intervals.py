"""How far metrics, and differences between two rounds, could be off by the choice of test images: a bootstrap.

Images are resampled, each with all its captions (they are no independent queries), and the same images for both rounds
(what is hard for one is hard for the other). Nothing is measured again: ranks are those in the full gallery, and CIDEr
per image has the document frequencies of the whole split. What the details of an evaluation hold suffices, so that old
runs can be compared too. All metrics here are functions of sums over images.

Intervals are BCa: corrected for bias and skewness (Efron 1987, as scipy.stats.bootstrap has it). They speak of the test
images alone: another seed of the training varies besides. On a hundred images and more they are right as often as they
say, within 2 %; on sixty, 95 % of a skewed metric are 93 %. A recall of 0 or 1 on every image has an interval of no
width, which says nothing.

Shapes: N images, R resamples, s sums, m metrics.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from components.common.errors import DataError
from components.evaluation.captions import NGRAM_ORDER, bleu_counts, combine_bleu, rouge_l
from components.evaluation.ptb import tokenize
from components.evaluation.retrieval import RECALL_AT

Floats = npt.NDArray[np.float64]
Verdict = Literal["clear", "within noise"]
Overall = Literal["clear", "mixed", "within noise"]

_DRAWS = 1 << 20  # images drawn at a time, 8 MiB
_NORMAL = NormalDist()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class IntervalConfig(_Frozen):
    """How intervals are made."""

    resamples: int = Field(default=2000, ge=100, description="times the test images are drawn anew")
    level: float = Field(
        default=0.95, gt=0.5, lt=1, description="share of test splits that an interval should be right for"
    )
    seed: int = Field(default=0, ge=0, description="seed of the draws: the same details give the same intervals")


class Interval(_Frozen):
    """A range that holds the value with the level of its config."""

    low: float = Field(description="lower end, in the metric's unit")
    high: float = Field(description="upper end")


class Estimate(_Frozen):
    """A metric of one round with its interval."""

    metric: str = Field(description="as in the tracker, `eval/…`")
    value: float = Field(description="on the whole split")
    interval: Interval = Field(description="of the value")


class Comparison(_Frozen):
    """A metric of two rounds on the same test images."""

    metric: str = Field(description="as in the tracker, `eval/…`")
    before: float = Field(description="of the round compared with")
    after: float = Field(description="of the other")
    difference: float = Field(description="after - before")
    interval: Interval = Field(description="of the difference")
    verdict: Verdict = Field(description="clear: the interval lies on one side of 0")


class ImageDetails(BaseModel):
    """What an evaluation's details say of one image; a rank of null is beyond the candidates."""

    model_config = ConfigDict(frozen=True)

    key: str
    caption: str
    references: Annotated[tuple[str, ...], Field(min_length=1)]
    cider: FiniteFloat
    text_rank: FiniteFloat | None
    image_ranks: Annotated[tuple[FiniteFloat | None, ...], Field(min_length=1)]


_IMAGES = TypeAdapter(list[ImageDetails])


@dataclass(frozen=True)
class Measured:
    """What one evaluation found, image by image in the order of their keys.

    Attributes:
        images: N of them, at least two.
        sums: per family of metrics what is added up, `[N, s]`.
    """

    images: tuple[ImageDetails, ...]
    sums: tuple[Floats, ...]


def measured(details: Mapping[str, Any]) -> Measured:
    """Read an evaluation's details (the JSON of `EvalReport.uri`).

    Raises:
        DataError: they are not an evaluation's, hold fewer than two images, or one of them twice.
    """
    try:
        images = sorted(_IMAGES.validate_python(details.get("images")), key=lambda image: image.key)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("images", *first["loc"])))
        raise DataError(
            f"these are no details of an evaluation: {place}: {first['msg']}, and {error.error_count() - 1} more; "
            "evaluate the round again"
        ) from error
    if len(images) < 2:
        raise DataError(f"an interval needs at least two test images, not {len(images)}; raise evaluation.limit")
    if len({image.key for image in images}) != len(images):
        raise DataError("the details of an evaluation hold an image twice; evaluate the round again")
    sums = tuple(np.array([family.row(image) for image in images], dtype=np.float64) for family in _FAMILIES)
    return Measured(tuple(images), sums)


def estimates(one: Measured, config: IntervalConfig) -> dict[str, Estimate]:
    """Every metric of one evaluation with its interval."""
    spread = bootstrap(_metrics, one.sums, config)
    return {
        name: Estimate(metric=name, value=float(value), interval=interval)
        for name, value, interval in zip(METRICS, spread.value, spread.intervals(config.level), strict=True)
    }


def compare(before: Measured, after: Measured, config: IntervalConfig) -> dict[str, Comparison]:
    """Every metric of two rounds, and the interval of its difference.

    Raises:
        DataError: they were not measured on the same images with the same references.
    """
    _check_same(before.images, after.images)

    def difference(sums: Sequence[Floats]) -> Floats:
        return _metrics(sums[len(_FAMILIES) :]) - _metrics(sums[: len(_FAMILIES)])

    spread = bootstrap(difference, (*before.sums, *after.sums), config)
    intervals = spread.intervals(config.level)
    old, new = (_metrics([part.sum(0) for part in one.sums]) for one in (before, after))
    return {
        name: _comparison(name, float(old[index]), float(new[index]), interval)
        for index, (name, interval) in enumerate(zip(METRICS, intervals, strict=True))
    }


def overall(comparisons: Sequence[Comparison]) -> Overall:
    """One word over several metrics.

    "clear": at least one differs beyond noise, and all that do so point the same way. "mixed": some rise and some fall
    beyond noise. Give the few metrics that decide: of twenty that do not differ, one looks clear.
    """
    signs = {comparison.difference > 0 for comparison in comparisons if comparison.verdict == "clear"}
    if not signs:
        return "within noise"
    return "clear" if len(signs) == 1 else "mixed"


def _comparison(name: str, before: float, after: float, interval: Interval) -> Comparison:
    return Comparison(
        metric=name,
        before=before,
        after=after,
        difference=after - before,
        interval=interval,
        verdict="clear" if interval.low > 0 or interval.high < 0 else "within noise",
    )


def _check_same(before: Sequence[ImageDetails], after: Sequence[ImageDetails]) -> None:
    texts, others = ({image.key: image.references for image in images} for images in (before, after))
    differing = sorted(key for key in texts.keys() | others.keys() if texts.get(key) != others.get(key))
    if differing:
        raise DataError(
            f"the two rounds were not measured on the same test images: {len(differing)} differ in key or references "
            f"(first: {', '.join(differing[:3])}); evaluate both on the same split, with the same limit"
        )


# ------------------------------------------------------------------------------------------------------------- metrics


class _Family(NamedTuple):
    """Metrics that are functions of the same sums: an image's row `[s]`, and `[…, s]` to metrics `[…, m]`."""

    metrics: tuple[str, ...]
    row: Callable[[ImageDetails], Sequence[float]]
    combine: Callable[[Floats], Floats]


def _retrieval_row(image: ImageDetails) -> list[float]:
    """Per direction the queries, and how many find their answer among the first k."""
    return [
        count
        for ranks in ((image.text_rank,), image.image_ranks)
        for count in (len(ranks), *(sum(rank is not None and rank < k for rank in ranks) for k in RECALL_AT))
    ]


def _recalls(sums: Floats) -> Floats:
    """The six recalls, and their mean."""
    width = 1 + len(RECALL_AT)
    sides = [sums[..., start + 1 : start + width] / sums[..., start, None] for start in (0, width)]
    recalls = np.concatenate(sides, axis=-1)
    return np.concatenate([recalls, recalls.mean(-1, keepdims=True)], axis=-1)


def _caption_row(image: ImageDetails) -> list[float]:
    """The image itself, its CIDEr and ROUGE-L, and its part of BLEU."""
    references, caption = [tokenize(text) for text in image.references], tokenize(image.caption)
    bleu = bleu_counts(references, caption)
    lengths = (bleu.length, bleu.reference_length)
    return [1, image.cider, rouge_l(references, caption), *bleu.matched, *bleu.made, *lengths]


def _caption_metrics(sums: Floats) -> Floats:
    """CIDEr, ROUGE-L, and corpus BLEU."""
    rows = sums[..., 3:].reshape(-1, sums.shape[-1] - 3).tolist()
    bleu = np.array([combine_bleu(row[:NGRAM_ORDER], row[NGRAM_ORDER:-2], *row[-2:]) for row in rows])
    return np.concatenate([sums[..., 1:3] / sums[..., :1], bleu.reshape(*sums.shape[:-1], -1)], axis=-1)


_RECALLS = tuple(f"eval/retrieval/{side}_recall_at_{k}" for side in ("text", "image") for k in RECALL_AT)
_BLEUS = tuple(f"eval/caption/bleu_{order}" for order in range(1, NGRAM_ORDER + 1))
_FAMILIES = (
    _Family((*_RECALLS, "eval/retrieval/mean_recall"), _retrieval_row, _recalls),
    _Family(("eval/caption/cider", "eval/caption/rouge_l", *_BLEUS), _caption_row, _caption_metrics),
)
METRICS = tuple(name for family in _FAMILIES for name in family.metrics)
"""What has intervals; distinct captions and ITC's own recall are no sums over what the details hold."""


def _metrics(sums: Sequence[Floats]) -> Floats:
    """Sums of all families, `[…, s]` each, to all metrics `[…, m]`."""
    return np.concatenate([family.combine(part) for family, part in zip(_FAMILIES, sums, strict=True)], axis=-1)


# ----------------------------------------------------------------------------------------------------------- bootstrap


class Spread(NamedTuple):
    """A statistic on all images `[m]`, on resamples of them `[R, m]`, and with one left out `[N, m]`."""

    value: Floats
    resampled: Floats
    left_out: Floats

    def intervals(self, level: float) -> list[Interval]:
        """One per metric."""
        columns = zip(self.value, self.resampled.T, self.left_out.T, strict=True)
        return [bca(float(value), resampled, left_out, level) for value, resampled, left_out in columns]


def bootstrap(
    statistic: Callable[[Sequence[Floats]], Floats], rows: Sequence[Floats], config: IntervalConfig
) -> Spread:
    """Resample images.

    Args:
        statistic: sums over images, of each of the rows `[…, s]`, to metrics `[…, m]`.
        rows: what is added up, `[N, s]` each, the same images in the same order.
        config: how often, and by which seed.
    """
    total = [part.sum(0) for part in rows]
    resampled = [statistic([weights @ part for part in rows]) for weights in _weights(len(rows[0]), config)]
    left_out = statistic([whole - part for whole, part in zip(total, rows, strict=True)])
    return Spread(statistic(total), np.concatenate(resampled), left_out)


def _weights(images: int, config: IntervalConfig) -> Iterator[Floats]:
    """How often each image is drawn in each resample, `[some of R, N]` at a time."""
    rng, size = np.random.default_rng(config.seed), max(1, _DRAWS // images)
    for start in range(0, config.resamples, size):
        count = min(size, config.resamples - start)
        drawn = rng.integers(images, size=(count, images)) + np.arange(count)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)


def bca(value: float, resampled: Floats, left_out: Floats, level: float) -> Interval:
    """The interval of a statistic: quantiles of its resamples, moved by their bias and their skewness.

    Args:
        value: on all images.
        resampled: on R resamples of them, `[R]`.
        left_out: on all but one, `[N]`.
        level: share of test splits that the interval should be right for.
    """
    below = float(np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    edge = 0.5 / len(resampled)
    bias = _NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    spread = left_out.mean() - left_out
    squares = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    def moved(share: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(share)
        return _NORMAL.cdf(bias + shifted / max(1 - acceleration * shifted, 1e-9))

    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [moved(tail), moved(1 - tail)])
    return Interval(low=float(low), high=float(high))
