"""What a CapFilt pass considered, counted row by row: lengths, scores, outcomes, and the texts that are said most."""

from collections import Counter
from collections.abc import Iterable, Iterator

from components.common.contracts import ScoreWeights
from components.data.candidates import Candidate, deciding_score
from components.pages.report_data import Texts
from components.regeneration.outcomes import NOT_OK

RANGES = 40
"""Equal ranges of scores from 0 to 1."""
LONGEST = 40
"""Words from which on lengths are counted together."""
REPEATED = 8
_REMEMBERED = 1 << 18


class Tally:
    """Counts of one pass. Memory is bounded: of very many different texts the rarer half is forgotten.

    Args:
        weights: how ITM and ITC were weighed, if they were.
    """

    def __init__(self, weights: ScoreWeights | None) -> None:
        self._weights = weights
        self._sources = {"web": _OfSource(), "synthetic": _OfSource()}
        self.dropped: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def watch(self, rows: Iterable[Candidate]) -> Iterator[Candidate]:
        """The rows, counted as they pass."""
        for row in rows:
            if not row.kept:
                self.dropped[row.reason] += 1
            if row.outcome in NOT_OK:
                self.outcomes[row.outcome or ""] += 1
            if row.source in self._sources:
                self._sources[row.source].add(row, deciding_score(row, self._weights))
            yield row

    @property
    def texts(self) -> tuple[Texts, ...]:
        """By source, as the page shows them; a source without a text is left out."""
        found = ((name, one) for name, one in self._sources.items() if one.texts)
        return tuple(one.shown("web" if name == "web" else "synthetic") for name, one in found)


class _OfSource:
    """The texts of one source."""

    def __init__(self) -> None:
        self.texts = self._kept = 0
        self._lengths: dict[int, list[int]] = {}
        self._scores = [[0, 0] for _ in range(RANGES)]
        self._said: dict[str, list[int]] = {}
        self._forgot = False

    def add(self, row: Candidate, score: float | None) -> None:
        """One more text."""
        gone = not row.kept
        self.texts += 1
        self._kept += row.kept
        self._lengths.setdefault(min(len(row.text.split()), LONGEST), [0, 0])[gone] += 1
        if score is not None:
            self._scores[min(int(max(score, 0.0) * RANGES), RANGES - 1)][gone] += 1
        said = self._said.setdefault(row.text, [0, 0])
        said[0] += 1
        said[1] += row.kept
        if len(self._said) > _REMEMBERED:
            self._said, self._forgot = dict(self._ranked()[: _REMEMBERED // 2]), True

    def _ranked(self) -> list[tuple[str, list[int]]]:
        return sorted(self._said.items(), key=lambda item: (-item[1][0], item[0]))

    def shown(self, source: str) -> Texts:
        """All of it; of the commonest texts those said twice and more."""
        repeated = [(text, *counts) for text, counts in self._ranked()[:REPEATED] if counts[0] > 1 and text.strip()]
        return Texts.model_validate(
            {
                "source": source,
                "texts": self.texts,
                "kept": self._kept,
                "distinct": None if self._forgot else len(self._said),
                "lengths": dict(sorted(self._lengths.items())),
                "scores": self._scores if any(map(any, self._scores)) else (),
                "repeated": repeated,
            }
        )
