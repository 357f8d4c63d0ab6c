"""Intervals of metrics, and of differences between two rounds: the paired bootstrap over what an evaluation has kept.

Images are resampled, each with all its captions or questions (they are no independent ones), and the same images for
both rounds (what is hard for one is hard for the other). Nothing is measured again: ranks are those in the full
gallery, and CIDEr per image has the document frequencies of the whole split. What the details of an evaluation hold
suffices, so that old runs can be compared too. All metrics here are functions of sums over images
(components/common/resampling.py).

Shapes: N images, s sums, m metrics.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from components.common.contracts import Comparison, Interval, Uncertainty
from components.common.errors import DataError
from components.common.resampling import Floats, IntervalConfig, bootstrap
from components.common.storage import open_store, split_uri
from components.evaluation.captions import NGRAM_ORDER, bleu_counts, combine_bleu, rouge_l
from components.evaluation.ptb import tokenize
from components.evaluation.retrieval import RECALL_AT
from components.evaluation.vqa import ANY, OFFICIAL, accuracy, hit, metric_of_kind


class ImageDetails(BaseModel):
    """What an evaluation's details say of one image; a rank of null is beyond the candidates."""

    model_config = ConfigDict(frozen=True)

    key: str
    references: Annotated[tuple[str, ...], Field(min_length=1)]
    text_rank: FiniteFloat | None
    image_ranks: Annotated[tuple[FiniteFloat | None, ...], Field(min_length=1)]

    @property
    def truth(self) -> tuple[Any, ...]:
        """What it was measured against."""
        return self.references


class CaptionedImage(ImageDetails):
    """The same, where a caption was written too."""

    caption: str
    cider: FiniteFloat


class Answered(BaseModel):
    """A question about an image, its answer, and those of the annotators."""

    model_config = ConfigDict(frozen=True)

    key: str
    question: str
    kind: str
    answer: str
    answers: tuple[str, ...]


class AskedImage(NamedTuple):
    """All questions about one image: they are no independent ones."""

    key: str
    questions: tuple[Answered, ...]

    @property
    def truth(self) -> tuple[Any, ...]:
        """What it was measured against."""
        return tuple(sorted((one.question, one.kind, one.answers) for one in self.questions))


AnyImage = ImageDetails | AskedImage
_IMAGES = TypeAdapter(list[CaptionedImage])
_BARE_IMAGES = TypeAdapter(list[ImageDetails])
_QUESTIONS = TypeAdapter(list[Answered])


@dataclass(frozen=True)
class Measured:
    """What one evaluation found, image by image in the order of their keys.

    Attributes:
        images: N of them, at least two.
        families: the metrics that follow from them.
        sums: per family what is added up, `[N, s]`.
    """

    images: tuple[AnyImage, ...]
    families: "tuple[_Family, ...]"
    sums: tuple[Floats, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Its metrics."""
        return tuple(name for family in self.families for name in family.metrics)

    def metrics(self, sums: Sequence[Floats]) -> Floats:
        """Sums of all families, `[…, s]` each, to all metrics `[…, m]`."""
        return np.concatenate([one.combine(part) for one, part in zip(self.families, sums, strict=True)], axis=-1)


def read_measured(uri: str) -> Measured:
    """The details of an evaluation, of a round's, a base model's or of answers, from where they are kept.

    Raises:
        StorageError: they are not there.
        DataError: they are not an evaluation's, or too few.
    """
    folder, name = split_uri(uri)
    try:
        return measured(json.loads(open_store(folder).read(name)))
    except ValueError as error:
        raise DataError(f"{uri} is no JSON ({error}); evaluate the round again") from error


def measured(details: Mapping[str, Any]) -> Measured:
    """Read an evaluation's details (the JSON of `EvalReport.uri`).

    Raises:
        DataError: they are not an evaluation's, hold fewer than two images, or one of them twice.
    """
    images = sorted(_images_of(details), key=lambda image: image.key)
    if len(images) < 2:
        raise DataError(f"an interval needs at least two test images, not {len(images)}; raise evaluation.limit")
    if len({image.key for image in images}) != len(images):
        raise DataError("the details of an evaluation hold an image twice; evaluate the round again")
    families = _families_of(details, images)
    sums = tuple(np.array([family.row(image) for image in images], dtype=np.float64) for family in families)
    return Measured(tuple(images), families, sums)


def _images_of(details: Mapping[str, Any]) -> list[Any]:
    """What is kept, image by image."""
    if "questions" not in details:
        return _read(_BARE_IMAGES if "base" in details else _IMAGES, details, "images")
    asked: dict[str, list[Answered]] = {}
    for one in _read(_QUESTIONS, details, "questions"):
        asked.setdefault(one.key, []).append(one)
    return [AskedImage(key, tuple(questions)) for key, questions in asked.items()]


def _read(form: TypeAdapter[Any], details: Mapping[str, Any], part: str) -> list[Any]:
    try:
        found: list[Any] = form.validate_python(details.get(part))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, (part, *first["loc"])))
        raise DataError(
            f"these are no details of an evaluation: {place}: {first['msg']}, and {error.error_count() - 1} more; "
            "evaluate the round again"
        ) from error
    return found


def estimates(one: Measured, config: IntervalConfig) -> dict[str, Interval]:
    """The interval of every metric of one evaluation."""
    spread = bootstrap(one.metrics, one.sums, config)
    return dict(zip(one.names, spread.intervals(config.level), strict=True))


def compare(before: Measured, after: Measured, config: IntervalConfig) -> dict[str, Comparison]:
    """Every metric of two rounds, and the interval of its difference.

    Raises:
        DataError: they were not measured on the same images with the same references.
    """
    _check_same(before.images, after.images)

    def difference(sums: Sequence[Floats]) -> Floats:
        return after.metrics(sums[len(before.sums) :]) - before.metrics(sums[: len(before.sums)])

    spread = bootstrap(difference, (*before.sums, *after.sums), config)
    intervals = spread.intervals(config.level)
    old, new = (one.metrics([part.sum(0) for part in one.sums]) for one in (before, after))
    return {
        name: _comparison(name, float(old[index]), float(new[index]), interval)
        for index, (name, interval) in enumerate(zip(after.names, intervals, strict=True))
    }


def uncertainty(parts: Sequence[tuple[Measured, Measured | None]], config: IntervalConfig) -> Uncertainty:
    """What is known of a round: each evaluation of it, with the same of round 0 (None: it is round 0).

    Raises:
        DataError: round 0 was measured on other images.
    """
    values: dict[str, Interval] = {}
    changes: dict[str, Comparison] = {}
    for one, first in parts:
        values |= estimates(one, config)
        changes |= {} if first is None else compare(first, one, config)
    return Uncertainty(level=config.level, values=values, changes=changes)


def _comparison(name: str, before: float, after: float, interval: Interval) -> Comparison:
    return Comparison(
        metric=name,
        before=before,
        after=after,
        difference=after - before,
        interval=interval,
        verdict="clear" if interval.beyond_noise else "within noise",
    )


def _check_same(before: Sequence[AnyImage], after: Sequence[AnyImage]) -> None:
    truths, others = ({image.key: image.truth for image in images} for images in (before, after))
    differing = sorted(key for key in truths.keys() | others.keys() if truths.get(key) != others.get(key))
    if differing:
        raise DataError(
            f"the two rounds were not measured on the same test images: {len(differing)} differ in key, references "
            f"or questions (first: {', '.join(differing[:3])}); evaluate both on the same split, with the same limit"
        )


# ------------------------------------------------------------------------------------------------------------- metrics


class _Family(NamedTuple):
    """Metrics that are functions of the same sums: an image's row `[s]`, and `[…, s]` to metrics `[…, m]`."""

    metrics: tuple[str, ...]
    row: Callable[[Any], Sequence[float]]
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


def _caption_row(image: CaptionedImage) -> list[float]:
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


def _answers(images: Sequence[AskedImage]) -> _Family:
    """Accuracies of these answers: over all questions, and by kind where enough images have one of the kind."""
    asked = Counter(name for image in images for name in {metric_of_kind(one.kind) for one in image.questions} if name)
    kinds = tuple(sorted(name for name, count in asked.items() if count >= _IMAGES_OF_A_KIND))

    def row(image: AskedImage) -> list[float]:
        marks = [(metric_of_kind(one.kind), accuracy(one.answer, one.answers)) for one in image.questions]
        hits = sum(hit(one.answer, one.answers) for one in image.questions)
        own = [[mark for kind, mark in marks if kind == name] for name in kinds]
        counts = (len(marks), *map(len, own))
        return [*counts, math.fsum(mark for _, mark in marks), *map(math.fsum, own), hits]

    def combine(sums: Floats) -> Floats:
        counts, marks, hits = np.split(sums, (1 + len(kinds), 2 + 2 * len(kinds)), axis=-1)
        # Thirds and tenths add up inexactly, and draws that tie count: what is equal must be so to the last digit.
        return np.round(np.concatenate([marks / counts, hits / counts[..., :1]], axis=-1), 12)

    return _Family((OFFICIAL, *kinds, ANY), row, combine)


def _families_of(details: Mapping[str, Any], images: Sequence[Any]) -> tuple[_Family, ...]:
    if "questions" in details:
        return (_answers(images),)
    return (_BASE,) if "base" in details else _FAMILIES


_IMAGES_OF_A_KIND = 30  # so that no draw of the images is without a question of the kind
_RECALLS = tuple(f"eval/retrieval/{side}_recall_at_{k}" for side in ("text", "image") for k in RECALL_AT)
_BLEUS = tuple(f"eval/caption/bleu_{order}" for order in range(1, NGRAM_ORDER + 1))
_FAMILIES = (
    _Family((*_RECALLS, "eval/retrieval/mean_recall"), _retrieval_row, _recalls),
    _Family(("eval/caption/cider", "eval/caption/rouge_l", *_BLEUS), _caption_row, _caption_metrics),
)
_BASE = _Family(
    tuple(name.replace("eval/retrieval/", "base/") for name in _FAMILIES[0].metrics), _retrieval_row, _recalls
)
METRICS = tuple(name for family in _FAMILIES for name in family.metrics)
"""What of captions and retrieval has intervals; distinct captions and ITC's recall are no sums of what is kept."""
