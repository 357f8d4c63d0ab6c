"""What the filter got wrong, where the truth is known: wrong texts that it kept, right ones that it refused."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from components.common.contracts import ScoreWeights
from components.data.candidates import Candidate, deciding_score
from components.data.pictures import Images
from components.data.sampleworld import judge_caption
from components.evaluation.dataset import Truth, filter_verdict
from components.pages.gallery import Name, Side, example, is_true, picture
from components.pages.report_data import Example

SHOWN = 12


class _Mistake(NamedTuple):
    """How bad it is (the lowest is the worst), and what it was."""

    rank: tuple[float, float, str]
    name: Name
    row: Candidate


class Mistakes:
    """Mistakes of one pass, found as its rows go by.

    Args:
        truth: by key; empty where it is not known.
        weights: how ITM and ITC were weighed, if they were.
    """

    def __init__(self, truth: Mapping[str, Truth], weights: ScoreWeights | None) -> None:
        self._truth, self._weights = truth, weights
        self._kept: list[_Mistake] = []
        self._refused: list[_Mistake] = []

    @property
    def counts(self) -> tuple[int, int] | None:
        """Texts wrongly kept, and wrongly refused; None: nobody knows."""
        return (len(self._kept), len(self._refused)) if self._truth else None

    def watch(self, shard: str, rows: Iterable[Candidate]) -> Iterator[Candidate]:
        """The rows of a shard, looked at as they pass."""
        for row in rows:
            right = is_true(row, self._truth.get(row.key))
            if right is False and row.kept:
                self._kept.append(self._mistake(shard, row, -1.0))
            elif right and filter_verdict(row) is False:
                self._refused.append(self._mistake(shard, row, 1.0))
            yield row

    def _mistake(self, shard: str, row: Candidate, sign: float) -> _Mistake:
        """Of wrong texts those that are right in the least are the worst, then those that the filter was surest of."""
        score = deciding_score(row, self._weights)
        return _Mistake((self._right_share(row), sign * (score or 0.0), row.key), (shard, row.key), row)

    def _right_share(self, row: Candidate) -> float:
        scene = self._truth[row.key].scene
        return (judge_caption(scene, row.text).share or 0.0) if scene else 0.0

    def kept(self, images: Images, shards: Sequence[str], side: Side) -> tuple[Example, ...]:
        """The worst of the wrong texts that were kept, as cards."""
        return self._cards(self._kept, images, shards, side)

    def refused(self, images: Images, shards: Sequence[str], side: Side) -> tuple[Example, ...]:
        """The right texts that the filter refused most firmly, as cards."""
        return self._cards(self._refused, images, shards, side)

    def _cards(
        self, found: Sequence[_Mistake], images: Images, shards: Sequence[str], side: Side
    ) -> tuple[Example, ...]:
        """Web texts and written ones by turns, of images that are at hand."""
        cards: list[Example] = []
        for one in _by_turns(mistake for mistake in found if mistake.name[0] in shards):
            if len(cards) == SHOWN:
                break
            if (image := picture(images, *one.name, side)) is not None:
                key = one.row.key
                cards.append(example(key, image, [one.row], self._truth.get(key), self._weights))
        return tuple(cards)


def _by_turns(found: Iterable[_Mistake]) -> list[_Mistake]:
    """The worst of every source, then the next of every source …"""
    sources: dict[str, list[_Mistake]] = defaultdict(list)
    for one in sorted(found, key=lambda one: one.rank):
        sources[one.row.source].append(one)
    places = [(place, source, one) for source, group in sources.items() for place, one in enumerate(group)]
    return [one for _, _, one in sorted(places, key=lambda item: item[:2])]
