"""Learning WordPiece tokens from word counts, the same ones every time.

Byte-pair merging on words (Sennrich et al., arXiv 1508.07909) with WordPiece's `##` on pieces inside a word. Written
out here because a trainer that walks hash maps gives another vocabulary in another process when counts tie.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping

INSIDE = "##"

_Pair = tuple[str, str]


def train_wordpieces(counts: Mapping[str, int], size: int, *, min_count: int = 2) -> list[str]:
    """Pieces of the words in `counts`: all characters, then merges, the most frequent pair first.

    Args:
        counts: how often each word occurs.
        size: pieces wanted; more come back only if the characters alone are more.
        min_count: a pair seen less often is not merged.

    Ties go to the pair that sorts first, so the result depends on `counts` alone, not on its order.
    """
    words = sorted(counts)
    spelled = [[word[0], *(INSIDE + letter for letter in word[1:])] for word in words]
    pieces = sorted({piece for parts in spelled for piece in parts})
    known = set(pieces)
    pairs = _Pairs(spelled, [counts[word] for word in words])
    while len(pieces) < size and (pair := pairs.pop_most_frequent()) is not None:
        if pairs.total(pair) < min_count:
            break
        merged = pairs.merge(pair)
        if merged not in known:
            known.add(merged)
            pieces.append(merged)
    return pieces


class _Pairs:
    """Counts of neighbouring pieces, kept up to date while they are merged."""

    def __init__(self, spelled: list[list[str]], counts: list[int]) -> None:
        self._spelled = spelled
        self._counts = counts
        self._totals: dict[_Pair, int] = defaultdict(int)
        self._words: dict[_Pair, set[int]] = defaultdict(set)
        for index in range(len(spelled)):
            self._add(index)
        self._heap = [(-total, pair) for pair, total in self._totals.items()]
        heapq.heapify(self._heap)

    def total(self, pair: _Pair) -> int:
        """How often the pair occurs now."""
        return self._totals.get(pair, 0)

    def pop_most_frequent(self) -> _Pair | None:
        """The pair that occurs most; None when every word is one piece."""
        while self._heap:
            total, pair = heapq.heappop(self._heap)
            if total and -total == self.total(pair):  # else outdated: its new count was pushed too
                return pair
        return None

    def merge(self, pair: _Pair) -> str:
        """Join the pair wherever it stands; returns the joined piece."""
        merged = pair[0] + pair[1].removeprefix(INSIDE)
        touched: set[_Pair] = set()
        for index in sorted(self._words.pop(pair)):
            touched.update(self._remove(index))
            self._spelled[index] = _joined(self._spelled[index], pair, merged)
            touched.update(self._add(index))
        for changed in touched:
            heapq.heappush(self._heap, (-self.total(changed), changed))
        return merged

    def _add(self, index: int) -> list[_Pair]:
        neighbours = self._neighbours(index)
        for pair in neighbours:
            self._totals[pair] += self._counts[index]
            self._words[pair].add(index)
        return neighbours

    def _remove(self, index: int) -> list[_Pair]:
        neighbours = self._neighbours(index)
        for pair in neighbours:
            self._totals[pair] -= self._counts[index]
            if pair in self._words:
                self._words[pair].discard(index)
        return neighbours

    def _neighbours(self, index: int) -> list[_Pair]:
        parts = self._spelled[index]
        return list(zip(parts, parts[1:], strict=False))


def _joined(parts: list[str], pair: _Pair, merged: str) -> list[str]:
    result: list[str] = []
    position = 0
    while position < len(parts):
        if tuple(parts[position : position + 2]) == pair:
            result.append(merged)
            position += 2
        else:
            result.append(parts[position])
            position += 1
    return result
