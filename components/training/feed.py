"""From the loader's pairs to batches on the model's device, with the time spent waiting counted.

Shapes: B pairs, S image side, T tokens.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from components.data.decoding import to_pixels
from components.data.loader import PairBatch, PairLoader
from components.model.learning import ModelBatch
from components.model.tokenizer import BlipTokenizer


class PairFeed:
    """Endless micro-batches of one process.

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

    def next(self) -> tuple[ModelBatch, Sequence[str]]:
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

    def _prepared(self, pairs: PairBatch, progress: float) -> ModelBatch:
        images = torch.as_tensor(pairs.images)
        image_ids = torch.as_tensor(pairs.image_ids)
        tokens = self._tokenizer.encode([self._prompt + text for text in pairs.texts], self._max_tokens)
        if self._device.type == "cuda":  # bytes go over the bus, and become floats on the other side
            images = images.pin_memory().to(self._device, non_blocking=True)
        pixels = to_pixels(images, self._mean, self._std)
        return ModelBatch(pixels, tokens.ids, tokens.mask, image_ids, progress).to(self._device)
