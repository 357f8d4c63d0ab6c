"""Caption metrics without Java: BLEU-1..4, ROUGE-L and CIDEr, equal to pycocoevalcap's to 1e-6.

All are corpus scores over images, each with one prediction and one or more references:

- BLEU (Papineni et al. 2002): clipped n-gram precision summed over the corpus, closest reference length, no smoothing.
- ROUGE-L (Lin 2004): F-measure (beta 1.2) of the best longest-common-subsequence precision and recall, mean over
  images.
- CIDEr (Vedantam et al. 2015), the "-D" form every toolkit prints as CIDEr: tf-idf cosine of clipped n-grams with a
  Gaussian length penalty (sigma 6), document frequencies from the references at hand, times 10.

On one image CIDEr is 0 by definition: every n-gram then occurs in every document.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.common.errors import DataError
from components.common.storage import normalise_uri, open_store, split_uri
from components.evaluation.ptb import tokenize

NGRAM_ORDER = 4
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
# pycocoevalcap's guards against division by zero; they show in the digits of very short corpora, so they are kept.
_SMALL, _TINY = 1e-9, 1e-15

Ngram = tuple[str, ...]
Counts = Counter[Ngram]


def caption_metrics(references: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Score raw captions.

    Args:
        references: image id to its human captions (at least one each).
        predictions: image id to the caption made for it; the same ids.

    Returns:
        `BLEU-1` … `BLEU-4`, `ROUGE-L`, `CIDEr`: BLEU and ROUGE in 0..1, CIDEr in 0..10 (x 100 in papers).

    Raises:
        DataError: if the ids differ, or an image has no reference.
    """
    _check_ids(references, predictions)
    candidates = [tokenize(predictions[key]) for key in references]
    truths = [[tokenize(text) for text in texts] for texts in references.values()]
    return tokenized_metrics(truths, candidates)


def tokenized_metrics(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> dict[str, float]:
    """Score captions that are tokenised already: words separated by single spaces, image by image in the same order."""
    bleu = bleu_scores(references, candidates)
    metrics = {f"BLEU-{order}": score for order, score in enumerate(bleu, start=1)}
    metrics["ROUGE-L"] = _mean([rouge_l(refs, text) for refs, text in zip(references, candidates, strict=True)])
    metrics["CIDEr"] = _mean(cider_scores(references, candidates))
    return metrics


def _check_ids(references: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> None:
    if not references:
        raise DataError("no reference captions to score against: the reference set is empty")
    missing = [key for key in references if key not in predictions]
    unknown = [key for key in predictions if key not in references]
    empty = [key for key, texts in references.items() if not texts]
    for keys, what in (
        (missing, "images have references but no prediction; predict every image, or narrow the references"),
        (unknown, "predictions are of images without references; check that both files speak of the same split"),
        (empty, "images have an empty list of references"),
    ):
        if keys:
            raise DataError(f"{len(keys)} {what} (first: {', '.join(map(str, keys[:3]))})")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _ngrams(words: Sequence[str]) -> list[Counts]:
    """Counts of n-grams, one counter per order 1..4."""
    return [
        Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
        for order in range(1, NGRAM_ORDER + 1)
    ]


# ---------------------------------------------------------------------------------------------------------------- BLEU


class BleuCounts(NamedTuple):
    """What corpus BLEU adds up over images, per n-gram order 1 … 4: n-grams matched and made; and the two lengths."""

    matched: tuple[int, ...]
    made: tuple[int, ...]
    length: int
    reference_length: int


def bleu_scores(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """Corpus BLEU-1 … BLEU-4."""
    counts = [bleu_counts(refs, text) for refs, text in zip(references, candidates, strict=True)]
    matched, made = ([sum(order) for order in zip(*(one[index] for one in counts), strict=True)] for index in (0, 1))
    return combine_bleu(matched, made, sum(one.length for one in counts), sum(one.reference_length for one in counts))


def bleu_counts(references: Sequence[str], candidate: str) -> BleuCounts:
    """One image's part of corpus BLEU."""
    words, ref_words = candidate.split(), [ref.split() for ref in references]
    # The closest reference length; of two equally close, the shorter.
    reference_length = min((abs(len(ref) - len(words)), len(ref)) for ref in ref_words)[1]
    ref_counts, own = [_ngrams(ref) for ref in ref_words], _ngrams(words)
    matched = tuple(
        sum(min(count, max(ref[index][gram] for ref in ref_counts)) for gram, count in counts.items())
        for index, counts in enumerate(own)
    )
    return BleuCounts(matched, tuple(counts.total() for counts in own), len(words), reference_length)


def combine_bleu(
    matched: Sequence[float], made: Sequence[float], length: float, reference_length: float
) -> list[float]:
    """BLEU-1 … BLEU-4 of what the images add up to."""
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order in range(NGRAM_ORDER):
        product *= (matched[order] + _TINY) / (made[order] + _SMALL)
        scores.append(product ** (1 / (order + 1)) * brevity)
    return scores


# ------------------------------------------------------------------------------------------------------------- ROUGE-L


def rouge_l(references: Sequence[str], candidate: str) -> float:
    """ROUGE-L of one caption: best precision and best recall over all references."""
    # Not `.split()`: the reference implementation counts an empty caption as one empty word.
    words = candidate.split(" ")
    common = [(_common_length(words, ref.split(" ")), len(ref.split(" "))) for ref in references]
    precision = max(length for length, _ in common) / len(words)
    recall = max(length / total for length, total in common)
    if precision == 0 or recall == 0:
        return 0.0
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


# --------------------------------------------------------------------------------------------------------------- CIDEr


class _Vector:
    """tf-idf weights of one caption per n-gram order, with their norms."""

    def __init__(self, counts: Sequence[Counts], documents: Counts, log_images: float) -> None:
        self.weights = [
            {gram: count * (log_images - math.log(max(1, documents[gram]))) for gram, count in order.items()}
            for order in counts
        ]
        self.norms = [math.sqrt(sum(weight * weight for weight in order.values())) for order in self.weights]
        # The reference implementation measures length in bigrams: one less than the words, and 0 for one word.
        self.length = counts[1].total()

    def similarity(self, reference: "_Vector") -> float:
        """Mean over orders of the clipped cosine, damped by the difference in length."""
        total = 0.0
        for mine, theirs, norm, other_norm in zip(
            self.weights, reference.weights, self.norms, reference.norms, strict=True
        ):
            if norm and other_norm:
                dot = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
                total += dot / (norm * other_norm)
        difference = self.length - reference.length
        return total / NGRAM_ORDER * math.exp(-(difference**2) / (2 * CIDER_SIGMA**2))


def cider_scores(references: Sequence[Sequence[str]], candidates: Sequence[str]) -> list[float]:
    """CIDEr(-D) of every image; idf over the references given."""
    ref_counts = [[_ngrams(ref.split()) for ref in refs] for refs in references]
    documents: Counts = Counter()
    for image in ref_counts:
        documents.update({gram for counts in image for order in counts for gram in order})
    log_images = math.log(len(references))
    scores = []
    for text, image in zip(candidates, ref_counts, strict=True):
        vector = _Vector(_ngrams(text.split()), documents, log_images)
        scores.append(10 * _mean([vector.similarity(_Vector(counts, documents, log_images)) for counts in image]))
    return scores


# ------------------------------------------------------------------------------------------------------------- loading


def load_references(uri: str) -> dict[str, list[str]]:
    """Human captions by image id from COCO captions JSON, or the Karpathy list (`image_id`/`image`, `caption`).

    Raises:
        DataError: if the file is not JSON or of neither shape; the message says what was found.
    """
    data = _read_json(uri, "reference captions")
    rows = data.get("annotations") if isinstance(data, dict) and "annotations" in data else data
    if isinstance(rows, dict):
        rows = [{"image_id": key, "caption": value} for key, value in rows.items()]
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{uri}: not COCO captions: expected an object with a non-empty `annotations` list of "
            f'{{"image_id": …, "caption": …}}; found {_describe(data)}'
        )
    references: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        key, captions = _row(uri, number, row)
        references.setdefault(key, []).extend(captions)
    return references


def load_predictions(uri: str) -> dict[str, str]:
    """Captions by image id from a COCO results JSON: a list of `{"image_id", "caption"}`, one per image.

    Raises:
        DataError: if the file is not that, or has two captions for one image.
    """
    data = _read_json(uri, "predictions")
    rows = [{"image_id": key, "caption": value} for key, value in data.items()] if isinstance(data, dict) else data
    if isinstance(data, dict) and "annotations" in data:
        raise DataError(f"{uri}: this is a COCO annotation file; predictions are a list of {{image_id, caption}}")
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{uri}: not a COCO results file: expected a non-empty list of "
            f'{{"image_id": …, "caption": …}}; found {_describe(data)}'
        )
    predictions: dict[str, str] = {}
    for number, row in enumerate(rows):
        key, captions = _row(uri, number, row)
        if key in predictions or len(captions) != 1:
            raise DataError(f"{uri}: image {key} has more than one prediction (row {number}); keep one per image")
        predictions[key] = captions[0]
    return predictions


def _read_json(uri: str, what: str) -> Any:
    folder, name = split_uri(normalise_uri(uri))
    data = open_store(folder).read(name)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{uri}: the {what} are not valid JSON ({error})") from None


def _row(uri: str, number: int, row: Any) -> tuple[str, list[str]]:
    key = row.get("image_id", row.get("image")) if isinstance(row, dict) else None
    caption = row.get("caption") if isinstance(row, dict) else None
    captions = [caption] if isinstance(caption, str) else caption
    well_formed = isinstance(captions, list) and bool(captions) and all(isinstance(text, str) for text in captions)
    if not isinstance(key, (str, int)) or isinstance(key, bool) or not well_formed:
        raise DataError(f"{uri}: row {number} lacks an `image_id` or a `caption`: {json.dumps(row)[:120]}")
    return str(key), list(captions or [])


def _describe(data: Any) -> str:
    if isinstance(data, dict):
        return f"an object with keys {', '.join(map(repr, list(data)[:5])) or '(none)'}"
    return f"an empty {type(data).__name__}" if data in ([], "", None) else f"a {type(data).__name__}"
