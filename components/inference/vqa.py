"""A question-answering model at work: squares and questions in, answers out, each image encoded once.

Shapes: B images, Q questions, S side in pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.common.errors import ConfigError
from components.data.decoding import Pixels, to_pixels
from components.inference.arithmetic import Arithmetic
from components.model.blip import BlipVqa
from components.model.checkpoints.weights import LoadedModel
from components.model.config import AnsweringConfig
from components.model.decoding import generate
from components.model.text import ImageKV
from components.model.tokenizer import TokenBatch, pre_question
from components.model.vqa import rank_answers

MAX_ANSWER_TOKENS = 32
"""Answers of a list are cut to so many word pieces, [DEC] and [SEP] included: VQA v2's longest common ones have 8."""


class Answerer:
    """A question-answering model ready to work.

    Args:
        loaded: model, tokenizer and preprocessing of a VQA folder.
        config: how it answers.
        arithmetic: device and precision.
        answers: the list that `rank` chooses from; none for `generate`.

    Raises:
        ConfigError: `rank` without a list.
    """

    def __init__(
        self,
        loaded: LoadedModel[BlipVqa],
        config: AnsweringConfig,
        arithmetic: Arithmetic,
        answers: Sequence[str] = (),
    ) -> None:
        self.answers = tuple(dict.fromkeys(answers))
        if config.method == "rank" and not self.answers:
            raise ConfigError(
                "ranking needs a list of answers: give one, or let the model write its answers (generate)"
            )
        self.model = arithmetic.place(loaded.model)
        self.tokenizer, self.preprocessor = loaded.tokenizer, loaded.preprocessor
        self.config, self.arithmetic = config, arithmetic
        self._list = self._encoded(self.answers, MAX_ANSWER_TOKENS) if self.answers else None

    @property
    def size(self) -> int:
        """Side of the squares it wants, in pixels."""
        return self.preprocessor.size

    def answer(self, squares: Pixels, questions: Sequence[str], images: Sequence[int] | None = None) -> list[str]:
        """One answer to each question. It hangs on image and question alone, not on the others of the batch.

        Args:
            squares: uint8 `[B, S, S, 3]`.
            questions: Q of them, as people write them.
            images: the image of each question, 0 to B - 1; by default question i is about image i.
        """
        if not questions:
            return []
        with self.arithmetic:
            read = self._read(squares, questions, images)
            if self.config.method == "rank" and self._list is not None:
                chosen = rank_answers(
                    self.model, read, *self._list, top_k=self.config.top_k, smoothing=self.config.rank_smoothing
                ).answers
                return [self.answers[place] for place in chosen.tolist()]
            rows = generate(self.model, read, [self.tokenizer.dec_id], self.config.decoding)
        return [text.strip() for text in self.tokenizer.decode_batch(rows)]

    @torch.inference_mode()
    def _read(self, squares: Pixels, questions: Sequence[str], images: Sequence[int] | None) -> ImageKV:
        """What an answer reads of the questions."""
        device, preprocessor = self.arithmetic.device, self.preprocessor
        seen = self.model.encode_images(to_pixels(squares, preprocessor.mean, preprocessor.std, device=device))
        texts = [pre_question(text, self.config.max_words) for text in questions]
        ids, mask = self._encoded(texts, self.config.max_tokens)
        places = list(range(len(questions))) if images is None else list(images)
        index: Tensor | None = torch.tensor(places, dtype=torch.int64, device=device)
        if places == list(range(len(squares))):
            index = None  # keys and values are read where they lie
        return self.model.read_questions(seen, ids, mask, index, position_zero=self.config.position_zero)

    def _encoded(self, texts: Sequence[str], max_tokens: int) -> TokenBatch:
        """Token ids and mask on the model's device."""
        ids, mask = self.tokenizer.encode(texts, max_tokens)
        return TokenBatch(ids.to(self.arithmetic.device), mask.to(self.arithmetic.device))
