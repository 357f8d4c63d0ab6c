"""The collapse guard: generic captions are found while they are made, not after the next pre-training.

A captioner that has collapsed says the same few things about every image, and a filter trained on the same data may
well accept them. The statistics here are per shard; totals merge them without keeping the captions.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
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


def merge_stats(parts: Sequence[CaptionStats]) -> CaptionStats:
    """Add shards up."""
    texts = Counter[str]()
    for part in parts:
        texts.update(dict(part.top))
    return CaptionStats(
        captions=sum(part.captions for part in parts),
        words=sum(part.words for part in parts),
        different_words=sum(part.different_words for part in parts),
        pairs=sum(part.pairs for part in parts),
        different_pairs=sum(part.different_pairs for part in parts),
        top=_top(texts),
    )


def _top(texts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(texts.items(), key=lambda item: (-item[1], item[0]))[:_TOP])


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
