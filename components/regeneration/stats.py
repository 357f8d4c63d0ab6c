"""What a run reports, counted per shard from the candidate tables: a resumed run reports what a whole one does."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from components.common.contracts import ScoreWeights
from components.data.candidates import Candidate
from components.data.records import Counts
from components.regeneration.guard import CaptionStats, CaptionTotals, caption_stats
from components.regeneration.policy import COIN, DUPLICATE, weigh
from components.regeneration.texts import UNUSABLE


@dataclass(frozen=True)
class SourceStats:
    """Captions of one source: how many the filter judged, rejected and how many were kept."""

    judged: int = 0
    rejected: int = 0
    kept: int = 0

    @property
    def noise_ratio(self) -> float | None:
        """Share rejected by the filter (paper, table 2); None if it judged none."""
        return self.rejected / self.judged if self.judged else None


@dataclass(frozen=True)
class ShardStats:
    """Figures of one shard, or of all."""

    web: SourceStats
    synthetic: SourceStats
    captions: CaptionStats
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Good images without a usable web text, by reason."""

    def figures(self) -> dict[str, float]:
        """Flat names and values for the commit record and the tracker."""
        values: dict[str, float | None] = {
            "noise_ratio_web": self.web.noise_ratio,
            "noise_ratio_synthetic": self.synthetic.noise_ratio,
            "kept_web": self.web.kept,
            "kept_synthetic": self.synthetic.kept,
            "distinct_1": self.captions.distinct_1,
            "distinct_2": self.captions.distinct_2,
            "top_caption_share": self.captions.top_share,
            "mean_length": self.captions.mean_words,
        }
        return {name: round(float(value), 6) for name, value in values.items() if value is not None}


def shard_stats(
    rows: Iterable[Candidate], threshold: float, *, weights: ScoreWeights | None = None, by_coin: bool = False
) -> ShardStats:
    """Count the candidate rows of one shard that were decided by this threshold of their scores, or by a coin."""
    rows = list(rows)
    captions = [row.text for row in rows if row.source == "synthetic"]
    web, synthetic = (_of_source(rows, source, threshold, weights, by_coin) for source in ("web", "synthetic"))
    unusable = Counter(row.reason for row in rows if row.source == "web" and row.reason in UNUSABLE)
    return ShardStats(web, synthetic, caption_stats(captions), unusable)


def _of_source(
    rows: Sequence[Candidate], source: str, threshold: float, weights: ScoreWeights | None, by_coin: bool
) -> SourceStats:
    judged = [
        row for row in rows if row.source == source and row.itm_probability is not None and row.reason != DUPLICATE
    ]
    rejected = sum(row.reason == COIN if by_coin else _score(row, weights) < threshold for row in judged)
    return SourceStats(len(judged), rejected, sum(row.kept for row in rows if row.source == source))


def _score(row: Candidate, weights: ScoreWeights | None) -> float:
    weighed = weigh(row.itm_probability, row.itc_similarity, weights)
    return (row.itm_probability or 0.0) if weighed is None else weighed


class Totals:
    """All shards so far, added up one by one: bookkeeping of one more costs the same after ten as after 100,000."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._sources = {"web": SourceStats(), "synthetic": SourceStats()}
        self._captions = CaptionTotals()
        self._unusable = Counter[str]()

    def add(self, stats: ShardStats, counts: Counts) -> None:
        """One more shard."""
        self.counts = Counts.total([self.counts, counts])
        for source, before in self._sources.items():
            more: SourceStats = getattr(stats, source)
            self._sources[source] = SourceStats(
                before.judged + more.judged, before.rejected + more.rejected, before.kept + more.kept
            )
        self._captions.add(stats.captions)
        self._unusable.update(stats.unusable)

    @property
    def stats(self) -> ShardStats:
        """The figures of all of them."""
        return ShardStats(**self._sources, captions=self._captions.stats(), unusable=dict(self._unusable))


def run_metrics(stats: ShardStats, counts: Counts, seconds: float, done: int) -> dict[str, float]:
    """Totals as MLflow names; `done` samples were worked on in `seconds` (resumed ones excluded)."""
    metrics = {f"capfilt/{name}": value for name, value in stats.figures().items()}
    metrics |= {
        "capfilt/images_in": float(counts.samples),
        "capfilt/images_kept": float(counts.kept),
        "capfilt/dropped": float(counts.dropped),
        "capfilt/failed": float(sum(counts.failed.values())),
        "capfilt/kept_pairs": float(counts.kept_pairs),
        "capfilt/dropped_pairs": float(counts.dropped_pairs),
    }
    metrics |= {f"capfilt/failed_{reason}": float(count) for reason, count in counts.failed.items()}
    metrics |= {f"capfilt/web_{reason}": float(count) for reason, count in stats.unusable.items()}
    if done and seconds > 0:
        metrics["capfilt/images_per_second"] = done / seconds
    return metrics
