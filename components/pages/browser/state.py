"""What the browser knows while it is open: its versions, the marks, and what was asked for lately."""

import threading
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from markupsafe import Markup

from components.common.errors import ConfigError
from components.data.phrases import places
from components.data.search import Floats
from components.pages.browser.compare import Comparison
from components.pages.browser.histogram import histogram
from components.pages.browser.marks import Caption, Marks
from components.pages.browser.version import MAIN_SCORE, Ints, Version
from components.pages.browser.view import PAGE_SIZE, View, choose, kept_at
from components.pages.browser.wording import fate, label, reason_words

if TYPE_CHECKING:
    from components.inference.search import Encoder

_REMEMBERED = 8  # answers; of a million candidates one takes 4 MB


class TextShown(NamedTuple):
    """A candidate on a card."""

    version: int
    row: int
    source: str
    text: str
    scores: list[tuple[str, float]]
    main: float | None
    kept: bool
    then: bool
    reason: str
    sentence: str
    marked: bool | None


class Card(NamedTuple):
    """An image and those of its candidates that are shown."""

    version: int
    image: int
    key: str
    shard: str
    similarity: float | None
    texts: list[TextShown]


class Results(NamedTuple):
    """A page of a view, and what there is in all."""

    cards: list[Card]
    candidates: int
    images: int
    kept: int
    page: int
    pages: int


class Likeness(NamedTuple):
    """How near each image is to what is searched for: its cosine, and its place among all, the best the largest."""

    similarity: Floats
    place: Floats


class Kept(NamedTuple):
    """How many are kept now, and how many would be."""

    label: str
    now: int
    then: int


class Browser:
    """One or two versions of a dataset, looked at.

    Args:
        versions: the version looked at, and perhaps another to compare it with: the earlier one first.
        marks: where marks are kept.
        model: folder of the filter that made the vectors, if it has moved.
        cache_dir: for a filter that is not on this machine.
    """

    def __init__(self, versions: Sequence[Version], marks: Marks, cache_dir: Path, model: str | None = None) -> None:
        self.versions, self.marks = list(versions), marks
        self._cache_dir, self._model = cache_dir, model
        self._turn = threading.Lock()
        self._rows = lru_cache(_REMEMBERED)(self._find_rows)
        self._likeness = lru_cache(_REMEMBERED)(self._find_likeness)

    @property
    def main(self) -> Version:
        """The version of the grid: the later one."""
        return self.versions[-1]

    def version(self, number: int) -> Version:
        """One of the versions.

        Raises:
            ConfigError: there is no such one.
        """
        if not 0 <= number < len(self.versions):
            raise ConfigError(f"there is no version {number} here: start from the first page, /")
        return self.versions[number]

    def results(self, view: View) -> Results:
        """A page of the grid."""
        rows = self._rows(view.chosen)
        version = self.main
        then = kept_at(version, view)
        pages = max(1, -(-len(rows) // PAGE_SIZE))
        page = min(view.page, pages)
        shown = rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        likeness = self._likeness(view.find, view.like)
        cards = self.cards(len(self.versions) - 1, shown, then, None if likeness is None else likeness.similarity)
        return Results(cards, len(rows), version.images_among(rows), int(version.kept[rows].sum()), page, pages)

    def cards(
        self, number: int, rows: Ints, then: "np.ndarray | None" = None, similarity: Floats | None = None
    ) -> list[Card]:
        """Cards of these candidates in their order; neighbours of one image share a card."""
        version = self.version(number)
        cards: list[Card] = []
        texts = version.text.take(rows).to_pylist()
        for row, text in zip(rows.tolist(), texts, strict=True):
            image = int(version.image[row])
            if not cards or cards[-1].image != image:
                near = None if similarity is None else float(similarity[image])
                cards.append(Card(number, image, version.key(image), version.shard(image), near, []))
            cards[-1].texts.append(self._shown(number, row, text, bool((version.kept if then is None else then)[row])))
        return cards

    def _shown(self, number: int, row: int, text: str, then: bool) -> TextShown:
        version = self.versions[number]
        scores = [(label(name), float(column[row])) for name, column in version.scores.items()]
        main = version.scores[MAIN_SCORE][row] if MAIN_SCORE in version.scores else np.nan
        return TextShown(
            version=number,
            row=row,
            source=version.source.names[version.source.codes[row]],
            text=text,
            scores=[(name, value) for name, value in scores if not np.isnan(value)],
            main=None if np.isnan(main) else float(main),
            kept=bool(version.kept[row]),
            then=then,
            reason=reason_words(version.reason.names[version.reason.codes[row]]),
            sentence=fate(version, row),
            marked=self.marks.get(self.caption(number, row)),
        )

    def caption(self, number: int, row: int) -> Caption:
        """What a mark of a candidate is about.

        Raises:
            ConfigError: there is no such candidate.
        """
        version = self.version(number)
        if not 0 <= row < len(version):
            raise ConfigError(f"there is no candidate {row} here: load the page again")
        image = int(version.image[row])
        source = version.source.names[version.source.codes[row]]
        text = str(version.text[row].as_py())
        return Caption(version.manifest.digest, version.shard(image), version.key(image), source, text)

    def text(self, number: int, row: int) -> TextShown:
        """One candidate."""
        self.caption(number, row)  # refuses what is not there
        version = self.versions[number]
        return self._shown(number, row, str(version.text[row].as_py()), bool(version.kept[row]))

    def what_if(self, view: View) -> list[Kept]:
        """What the view's threshold and policy would keep, beside what is kept now."""
        version = self.main
        then = kept_at(version, view)
        parts = [("texts", np.ones(len(version), bool))]
        parts += [(f"{name} texts", version.source.mask(name)) for name in version.source.names]
        counts = [Kept(name, int((version.kept & mask).sum()), int((then & mask).sum())) for name, mask in parts]
        images = [version.images_among(mask) for mask in (version.kept, then)]
        return [Kept("images", *images), *counts]

    @cached_property
    def histogram(self) -> Markup:
        """How the match probabilities of the main version are spread."""
        version = self.main
        if MAIN_SCORE not in version.scores:
            return Markup("")
        scores = version.scores[MAIN_SCORE]
        columns = {name: scores[version.source.mask(name)] for name in version.source.names}
        return histogram("How many texts have which match probability", columns, version.threshold)

    @cached_property
    def comparison(self) -> Comparison:
        """The two versions side by side.

        Raises:
            ConfigError: there is only one.
        """
        if len(self.versions) < 2:
            raise ConfigError("there is nothing to compare with: capfilt browse BEFORE AFTER")
        with self._turn:
            return Comparison(*self.versions)

    def _find_rows(self, view: View) -> Ints:
        likeness = self._likeness(view.find, view.like)
        return choose(self.main, view, None if likeness is None else likeness.place)

    def _find_likeness(self, find: str, like: int | None) -> Likeness | None:
        version = self.main
        if like is not None:
            if like >= version.images:
                raise ConfigError(f"like={like}: there are only {version.images} images")
            near = version.similarities(version.vector(like))
            return Likeness(near, near)
        if not find:
            return None
        near = version.similarities(self._words(find))
        return Likeness(near, places(near, version.said(find)))

    def _words(self, text: str) -> Floats:
        with self._turn:
            return self._encoder.words(text)

    @cached_property
    def _encoder(self) -> "Encoder":
        from components.inference.search import open_encoder

        return open_encoder(self.main.index, self._cache_dir, model=self._model)
