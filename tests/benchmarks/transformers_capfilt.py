"""CapFilt as one would write it with transformers: `generate`, then `BlipForImageTextRetrieval` once per text."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval


class TransformersCapfilt:
    """Captions a batch of images and scores two texts for each: the usual loop."""

    def __init__(self, captioner: Path, filter: Path, dtype: torch.dtype) -> None:
        self.captioner = BlipForConditionalGeneration.from_pretrained(captioner, dtype=dtype).eval()
        self.filter = BlipForImageTextRetrieval.from_pretrained(filter, dtype=dtype).eval()

    @torch.inference_mode()
    def caption(self, pixels: Tensor, prompt: Tensor, *, min_length: int, max_length: int) -> Tensor:
        """Greedy captions [B, T] of pixels [B, 3, S, S], from prompt ids [B, P]."""
        ids: Tensor = self.captioner.generate(
            pixel_values=pixels,
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_beams=1,
            min_length=min_length,
            max_length=max_length,
        )
        return ids

    @torch.inference_mode()
    def match(self, pixels: Tensor, texts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """P(match) [B] for each of several batches of (ids, mask) [B, T]."""
        return [
            self.filter(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=True)
            .itm_score.float()
            .softmax(-1)[:, 1]
            for ids, mask in texts
        ]
