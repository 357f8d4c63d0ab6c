"""The captioner at work: squares in, captions out, the vision tower run once however many captions are asked for.

Shapes: B images, S side in pixels.
"""

from collections.abc import Sequence

from components.data.decoding import Pixels, to_pixels
from components.inference.arithmetic import Arithmetic
from components.inference.protocols import Written
from components.model.blip import BlipCaptioner
from components.model.checkpoints.weights import LoadedModel
from components.model.config import DecodingConfig
from components.model.decoding import generate


class Captioner:
    """A captioning model ready to work.

    Args:
        loaded: model, tokenizer and preprocessing of a captioner folder.
        decoding: how captions are decoded.
        arithmetic: device and precision.
    """

    def __init__(self, loaded: LoadedModel[BlipCaptioner], decoding: DecodingConfig, arithmetic: Arithmetic) -> None:
        self.model = arithmetic.place(loaded.model)
        self.tokenizer = loaded.tokenizer
        self.preprocessor = loaded.preprocessor
        self.decoding = decoding
        self.arithmetic = arithmetic
        self.prompt = loaded.tokenizer.prompt_ids(decoding.prompt)

    @property
    def size(self) -> int:
        """Side of the squares it wants, in pixels."""
        return self.preprocessor.size

    def describe(self, squares: Pixels) -> list[str]:
        """One caption each of squares uint8 `[B, S, S, 3]`, by a search that draws nothing (greedy, beam)."""
        return [row[0] for row in self.caption(squares, [[0]] * len(squares))]

    def caption(self, squares: Pixels, seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        """Captions of squares uint8 `[B, S, S, 3]`, one per seed, without the prompt, as `write` has them."""
        return [[one.text for one in row] for row in self.write(squares, seeds)]

    def write(self, squares: Pixels, seeds: Sequence[Sequence[int]]) -> list[list[Written]]:
        """Texts about squares uint8 `[B, S, S, 3]`, one per seed, without the prompt.

        Every image has equally many seeds. A text depends on its image and its seed only, never on its place in
        the batch. One as long as is allowed has no end: the limit cut it.
        """
        count = len(seeds[0]) if seeds else 0
        if not count:
            return [[] for _ in seeds]
        with self.arithmetic:
            pixels = to_pixels(squares, self.preprocessor.mean, self.preprocessor.std, device=self.arithmetic.device)
            keys_values = self.model.encode_images(pixels)
            rows = generate(self.model, keys_values, self.prompt, self.decoding, [one for row in seeds for one in row])
        room = self.decoding.max_length - len(self.prompt)
        texts = [
            Written(text.strip(), "length" if len(row) >= room else "stop", len(row))
            for text, row in zip(self.tokenizer.decode_batch(rows), rows, strict=True)
        ]
        return [texts[start : start + count] for start in range(0, len(texts), count)]
