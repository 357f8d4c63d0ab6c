"""What CapFilt did to a dataset: noise ratios, and, where the truth is known, how right its decisions were.

Reads the candidate tables of a sealed dataset (one row per caption considered). Truth is a parquet of its own (`key`,
`kind`, and `scene` on the sample world), used here and nowhere else: nothing that trains or filters reads it.
"""

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.common.contracts import ScoreWeights
from components.common.errors import DataError
from components.common.storage import normalise_uri, open_store, split_uri
from components.data.candidates import Candidate, deciding_score
from components.data.sampleworld import Judgement, Scene, judge_caption

REVISION = 3
MATCH = "match"
UNKNOWN_KINDS = frozenset(["cc12m", "unknown"])  # real pairs nobody judged: not scored
REJECTED = frozenset(["below_threshold", "below_band", "coin"])  # the filter's own no
NOT_WRITTEN = "not_written"  # a caption that a cascade did without: there is no text
OUTVOTED = frozenset(["not_best", "not_needed"])  # the filter's yes, undone by the policy


@dataclass(frozen=True)
class Truth:
    """What is known of one web image: the kind of its web text and, if it was drawn, its scene."""

    kind: str
    scene: Scene | None = None


def filter_verdict(row: Candidate) -> bool | None:
    """What the filter said of a caption: True or False, or None where something else decided (duplicate, failed …)."""
    if row.kept or row.reason in OUTVOTED:
        return True
    return False if row.reason in REJECTED else None


def load_truth(uri: str) -> dict[str, Truth]:
    """Truth by sample key.

    Raises:
        DataError: if the file is not a truth table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, name = split_uri(normalise_uri(uri))
    data = open_store(folder).read(name)
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        return {
            row["key"]: Truth(row["kind"], Scene.from_json(row["scene"]) if row.get("scene") else None) for row in rows
        }
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{uri} is not a truth table with columns `key`, `kind` (and `scene`): {error!r}") from error


def noise_metrics(candidates: Iterable[Candidate]) -> dict[str, float]:
    """Share of web and of synthetic texts that the filter rejected (the paper's noise ratio), and counts.

    A share is absent where the filter judged no text of that source.
    """
    counts: Counter[str] = Counter()
    for row in candidates:
        verdict = filter_verdict(row)
        counts["kept_pairs" if row.kept else "dropped_pairs"] += 1
        counts[f"kept_{row.source}"] += row.kept
        if verdict is not None:
            counts[f"judged_{row.source}"] += 1
            counts[f"rejected_{row.source}"] += not verdict
    metrics = {
        f"capfilt/{name}": float(counts[name]) for name in ("kept_pairs", "dropped_pairs", "kept_web", "kept_synthetic")
    }
    for source in ("web", "synthetic"):
        if judged := counts[f"judged_{source}"]:
            metrics[f"capfilt/noise_ratio_{source}"] = counts[f"rejected_{source}"] / judged
    return metrics


def score_against_truth(
    candidates: Iterable[Candidate], truth: Mapping[str, Truth], weights: ScoreWeights | None = None
) -> dict[str, float]:
    """How right the filter and the captioner were.

    Args:
        candidates: all captions that were considered.
        truth: by sample key.
        weights: how ITM and ITC were weighed, if they were: scores are what decided.

    Returns (each only where there is something to count):
        `truth/filter_precision`, `filter_recall`, `filter_auc`: on web texts; right ones are of kind `match`.
        `truth/rejected/<kind>`: share of the wrong texts of a kind that the filter rejected.
        `truth/auc/<kind>`: ROC-AUC of scores, `match` against that kind.
        `truth/web_true_before`, `web_true`: share of right web texts before and after the filter.
        `truth/synthetic_true_before`, `synthetic_true`: share of the synthetic captions, of all and of
            the kept ones, that is true of the image (sample world).
        `truth/web_facts_right_before`, `web_facts_right`, `truth/synthetic_facts_right_before`,
            `synthetic_facts_right`: mean share of a text's claims (a colour, shape, size, texture, place, relation …)
            that hold (sample world), before and after the filter; texts that claim nothing do not count.
        `truth/facts_right_by_chance`: the same of synthetic captions that are judged by another image each.
        `truth/synthetic_recall`: share of the true synthetic captions that the filter accepted.
        `truth/pairs_true`: share of true texts among all kept ones (sample world); before: `web_true_before`.

    Raises:
        DataError: if no candidate's key is in the truth table.
    """
    rows = [row for row in candidates if row.reason != NOT_WRITTEN]
    known = [row for row in rows if row.key in truth]
    if rows and not known:
        raise DataError("no caption's key is in the truth table: it belongs to other web data")
    web = [row for row in known if row.source == "web" and truth[row.key].kind not in UNKNOWN_KINDS]
    metrics = _web_metrics(web, [truth[row.key].kind for row in web], weights)
    drawn = [(row, judge_caption(scene, row.text)) for row in known if (scene := truth[row.key].scene)]
    synthetic = [(row, verdict.true) for row, verdict in drawn if row.source == "synthetic"]
    metrics |= _synthetic_metrics(synthetic)
    metrics |= _facts_right("web", drawn) | _facts_right("synthetic", drawn)
    metrics |= _facts_by_chance([(row, scene) for row, _ in synthetic if (scene := truth[row.key].scene)])
    if synthetic and web:
        kept = [truth[row.key].kind == MATCH for row in web if row.kept]
        kept += [true for row, true in synthetic if row.kept]
        metrics |= _share("truth/pairs_true", kept)
    return metrics


def _share(name: str, flags: Sequence[bool]) -> dict[str, float]:
    return {name: sum(flags) / len(flags)} if flags else {}


def _web_metrics(web: Sequence[Candidate], kinds: Sequence[str], weights: ScoreWeights | None) -> dict[str, float]:
    judged = [
        (row, kind, verdict)
        for row, kind in zip(web, kinds, strict=True)
        if (verdict := filter_verdict(row)) is not None
    ]
    metrics = _share("truth/web_true_before", [kind == MATCH for kind in kinds])
    metrics |= _share("truth/web_true", [kind == MATCH for row, kind in zip(web, kinds, strict=True) if row.kept])
    metrics |= _share("truth/filter_precision", [kind == MATCH for _, kind, verdict in judged if verdict])
    metrics |= _share("truth/filter_recall", [verdict for _, kind, verdict in judged if kind == MATCH])
    scored = [(score, kind) for row, kind, _ in judged if (score := deciding_score(row, weights)) is not None]
    scores, labels = np.array([score for score, _ in scored]), np.array([kind for _, kind in scored])
    metrics |= _auc("truth/filter_auc", scores, labels == MATCH)
    for wrong in sorted(set(kinds) - {MATCH}):
        metrics |= _share(f"truth/rejected/{wrong}", [not verdict for _, kind, verdict in judged if kind == wrong])
        chosen = np.isin(labels, [MATCH, wrong])
        metrics |= _auc(f"truth/auc/{wrong}", scores[chosen], labels[chosen] == MATCH)
    return metrics


def _synthetic_metrics(pairs: Sequence[tuple[Candidate, bool]]) -> dict[str, float]:
    metrics = _share("truth/synthetic_true_before", [true for _, true in pairs])
    metrics |= _share("truth/synthetic_true", [true for row, true in pairs if row.kept])
    judged = [(verdict, true) for row, true in pairs if (verdict := filter_verdict(row)) is not None]
    return metrics | _share("truth/synthetic_recall", [verdict for verdict, true in judged if true])


def _facts_right(source: str, drawn: Sequence[tuple[Candidate, Judgement]]) -> dict[str, float]:
    """Mean share of claims that hold: of all texts of a source, and of those that the filter accepted."""
    shares = [(row, verdict.share) for row, verdict in drawn if row.source == source]
    known = [(row, share) for row, share in shares if share is not None]
    metrics = _mean(f"truth/{source}_facts_right_before", [share for _, share in known])
    return metrics | _mean(f"truth/{source}_facts_right", [share for row, share in known if filter_verdict(row)])


def _facts_by_chance(drawn: Sequence[tuple[Candidate, Scene]]) -> dict[str, float]:
    """Every text judged by the image of the next one."""
    others = [*drawn[1:], *drawn[:1]]
    shares = (judge_caption(scene, row.text).share for (row, _), (_, scene) in zip(drawn, others, strict=True))
    return _mean("truth/facts_right_by_chance", [share for share in shares if share is not None])


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: math.fsum(values) / len(values)} if values else {}


def _auc(name: str, scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> dict[str, float]:
    area = roc_auc(scores, positive)
    return {} if area is None else {name: area}


def roc_auc(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; None without both classes. Both [N]."""
    right, wrong = int(positive.sum()), int((~positive).sum())
    if not right or not wrong:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((middle_ranks[inverse][positive].sum() - right * (right + 1) / 2) / (right * wrong))
