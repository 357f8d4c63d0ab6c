"""What a run reports, counted per shard from the candidate tables: a resumed run reports what a whole one does."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.data.candidates import Candidate, kept_weight
from components.data.records import KEPT_WEIGHT, Counts
from components.regeneration.band import CascadeStats
from components.regeneration.guard import CaptionStats, CaptionTotals, caption_stats
from components.regeneration.outcomes import NOT_OK
from components.regeneration.policy import COIN, DUPLICATE, NOT_WRITTEN, Text
from components.regeneration.textfilters import FILTERED
from components.regeneration.texts import UNUSABLE, text_of


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
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Captions that were not ok, by outcome."""
    filtered: Mapping[str, int] = field(default_factory=dict)
    """Texts that a text filter dropped, by reason."""
    weight: float | None = None
    """Sum of the weights of what was kept, where not all are 1."""
    cascade: CascadeStats | None = None
    """What a cascade left out, where there is one."""

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
        values |= {f"caption_{name}": count for name, count in sorted(self.outcomes.items())}
        values |= {} if self.cascade is None else self.cascade.figures()
        values |= dict(sorted(self.filtered.items()))
        return {name: round(float(value), 6) for name, value in values.items() if value is not None} | (
            {} if self.weight is None else {KEPT_WEIGHT: round(self.weight, 6)}
        )


Accepts = Callable[[Sequence[Text]], list[bool]]
"""Which texts of an image pass, as the run's settings say."""


def shard_stats(
    rows: Iterable[Candidate], threshold: float, *, by_coin: bool = False, accepts: Accepts | None = None
) -> ShardStats:
    """Count the candidate rows of one shard that were decided by this threshold, by a coin, or by other rules."""
    rows = list(rows)
    captions = [row.text for row in rows if _is_caption(row)]
    web, synthetic = (_of_source(rows, source, threshold, by_coin, accepts) for source in ("web", "synthetic"))
    unusable = Counter(row.reason for row in rows if row.source == "web" and row.reason in UNUSABLE)
    outcomes = Counter(row.outcome for row in rows if row.outcome in NOT_OK)
    filtered = Counter(row.reason for row in rows if row.reason in FILTERED)
    weight = kept_weight(rows)
    return ShardStats(web, synthetic, caption_stats(captions), unusable, dict(outcomes), dict(filtered), weight)


def _is_scored(row: Candidate) -> bool:
    return row.itm_probability is not None or row.itc_similarity is not None or bool(row.others)


def _is_caption(row: Candidate) -> bool:
    """Whether a row is a caption that was written, and is one."""
    return row.source == "synthetic" and row.outcome in (None, "ok") and row.reason != NOT_WRITTEN


def _of_source(
    rows: Sequence[Candidate], source: str, threshold: float, by_coin: bool, accepts: Accepts | None
) -> SourceStats:
    judged = [row for row in rows if row.source == source and _is_scored(row) and row.reason != DUPLICATE]
    if accepts is not None and not by_coin:
        rejected = len(judged) - sum(accepts([text_of(row) for row in judged]))
    else:
        rejected = sum(row.reason == COIN if by_coin else (row.itm_probability or 0.0) < threshold for row in judged)
    return SourceStats(len(judged), rejected, sum(row.kept for row in rows if row.source == source))


class Totals:
    """All shards so far, added up one by one: bookkeeping of one more costs the same after ten as after 100,000."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._sources = {"web": SourceStats(), "synthetic": SourceStats()}
        self._captions = CaptionTotals()
        self._unusable = Counter[str]()
        self._outcomes = Counter[str]()
        self._filtered = Counter[str]()
        self._weight: float | None = None
        self._cascade: CascadeStats | None = None

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
        self._outcomes.update(stats.outcomes)
        if stats.cascade is not None:
            self._cascade = (self._cascade or CascadeStats()) + stats.cascade
        self._filtered.update(stats.filtered)
        if stats.weight is not None or self._weight is not None:
            so_far = self.counts.kept_pairs - counts.kept_pairs if self._weight is None else self._weight
            self._weight = so_far + (counts.kept_pairs if stats.weight is None else stats.weight)

    @property
    def stats(self) -> ShardStats:
        """The figures of all of them."""
        more: dict[str, Any] = {
            "unusable": dict(self._unusable),
            "outcomes": dict(self._outcomes),
            "filtered": dict(self._filtered),
            "weight": self._weight,
            "cascade": self._cascade,
        }
        return ShardStats(**self._sources, captions=self._captions.stats(), **more)  # type: ignore[arg-type]


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
