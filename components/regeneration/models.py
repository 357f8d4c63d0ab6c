"""Captioner and filter together: a batch of images in, all candidate captions with their scores out."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.errors import ModelError
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.captioner import Captioner
from components.inference.filter import Filter, Score
from components.inference.memory import with_halving
from components.model.checkpoints.weights import load_captioner, load_filter
from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import Text
from components.regeneration.reading import Loaded, ReadOptions
from components.regeneration.seeds import caption_seeds
from components.regeneration.texts import EMPTY


class Scored(NamedTuple):
    """What the models say of an image: its texts, web texts first, and its ITC vector float16 `[d]`."""

    texts: list[Text]
    vector: npt.NDArray[np.float16]


class CapfiltModels:
    """Both models, each with its own vision tower, on one device.

    Args:
        captioner: the captioner.
        filter: the filter.
        config: settings of the run.
        stream: what draws (seeds.py); with it, an image's key and bytes decide its captions.
        filter_name: where the filter is from, for messages.
    """

    def __init__(
        self, captioner: Captioner, filter: Filter, config: CapfiltConfig, stream: str, filter_name: str = "the filter"
    ) -> None:
        self.captioner = captioner
        self.filter = filter
        self.config = config
        self.stream = stream
        self.filter_name = filter_name
        self._sizes = tuple(dict.fromkeys((captioner.size, filter.size)))
        self._turn = threading.Lock()

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

    def _process(self, batch: Sequence[Loaded]) -> list[Scored]:
        captions = self._caption(batch)
        asked = [
            [text.text for text in item.texts if text.problem is None] + [text for text in made if text]
            for item, made in zip(batch, captions, strict=True)
        ]
        scores, features = self.filter.judge(self._squares(batch, self.filter.size), asked)
        self._refuse_what_is_no_number(batch, scores, features.numpy())
        vectors = features.numpy().astype(np.float16)
        return [
            Scored(_scored(item.texts, made, dict(zip(texts, row, strict=True))), vector)
            for item, made, texts, row, vector in zip(batch, captions, asked, scores, vectors, strict=True)
        ]

    def _refuse_what_is_no_number(
        self, batch: Sequence[Loaded], scores: Sequence[Sequence[Score]], features: np.ndarray
    ) -> None:
        for item, row, feature in zip(batch, scores, features, strict=True):
            if not (np.isfinite(np.array(row, float)).all() and np.isfinite(feature).all()):
                raise ModelError(
                    f"{self.filter_name}: its scores of image {item.sample.key} are not finite: its weights are "
                    f"damaged, its training diverged, or {self.config.precision} is too coarse for it (precision: fp32)"
                )

    def _caption(self, batch: Sequence[Loaded]) -> list[list[str]]:
        count = self.config.captions_per_image
        seeds = [caption_seeds(self.stream, item.sample.key, item.sha256, count) for item in batch]
        return self.captioner.caption(self._squares(batch, self.captioner.size), seeds)

    def _squares(self, batch: Sequence[Loaded], size: int) -> np.ndarray:
        index = self._sizes.index(size)
        return np.stack([item.squares[index] for item in batch])


def _scored(found: Sequence[Text], captions: Sequence[str], scores: dict[str, Score]) -> list[Text]:
    web = [text if text.problem is not None else text._replace(**scores[text.text]._asdict()) for text in found]
    made = [
        Text("synthetic", text, **scores[text]._asdict()) if text else Text("synthetic", "", problem=EMPTY)
        for text in captions
    ]
    return [*web, *made]


def load_models(
    captioner: Path, filter: Path, config: CapfiltConfig, stream: str, slot: int = 0, *, filter_name: str = ""
) -> CapfiltModels:
    """Load both model folders for the GPU of this worker's number, or the CPU."""
    arithmetic = Arithmetic(pick_device(slot), config.precision)
    return CapfiltModels(
        Captioner(load_captioner(captioner, image_size=config.image_size), config.decoding, arithmetic),
        open_filter(filter, config, arithmetic),
        config,
        stream,
        filter_name or str(filter),
    )


def open_filter(folder: Path, config: CapfiltConfig, arithmetic: Arithmetic) -> Filter:
    """Load a filter's folder as CapFilt uses it, so that it is also measured as it is used."""
    return Filter(
        load_filter(folder, image_size=config.image_size, position_zero=config.position_zero),
        arithmetic,
        max_words=config.max_words,
        max_tokens=config.max_tokens,
    )
