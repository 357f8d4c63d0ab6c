"""From the loader's pairs to batches on the model's device, with the time spent waiting counted.

Shapes: B pairs, S image side, T tokens.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from components.data.decoding import to_pixels
from components.data.loader import PairBatch, PairLoader
from components.data.questions import Question
from components.model.learning import ModelBatch
from components.model.tokenizer import BlipTokenizer, pre_question
from components.model.vqa import VqaBatch


class PairFeed:
    """Endless micro-batches of image-text pairs of one process.

    Args:
        loader: this process's share of the mixture.
        tokenizer: the model's.
        image_mean: per channel, of pixels in 0..1.
        image_std: per channel.
        max_tokens: tokens per text, both ends counted.
        prompt: put before every text (the captioner's); empty for none.
        device: where the model is.
    """

    def __init__(
        self,
        loader: PairLoader,
        tokenizer: BlipTokenizer,
        *,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        max_tokens: int,
        prompt: str,
        device: torch.device,
    ) -> None:
        self._loader = loader
        self._tokenizer = tokenizer
        self._mean, self._std = image_mean, image_std
        self._max_tokens, self._prompt, self._device = max_tokens, prompt, device
        self.waited = 0.0

    def next(self) -> tuple[ModelBatch | VqaBatch, Sequence[str]]:
        """The next micro-batch, and the keys of its pairs."""
        cursor = self._loader.state()
        progress = cursor.epoch + cursor.consumed / self._loader.pairs_per_epoch
        started = time.monotonic()
        pairs = next(self._loader)
        batch = self._prepared(pairs, progress)
        self.waited += time.monotonic() - started
        return batch, pairs.keys

    def state(self) -> dict[str, Any]:
        """The loader's cursor: pairs of the mixture that all processes together have taken."""
        state: dict[str, Any] = self._loader.state().model_dump(mode="json")
        return state

    def _prepared(self, pairs: PairBatch, progress: float) -> ModelBatch | VqaBatch:
        image_ids = torch.as_tensor(pairs.image_ids)
        tokens = self._tokenizer.encode([self._prompt + text for text in pairs.texts], self._max_tokens)
        return ModelBatch(self._pixels(pairs), tokens.ids, tokens.mask, image_ids, progress).to(self._device)

    def _pixels(self, pairs: PairBatch) -> torch.Tensor:
        """Normalised images `[B, 3, S, S]` on the device."""
        images = torch.as_tensor(pairs.images)
        if self._device.type == "cuda":  # bytes go over the bus, and become floats on the other side
            images = images.pin_memory().to(self._device, non_blocking=True)
        return to_pixels(images, self._mean, self._std)


class QuestionFeed(PairFeed):
    """Endless micro-batches of questions with all their answers; the loader reads by `read_question`.

    Args:
        loader, tokenizer, options: as of PairFeed; `max_tokens` are a question's.
        max_words: words kept of a question.
        max_answer_tokens: tokens per answer, both ends counted.
    """

    def __init__(
        self, loader: PairLoader, tokenizer: BlipTokenizer, *, max_words: int, max_answer_tokens: int, **options: Any
    ) -> None:
        super().__init__(loader, tokenizer, prompt="", **options)
        self._max_words, self._max_answer_tokens = max_words, max_answer_tokens

    def _prepared(self, pairs: PairBatch, progress: float) -> VqaBatch:
        asked = [Question.from_json(text) for text in pairs.texts]
        texts = [pre_question(one.question, self._max_words) for one in asked]
        questions = self._tokenizer.encode(texts, self._max_tokens)
        rows = [(owner, answer, share) for owner, one in enumerate(asked) for answer, share in one.weights().items()]
        answers = self._tokenizer.encode([answer for _, answer, _ in rows], self._max_answer_tokens)
        return VqaBatch(
            self._pixels(pairs),
            questions.ids,
            questions.mask,
            answers.ids,
            answers.mask,
            owners=torch.tensor([owner for owner, _, _ in rows]),
            weights=torch.tensor([share for _, _, share in rows], dtype=torch.float32),
            image_ids=torch.as_tensor(pairs.image_ids),
        ).to(self._device)
