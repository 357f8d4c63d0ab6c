"""The collapse guard: generic captions are found while they are made, not after the next pre-training.

A captioner that has collapsed says the same few things about every image, and a filter trained on the same data may
well accept them. The statistics here are per shard; totals merge them without keeping the captions.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from components.common.errors import GateError

_TOP = 50  # most frequent captions remembered per shard; the total's top share is exact where its caption is among them


class GuardConfig(BaseModel):
    """Limits beyond which synthetic captions count as collapsed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_top_caption_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="largest share that one caption may have of all synthetic captions; 1 = off",
    )
    min_distinct_2: float = Field(
        default=0.0, ge=0, le=1, description="smallest share of different word pairs among all word pairs; 0 = off"
    )
    min_mean_words: float = Field(default=0.0, ge=0, description="smallest mean caption length in words; 0 = off")
    min_captions: int = Field(default=100, ge=1, description="captions needed before anything is judged")


class CaptionStats(BaseModel):
    """How varied a set of captions is. Counts only, so that shards add up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions: int = Field(default=0, description="synthetic captions")
    words: int = Field(default=0, description="words in them")
    different_words: int = Field(default=0, description="different words, counted per shard")
    pairs: int = Field(default=0, description="neighbouring word pairs")
    different_pairs: int = Field(default=0, description="different word pairs, counted per shard")
    top: tuple[tuple[str, int], ...] = Field(default=(), description="most frequent captions and how often")

    @property
    def distinct_1(self) -> float:
        """Different words per word, within shards."""
        return self.different_words / self.words if self.words else 0.0

    @property
    def distinct_2(self) -> float:
        """Different word pairs per word pair, within shards."""
        return self.different_pairs / self.pairs if self.pairs else 0.0

    @property
    def top_share(self) -> float:
        """Share of the most frequent caption."""
        return self.top[0][1] / self.captions if self.top else 0.0

    @property
    def mean_words(self) -> float:
        """Mean caption length in words."""
        return self.words / self.captions if self.captions else 0.0


def caption_stats(captions: Iterable[str]) -> CaptionStats:
    """Count one shard's captions."""
    texts, words, pairs = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for caption in captions:
        tokens = caption.split()
        texts[caption] += 1
        words.update(tokens)
        pairs.update(pairwise(tokens))
    return CaptionStats(
        captions=texts.total(),
        words=words.total(),
        different_words=len(words),
        pairs=pairs.total(),
        different_pairs=len(pairs),
        top=_top(texts),
    )


class CaptionTotals:
    """Shards added up one by one. What one costs does not depend on how many came before; memory is bounded.

    The most frequent captions are counted among those that were frequent in a shard; when there are too many of them,
    the rarer half is forgotten.
    """

    def __init__(self, remembered: int = 1 << 17) -> None:
        self._remembered = remembered
        self._sums = dict.fromkeys(_SUMMED, 0)
        self._texts: dict[str, int] = {}
        self._first: tuple[str, int] | None = None

    def add(self, part: CaptionStats) -> None:
        """One more shard."""
        for name in _SUMMED:
            self._sums[name] += getattr(part, name)
        for text, count in part.top:
            found = (text, self._texts.get(text, 0) + count)
            self._texts[text] = found[1]
            self._first = found if self._first is None else min(found, self._first, key=_rank)
        if len(self._texts) > self._remembered:
            self._texts = dict(sorted(self._texts.items(), key=_rank)[: self._remembered // 2])

    def stats(self) -> CaptionStats:
        """The totals, with the most frequent caption alone."""
        return CaptionStats(**self._sums, top=() if self._first is None else (self._first,))


_SUMMED = ("captions", "words", "different_words", "pairs", "different_pairs")


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    """Order of captions: the most frequent first, equal ones by the alphabet."""
    return (-item[1], item[0])


def _top(texts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(texts.items(), key=_rank)[:_TOP])


def check_collapse(stats: CaptionStats, config: GuardConfig, where: str) -> None:
    """Stop where captions have collapsed.

    Raises:
        GateError: with what was measured, an example and what to change.
    """
    if stats.captions < config.min_captions:
        return
    found = []
    if stats.top_share > config.max_top_caption_share:
        found.append(
            f"{stats.top_share:.0%} of {stats.captions} captions are {stats.top[0][0]!r} "
            f"(limit {config.max_top_caption_share:.0%})"
        )
    if stats.distinct_2 < config.min_distinct_2:
        found.append(f"distinct word pairs {stats.distinct_2:.3f} (limit {config.min_distinct_2})")
    if stats.mean_words < config.min_mean_words:
        found.append(f"mean length {stats.mean_words:.1f} words (limit {config.min_mean_words})")
    if found:
        raise GateError(
            f"the captioner has collapsed in {where}: {'; '.join(found)}. Train the captioner longer, sample more "
            "widely (decoding.top_p, decoding.temperature), or raise the limits under capfilt.guard"
        )
