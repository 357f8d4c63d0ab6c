"""The filter at work: how well texts fit images, all texts of an image against one pass of the vision tower.

Shapes: B images, S side in pixels, d width of the space shared by images and texts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from components.data.decoding import Pixels, to_pixels
from components.data.scores import BLIP_COLUMNS, Reading
from components.inference.arithmetic import Arithmetic
from components.inference.protocols import Judged
from components.model.blip import BlipFilter
from components.model.checkpoints.weights import LoadedModel
from components.model.text import ImageKV
from components.model.tokenizer import pre_caption

_DIGITS = 6  # what is beyond them is rounding noise of the arithmetic, and files stay comparable


class Looked(NamedTuple):
    """Images that went through the vision tower: tokens `[B, 1+N, D]` and ITC features `[B, d]`, on the device."""

    tokens: Tensor
    features: Tensor


class Score(NamedTuple):
    """How well a text fits an image: P(match) of the ITM head, and the cosine of the ITC embeddings."""

    probability: float
    similarity: float


class Filter:
    """An image-text matching model ready to work.

    Args:
        loaded: model, tokenizer and preprocessing of a filter folder.
        arithmetic: device and precision.
        max_words: words of a text that are read (docs/facts.md 7).
        max_tokens: tokens of a text that are read.
    """

    columns = BLIP_COLUMNS

    def __init__(
        self, loaded: LoadedModel[BlipFilter], arithmetic: Arithmetic, *, max_words: int = 30, max_tokens: int = 35
    ) -> None:
        self.model = arithmetic.place(loaded.model)
        self.tokenizer = loaded.tokenizer
        self.preprocessor = loaded.preprocessor
        self.arithmetic = arithmetic
        self.max_words = max_words
        self.max_tokens = max_tokens

    @property
    def size(self) -> int:
        """Side of the squares it wants, in pixels."""
        return self.preprocessor.size

    def score(self, squares: Pixels, texts: Sequence[Sequence[str]]) -> list[list[Score]]:
        """Scores of each image's texts for squares uint8 `[B, S, S, 3]`; equal texts of an image are scored once."""
        return self.judge(squares, texts)[0] if any(texts) else [[] for _ in texts]

    def judge(self, squares: Pixels, texts: Sequence[Sequence[str]]) -> tuple[list[list[Score]], Tensor]:
        """Scores as `score` has them, and what came with them: ITC features `[B, d]` of length 1, fp32 on the CPU."""
        read = [[self.read(text) for text in row] for row in texts]
        scores: list[dict[str, Score]] = [{} for _ in read]
        slots = self._slots(read)
        keys_values, images = self.image_features(squares)
        with self.arithmetic:
            for slot in slots:
                for row, text, score in zip(scores, slot, self._score_slot(slot, keys_values, images), strict=True):
                    row[text] = score
        found = [[known[text] for text in row] for known, row in zip(scores, read, strict=True)]
        return found, images.float().cpu()

    def judge_all(self, squares: Pixels, texts: Sequence[Sequence[str]]) -> Judged:
        """What `judge` finds, as every scorer tells it: ITM and ITC, and the ITC features as vectors."""
        scores, features = self.judge(squares, texts)
        return Judged(
            [[(Reading(one.probability), Reading(one.similarity)) for one in row] for row in scores], features
        )

    def look(self, squares: Pixels) -> Looked:
        """Squares uint8 `[B, S, S, 3]` through the vision tower, for `similarities` and `probabilities`."""
        with self.arithmetic:
            tokens = self.model.vision_model(self._pixels(squares))
            return Looked(tokens, self.model.image_embed(tokens))

    def similarities(self, looked: Looked, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """ITC's cosine of every image's texts, without ITM; as `score` has it."""

        def score(ids: Tensor, mask: Tensor, images: Tensor) -> Tensor:
            return self._similarities(ids, mask, looked.features.index_select(0, images))

        return self._each(texts, score)

    def probabilities(self, looked: Looked, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """ITM's match probability of every image's texts, as `score` has it; an image without texts costs nothing."""
        asked = [number for number, row in enumerate(texts) if row]
        if not asked:
            return [[] for _ in texts]
        with self.arithmetic:
            index = torch.tensor(asked, device=looked.tokens.device)
            keys_values = self.model.project_images(looked.tokens.index_select(0, index))

        def score(ids: Tensor, mask: Tensor, images: Tensor) -> Tensor:
            chosen = keys_values if len(images) == len(asked) else keys_values.select(images)
            return self.model.match_logits(ids, mask, chosen).float().softmax(-1)[:, 1]

        found = iter(self._each([texts[number] for number in asked], score))
        return [next(found) if row else [] for row in texts]

    def _each(
        self, texts: Sequence[Sequence[str]], score: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> list[list[float]]:
        """A value of every image's texts; `score` gets texts `[R, T]` with their mask, and the image of each `[R]`."""
        read = [[self.read(text) for text in row] for row in texts]
        known: list[dict[str, float]] = [{} for _ in read]
        for slot in self._slots(read):
            rows = [number for number, text in enumerate(slot) if text in read[number]]
            with self.arithmetic:
                ids, mask = self.encode([slot[number] for number in rows])
                values = score(ids, mask, torch.tensor(rows, device=ids.device)).tolist()
            for number, value in zip(rows, values, strict=True):
                known[number][slot[number]] = round(value, _DIGITS)
        return [[values[text] for text in row] for values, row in zip(known, read, strict=True)]

    def read(self, text: str) -> str:
        """A text as it is read: cleaned, and cut to `max_words`. Texts read alike are one text to the filter."""
        return pre_caption(text, self.max_words)

    def embed_images(self, squares: Pixels) -> Tensor:
        """Squares uint8 `[B, S, S, 3]` to ITC features `[B, d]` of length 1, fp32 on the CPU."""
        with self.arithmetic:
            return self.model.image_embed(self.model.vision_model(self._pixels(squares))).float().cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """R texts to ITC features `[R, d]` of length 1, fp32 on the CPU."""
        return self.text_features(*self.encode([self.read(text) for text in texts])).float().cpu()

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """R texts as they were read to ids and mask `[R, T]` on the device, padded at the end."""
        batch = self.tokenizer.encode(texts, self.max_tokens)
        return batch.ids.to(self.arithmetic.device), batch.mask.to(self.arithmetic.device)

    def image_features(self, squares: Pixels) -> tuple[ImageKV, Tensor]:
        """Squares uint8 `[B, S, S, 3]` to keys and values for ITM and ITC features `[B, d]`, on the device."""
        with self.arithmetic:
            return self.model.image_features(self._pixels(squares))

    def text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encoded texts `[R, T]` to ITC features `[R, d]`, on the device."""
        with self.arithmetic:
            return self.model.text_features(ids, mask)

    def match_logits(self, ids: Tensor, mask: Tensor, keys_values: ImageKV) -> Tensor:
        """ITM logits `[R, 2]` of encoded texts `[R, T]`, which lie by image, on the device; class 1 is a match."""
        with self.arithmetic:
            return self.model.match_logits(ids, mask, keys_values)

    def _pixels(self, squares: Pixels) -> Tensor:
        return to_pixels(squares, self.preprocessor.mean, self.preprocessor.std, device=self.arithmetic.device)

    @staticmethod
    def _slots(texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The different texts of each image dealt out to slots of one text per image, the longest to the first slot.

        One text per image lets the model read every image's keys and values in place, and texts of a slot are of
        similar length, so that little is padded. An image with fewer texts gives the empty text, scored and forgotten.
        """
        ordered = [sorted(set(row), key=lambda text: (-len(text.split()), -len(text), text)) for row in texts]
        count = max((len(row) for row in ordered), default=0)
        return [[row[slot] if slot < len(row) else "" for row in ordered] for slot in range(count)]

    def _score_slot(self, texts: Sequence[str], keys_values: ImageKV, images: Tensor) -> list[Score]:
        """Scores of one text per image, for keys and values and features `[B, d]` of the images."""
        ids, mask = self.encode(texts)
        probability = self.model.match_logits(ids, mask, keys_values).float().softmax(-1)[:, 1]
        similarity = self._similarities(ids, mask, images)
        rows = zip(probability.tolist(), similarity.tolist(), strict=True)
        return [Score(round(p, _DIGITS), round(s, _DIGITS)) for p, s in rows]

    def _similarities(self, ids: Tensor, mask: Tensor, images: Tensor) -> Tensor:
        """Cosines `[B]` of texts `[B, T]` and image features `[B, d]`: one pass of the text encoder, no image."""
        return (self.model.text_features(ids, mask).float() * images.float()).sum(-1)
