"""The models in a cascade (band.py): the cheap score first, the costly pass and the caption only where they decide."""

from collections.abc import Callable, Sequence

import numpy as np

from components.common.errors import ModelError
from components.inference.filter import Filter, Looked
from components.regeneration.band import is_audited, is_open, needs_caption
from components.regeneration.models import CapfiltModels, Scored, with_readings
from components.regeneration.policy import NOT_WRITTEN, Text
from components.regeneration.reading import Loaded

Rows = list[list[Text]]
"""Texts of each image."""
Put = Callable[[Text, float], Text]
"""A text with a value put in its place."""


class SparingModels(CapfiltModels):
    """Captioner and BLIP filter where the settings have a cascade."""

    def _process(self, batch: Sequence[Loaded]) -> list[Scored]:
        filter = self._filter_of_two_steps()
        whole = [is_audited(self.config, item.sample.key, item.sha256) for item in batch]
        looked = filter.look(np.asarray(self._images(batch, filter.size)))
        self._check(batch, looked.features.isfinite().all(-1).tolist())
        web = self._in_steps(filter, looked, [self._text_filters.marked(item.texts) for item in batch], whole)
        wanted = [full or needs_caption(texts, self.config) for full, texts in zip(whole, web, strict=True)]
        made = self._in_steps(filter, looked, self._captions(batch, wanted), whole)
        texts = [[*before, *after] for before, after in zip(web, made, strict=True)]
        self._check(batch, [_is_finite(row) for row in texts])
        vectors = looked.features.float().cpu().numpy().astype(np.float16)
        return [Scored(row, vector) for row, vector in zip(self._further(batch, texts), vectors, strict=True)]

    def _filter_of_two_steps(self) -> Filter:
        if not isinstance(self.filter, Filter):
            raise ModelError(f"{self.scorers[0][0]}: a cascade needs a BLIP filter, whose ITC comes before its ITM")
        return self.filter

    def _captions(self, batch: Sequence[Loaded], wanted: Sequence[bool]) -> Rows:
        """Captions of the images that want one; of the others it is said that none was written."""
        some = [item for item, wants in zip(batch, wanted, strict=True) if wants]
        written = iter(self._caption(some) if some else [])
        missing = [Text("synthetic", "", problem=NOT_WRITTEN)] * self.config.captions_per_image
        made = [[self._checked(one) for one in next(written)] if wants else missing for wants in wanted]
        return [self._text_filters.marked(row) for row in made]

    def _in_steps(self, filter: Filter, looked: Looked, texts: Rows, whole: Sequence[bool]) -> Rows:
        """The texts with their cosines, and with match probabilities where those decide or the work is done in full."""
        usable = [[text.problem is None for text in row] for row in texts]
        near = filter.similarities(looked, _chosen(texts, usable))
        texts = _filled(texts, usable, near, lambda text, value: text._replace(similarity=value))
        asked = [
            [ok and (full or is_open(text, self.config)) for text, ok in zip(row, oks, strict=True)]
            for row, oks, full in zip(texts, usable, whole, strict=True)
        ]
        said = filter.probabilities(looked, _chosen(texts, asked))
        return _filled(texts, asked, said, lambda text, value: text._replace(probability=value))

    def _further(self, batch: Sequence[Loaded], texts: Rows) -> Rows:
        """The texts with what further scorers say of them: they are there for the record, and spare nothing."""
        asked = [[text.text for text in row if text.problem is None] for row in texts]
        for name, scorer in self.scorers[1:]:
            found = self._judged(name, scorer, batch, asked).readings
            texts = [with_readings(row, [(scorer.columns, one)]) for row, one in zip(texts, found, strict=True)]
        return texts

    def _check(self, batch: Sequence[Loaded], finite: Sequence[bool]) -> None:
        """Raise ModelError for the first image of which something is not finite."""
        if not all(finite):
            raise self._not_finite(self.scorers[0][0], batch[list(finite).index(False)])


def _chosen(texts: Rows, which: Sequence[Sequence[bool]]) -> list[list[str]]:
    return [
        [text.text for text, chosen in zip(row, flags, strict=True) if chosen]
        for row, flags in zip(texts, which, strict=True)
    ]


def _filled(texts: Rows, which: Sequence[Sequence[bool]], values: Sequence[Sequence[float]], put: Put) -> Rows:
    """The texts, the chosen ones with their values."""
    found = []
    for row, flags, known in zip(texts, which, values, strict=True):
        left = iter(known)
        found.append([put(text, next(left)) if chosen else text for text, chosen in zip(row, flags, strict=True)])
    return found


def _is_finite(texts: Sequence[Text]) -> bool:
    values = [one for text in texts for one in (text.probability, text.similarity) if one is not None]
    return bool(np.isfinite(np.array(values, float)).all())
