"""Captioners of transformers' families: asked by the family's prompt, by explicit settings, each image as if alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from components.common.errors import ConfigError, ModelError
from components.data.decoding import Pixels
from components.inference.arithmetic import Arithmetic
from components.inference.families import CaptionerFamily
from components.inference.loading import generation, load_model, load_processor, own_settings_dropped
from components.inference.protocols import WHOLE, Written
from components.model.config import DecodingConfig
from components.model.decoding import nucleus

_STRIP = 100
"""From this ratio of its sides on, an image is shown to the image part beforehand: Qwen's refuses those beyond 200."""

Choice = Callable[[Tensor, Tensor, int], Tensor]


class TransformersCaptioner:
    """A captioner that transformers has as AutoModelForImageTextToText.

    Args:
        folder: the model's folder.
        family: how it is asked.
        decoding: settled (families.settled_decoding); lengths are new tokens, without prompt and end.
        arithmetic: device and precision.

    Raises:
        ModelError: it does not load, or has no chat template where its family needs one.
        ConfigError: it takes no such prompt.
    """

    size = WHOLE

    def __init__(self, folder: Path, family: CaptionerFamily, decoding: DecodingConfig, arithmetic: Arithmetic) -> None:
        self.family, self.decoding, self.arithmetic = family, decoding, arithmetic
        self.processor = load_processor(folder, family.processor)
        self.model = load_model(folder, "AutoModelForImageTextToText", arithmetic)
        self._check_prompt(folder)
        self._ids = own_settings_dropped(self.model)
        # Text that was written stands behind what was read, unless a decoder of its own writes it.
        self._cut_prompt = not _writes_apart(self.model.config)
        self.processor.tokenizer.padding_side = "left" if self._cut_prompt else "right"
        ends = self._ids.get("eos_token_id", self.processor.tokenizer.eos_token_id)
        self._ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
        self._ids.setdefault("pad_token_id", self.processor.tokenizer.pad_token_id)

    def write(self, images: Sequence[Pixels] | Pixels, seeds: Sequence[Sequence[int]]) -> list[list[Written]]:
        """Texts of images `[H, W, 3]`, one per seed; see AnyCaptioner. An image that cannot be read gives an error."""
        count = len(seeds[0]) if seeds else 0
        if not count:
            return [[] for _ in seeds]
        pictures = [Image.fromarray(image) for image in images]
        faults = [self._fault(picture) for picture in pictures]
        good = [at for at, fault in enumerate(faults) if not fault]
        rows = [(pictures[at], seed) for at in good for seed in seeds[at]]
        written = iter(self._write([picture for picture, _ in rows], [seed for _, seed in rows]) if rows else ())
        return [
            [next(written) if not fault else Written("", "error", 0, fault) for _ in range(count)] for fault in faults
        ]

    def _fault(self, picture: Image.Image) -> str:
        """Why the image part does not take an image; empty if it does. Only strips are ever refused."""
        if min(picture.size) * _STRIP > max(picture.size):
            return ""
        try:
            self.processor.image_processor(picture)
        except ValueError as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""

    def _write(self, pictures: list[Image.Image], seeds: Sequence[int]) -> list[Written]:
        with self.arithmetic:
            inputs = self._inputs(pictures).to(self.arithmetic.device, dtype=self.model.dtype)
            tokens = self.model.generate(**inputs, **self._how(inputs, seeds))
        start = inputs["input_ids"].shape[1] if self._cut_prompt else 1
        rows = tokens[:, start:].tolist()
        return [self._written(row, picture) for row, picture in zip(rows, pictures, strict=True)]

    def _inputs(self, pictures: list[Image.Image]) -> Any:
        """What the model reads of prompt and images, a row each."""
        prompt, tensors = self.decoding.prompt, {"return_tensors": "pt"}
        if self.family.asks == "chat":
            asked = [[{"role": "user", "content": _content(picture, prompt)}] for picture in pictures]
            how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, **tensors}
            return self.processor.apply_chat_template(asked, **how, processor_kwargs={"padding": True})
        if self.family.asks == "nothing":
            inputs = self.processor(images=pictures, **tensors)
            inputs["input_ids"] = torch.full((len(pictures), 1), self._ids["bos_token_id"])
            return inputs
        return self.processor(images=pictures, text=[prompt] * len(pictures), padding=True, **tensors)

    def _how(self, inputs: Any, seeds: Sequence[int]) -> dict[str, Any]:
        """All that decides how tokens are chosen: `generate` finds nothing left to take from elsewhere."""
        before = inputs["input_ids"].shape[1] if self._cut_prompt else 1
        drawn = self.decoding.method == "nucleus"
        choose = _Drawn(nucleus(self.decoding, seeds, self.arithmetic.device)) if drawn else None
        return generation(self.decoding, self._ids, written_from=before, choose=choose)

    def _written(self, row: Sequence[int], picture: Image.Image) -> Written:
        """A row of new tokens as a text; without an end among them the limit has cut it."""
        end = next((at for at, token in enumerate(row) if token in self._ends), None)
        tokens = list(row if end is None else row[:end])
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=self.family.asks != "task")
        if self.family.asks == "task":
            task = self.decoding.prompt
            text = self.processor.post_process_generation(text, task=task, image_size=picture.size)[task]
            text = text.replace("<pad>", "")
        return Written(text.strip(), "length" if end is None else "stop", len(tokens))

    def _check_prompt(self, folder: Path) -> None:
        prompt = self.decoding.prompt
        if self.family.asks == "chat" and not self.processor.chat_template:
            raise ModelError(f"{folder} has no chat template: give an instructed model's folder, with all its files")
        if self.family.asks == "nothing" and prompt.strip():
            raise ConfigError(f"{self.family.name} takes no prompt, not {prompt!r}: leave decoding.prompt empty")
        tasks = getattr(self.processor, "task_prompts_without_inputs", {})
        captions = [task for task in tasks if "CAPTION" in task and "REGION" not in task]
        known = ", ".join(captions)
        if self.family.asks == "task" and prompt not in captions:
            raise ConfigError(f"{self.family.name} knows no task {prompt!r}: set decoding.prompt to {known}")


class _Drawn:
    """Leaves every row the one token that is drawn for it, by its own numbers: nothing hangs on the rows beside it."""

    def __init__(self, choose: Choice) -> None:
        self._choose, self._place = choose, 0

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        rows = torch.arange(len(scores), device=scores.device)
        chosen = self._choose(scores.float(), rows, self._place)
        self._place += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


def _content(picture: Image.Image, prompt: str) -> list[dict[str, Any]]:
    return [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]


def _writes_apart(config: Any) -> bool:
    """Whether an encoder reads the prompt and a decoder of its own writes."""
    text = getattr(config, "text_config", None)
    return bool(config.is_encoder_decoder or getattr(text, "is_encoder_decoder", False))
