"""Captioner and filter together: a batch of images in, all candidate captions with their scores out."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ModelError
from components.common.storage import Store
from components.data.scores import BLIP_COLUMNS, ITC, ITM, Column, Reading
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.filter import Filter
from components.inference.memory import with_halving
from components.inference.opening import open_captioner, open_scorer
from components.inference.protocols import WHOLE, AnyCaptioner, AnyScorer, Judged, Written
from components.model.checkpoints.weights import load_filter
from components.regeneration.config import CapfiltConfig
from components.regeneration.outcomes import outcome_of
from components.regeneration.policy import Text
from components.regeneration.reading import Loaded, ReadOptions
from components.regeneration.seeds import caption_seeds
from components.regeneration.textfilters import TextFilters
from components.regeneration.texts import EMPTY


class Scored(NamedTuple):
    """What the models say of an image: its texts, web texts first, and its ITC vector float16 `[d]` if BLIP looked."""

    texts: list[Text]
    vector: npt.NDArray[np.float16] | None


class CapfiltModels:
    """All models, each with its own vision tower, on one device.

    Args:
        captioner: the captioner.
        filter: the filter.
        config: settings of the run.
        stream: what draws (seeds.py); with it, an image's key and bytes decide its captions.
        filter_name: where the filter is from, for messages.
        scorers: further scorers, by where they are from.
    """

    def __init__(
        self,
        captioner: AnyCaptioner,
        filter: AnyScorer,
        config: CapfiltConfig,
        stream: str,
        filter_name: str = "the filter",
        scorers: Sequence[tuple[str, AnyScorer]] = (),
    ) -> None:
        self.captioner = captioner
        self.filter = filter
        self.config = config
        self.stream = stream
        self.scorers: tuple[tuple[str, AnyScorer], ...] = ((filter_name, filter), *scorers)
        sizes = dict.fromkeys((captioner.size, *(one.size for _, one in self.scorers)))
        self._sizes = tuple(sorted(sizes, key=lambda size: size != WHOLE))
        self._text_filters = TextFilters(config.text_filters)
        self._turn = threading.Lock()

    @property
    def scores(self) -> tuple[Column, ...]:
        """Scores of other scorers than BLIP, in order."""
        return tuple(one for _, scorer in self.scorers for one in scorer.columns if one not in BLIP_COLUMNS)

    @property
    def read_options(self) -> ReadOptions:
        """How samples must be read for these models: one square per different image size."""
        config = self.config
        return ReadOptions(self._sizes, config.max_pixels, config.min_side)

    def process(self, batch: Sequence[Loaded]) -> list[Scored]:
        """All candidate captions of each image, scored, and its vector; a batch too large for memory is halved.

        Threads take turns.

        Raises:
            ModelError: a score is not finite: such a filter would look like a strict one.
        """
        with self._turn:
            return with_halving(self._process, batch)

    def again(self, batch: Sequence[Loaded], numbers: Sequence[Sequence[int]]) -> list[list[Text]]:
        """Captions of each image by their numbers, asked for and scored as in `process`, and nothing else."""
        with self._turn:
            return with_halving(self._again, list(zip(batch, numbers, strict=True)))

    def _again(self, asked: Sequence[tuple[Loaded, Sequence[int]]]) -> list[list[Text]]:
        rows = [
            (item, caption_seeds(self.stream, item.sample.key, item.sha256, number + 1)[number])
            for item, numbers in asked
            for number in numbers
        ]
        images = self._images([item for item, _ in rows], self.captioner.size)
        written = iter(self.captioner.write(images, [[seed] for _, seed in rows]))
        bare = [replace(item, texts=()) for item, _ in asked]
        made = [[self._checked(next(written)[0]) for _ in numbers] for _, numbers in asked]
        return [one.texts for one in self._scores(bare, made)]

    def _process(self, batch: Sequence[Loaded]) -> list[Scored]:
        return self._scores(batch, [[self._checked(one) for one in row] for row in self._caption(batch)])

    def _scores(self, batch: Sequence[Loaded], captions: Sequence[Sequence[Text]]) -> list[Scored]:
        offered = [self._text_filters.marked((*item.texts, *made)) for item, made in zip(batch, captions, strict=True)]
        asked = [[text.text for text in texts if text.problem is None] for texts in offered]
        found = [(scorer.columns, self._judged(name, scorer, batch, asked)) for name, scorer in self.scorers]
        vectors = next((one.vectors.numpy().astype(np.float16) for _, one in found if one.vectors is not None), None)
        return [
            Scored(
                with_readings(texts, [(columns, one.readings[at]) for columns, one in found]),
                None if vectors is None else vectors[at],
            )
            for at, texts in enumerate(offered)
        ]

    def _judged(self, name: str, scorer: AnyScorer, batch: Sequence[Loaded], asked: Sequence[Sequence[str]]) -> Judged:
        """What a scorer says of all texts.

        Raises:
            ModelError: something of it is not finite.
        """
        judged = scorer.judge_all(self._images(batch, scorer.size), asked)
        if not _finite(judged):
            at = next(at for at in range(len(batch)) if not _finite(judged, slice(at, at + 1)))
            raise self._not_finite(name, batch[at])
        return judged

    def _not_finite(self, name: str, item: Loaded) -> ModelError:
        return ModelError(
            f"{name}: its scores of image {item.sample.key} are not finite: its weights are damaged, its "
            f"training diverged, or {self.config.precision} is too coarse for it (precision: fp32)"
        )

    def _caption(self, batch: Sequence[Loaded]) -> list[list[Written]]:
        count = self.config.captions_per_image
        seeds = [caption_seeds(self.stream, item.sample.key, item.sha256, count) for item in batch]
        return self.captioner.write(self._images(batch, self.captioner.size), seeds)

    def _checked(self, written: Written) -> Text:
        """A caption as a candidate; what is not ok says so in its problem, and no scorer is asked about it."""
        if not self.config.check_captions:
            return Text("synthetic", written.text, problem=None if written.text else EMPTY)
        found = outcome_of(written, self.config.decoding.prompt)
        problem = None if found.outcome == "ok" else found.outcome
        return Text("synthetic", written.text, problem=problem, outcome=found.outcome, rule=found.rule or None)

    def _images(self, batch: Sequence[Loaded], size: int) -> np.ndarray | list[np.ndarray]:
        index = self._sizes.index(size)
        images = [item.squares[index] for item in batch]
        return images if size == WHOLE else np.stack(images)


def _finite(judged: Judged, images: slice = slice(None)) -> bool:
    """Whether all that was said of some images are numbers."""
    values = [one.value for row in judged.readings[images] for readings in row for one in readings]
    vectors = True if judged.vectors is None else bool(judged.vectors[images].isfinite().all())
    return vectors and bool(np.isfinite(np.array(values, float)).all())


def with_readings(
    texts: Sequence[Text], found: Sequence[tuple[tuple[Column, ...], Sequence[tuple[Reading, ...]]]]
) -> list[Text]:
    """The texts with what every scorer said of those it was asked about, in order."""
    names = [column.name for columns, _ in found for column in columns]
    asked = iter(zip(*(rows for _, rows in found), strict=True))
    return [text if text.problem is not None else _with(text, names, next(asked)) for text in texts]


def _with(text: Text, names: Sequence[str], readings: Sequence[tuple[Reading, ...]]) -> Text:
    named = dict(zip(names, chain(*readings), strict=True))
    itm, itc = named.pop(ITM, None), named.pop(ITC, None)
    if itm is not None and itc is not None:
        text = text._replace(probability=itm.value, similarity=itc.value)
    return text._replace(others=named) if named else text


def load_models(
    captioner: Path | str,
    filter: Path,
    config: CapfiltConfig,
    stream: str,
    slot: int = 0,
    *,
    filter_name: str = "",
    scorers: Sequence[tuple[str, str, Path]] = (),
    answers: Store | None = None,
) -> CapfiltModels:
    """Load all model folders for the GPU of this worker's number, or the CPU.

    Args:
        captioner: its folder, or a server's address.
        filter: its folder.
        config: settings.
        stream: what draws (seeds.py).
        slot: number of the worker.
        filter_name: where the filter is from, for messages.
        scorers: further scorers: name, URI and folder.
        answers: where a server's answers are kept.
    """
    arithmetic = Arithmetic(pick_device(slot), config.precision)
    return _kind(config)(
        open_captioner(
            captioner,
            config.decoding,
            arithmetic,
            image_size=config.image_size,
            endpoint=config.endpoint,
            answers=answers,
        ),
        open_any_filter(filter, config, arithmetic),
        config,
        stream,
        filter_name or str(filter),
        [(uri, open_any_filter(folder, config, arithmetic, name)) for name, uri, folder in scorers],
    )


def _kind(config: CapfiltConfig) -> type[CapfiltModels]:
    """Who does the work: everything for every image, or in a cascade."""
    if config.cascade is None:
        return CapfiltModels
    from components.regeneration.sparing import SparingModels

    return SparingModels


def open_any_filter(folder: Path, config: CapfiltConfig, arithmetic: Arithmetic, name: str = "") -> AnyScorer:
    """Load a scorer's folder, of whichever family, as CapFilt uses it, so that it is also measured as it is used."""
    return open_scorer(
        folder,
        arithmetic,
        name=name,
        image_size=config.image_size,
        position_zero=config.position_zero,
        max_words=config.max_words,
        max_tokens=config.max_tokens,
    )


def open_filter(folder: Path, config: CapfiltConfig, arithmetic: Arithmetic) -> Filter:
    """Load a BLIP filter's folder as CapFilt uses it."""
    return Filter(
        load_filter(folder, image_size=config.image_size, position_zero=config.position_zero),
        arithmetic,
        max_words=config.max_words,
        max_tokens=config.max_tokens,
    )
