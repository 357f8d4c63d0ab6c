"""Scorers of transformers' families: one pass of an image, one of each different text, and `logits_per_image` of both.

Shapes: B images, T different texts of a batch, d width of the shared space.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from components.data.decoding import Pixels
from components.data.scores import Column, Reading
from components.inference.arithmetic import Arithmetic
from components.inference.families import ScorerFamily
from components.inference.loading import load_model, load_processor
from components.inference.protocols import WHOLE, Judged


class TransformersScorer:
    """A scorer that transformers has as AutoModelForZeroShotImageClassification.

    Args:
        folder: the model's folder.
        family: how it reads texts, and what its logits are.
        arithmetic: device and precision.
        name: what its score is called; by default as the family says.

    Raises:
        ModelError: it does not load.
    """

    size = WHOLE

    def __init__(self, folder: Path, family: ScorerFamily, arithmetic: Arithmetic, name: str = "") -> None:
        self.family, self.arithmetic = family, arithmetic
        self.columns: tuple[Column, ...] = (Column(name or family.column, family.kind),)
        self.processor = load_processor(folder)
        self.model = load_model(folder, "AutoModelForZeroShotImageClassification", arithmetic)
        self.length = min(family.length, self._positions())

    def judge_all(self, images: Sequence[Pixels] | Pixels, texts: Sequence[Sequence[str]]) -> Judged:
        """Readings of each image's texts; a text that was cut before its end is marked."""
        logits, cut = self.logits(images, texts)
        rows = zip((self._values(row) for row in logits), texts, strict=True)
        readings: list[list[tuple[Reading, ...]]] = [
            [(Reading(value, text in cut),) for value, text in zip(row, own, strict=True)] for row, own in rows
        ]
        return Judged(readings, None)

    def score(self, images: Sequence[Pixels] | Pixels, texts: Sequence[Sequence[str]]) -> list[list[tuple[float, ...]]]:
        """A value for each image's texts."""
        return [[(one[0].value,) for one in row] for row in self.judge_all(images, texts).readings]

    def logits(
        self, images: Sequence[Pixels] | Pixels, texts: Sequence[Sequence[str]]
    ) -> tuple[list[Tensor], frozenset[str]]:
        """transformers' `logits_per_image` of each image with its texts `[n]` (BLIP-2: the ITM head's log-odds of a
        match), and the texts that were cut."""
        different = list(dict.fromkeys(text for row in texts for text in row))
        if not different:
            return [torch.zeros(0) for _ in texts], frozenset()
        encoded, cut = self.encode(different)
        place = {text: at for at, text in enumerate(different)}
        wanted = [[place[text] for text in row] for row in texts]
        with self.arithmetic:
            pixels = self._pixels(images)
            found = self._matching(pixels, encoded, wanted) if self._pairs else self._all(pixels, encoded, wanted)
        return found, cut

    def encode(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], frozenset[str]]:
        """T texts as ids and what belongs to them, on the device; and those that were cut. The end token is kept."""
        tokenizer = self.processor.tokenizer
        encoded = tokenizer(
            [self.read(text) for text in texts],
            padding=self.family.padding,
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        cut = frozenset(text for text, one in zip(texts, encoded.encodings, strict=True) if one.overflowing)
        names = ("input_ids", "attention_mask") if self._masked else ("input_ids",)
        return {name: encoded[name].to(self.arithmetic.device) for name in names}, cut

    def read(self, text: str) -> str:
        """A text as it is read."""
        return text.lower() if self.family.lower else text

    def embed_images(self, images: Sequence[Pixels] | Pixels) -> Tensor:
        """Vectors `[B, d]` of length 1, fp32 on the CPU; of BLIP-2 the mean of its queries' vectors."""
        with self.arithmetic:
            pixels = self._pixels(images)
            if self._pairs:
                vectors = torch.nn.functional.normalize(self._queried(pixels), dim=-1).mean(1)
            else:
                vectors = self.model.get_image_features(**pixels).pooler_output
        return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors `[T, d]` of length 1, fp32 on the CPU."""
        encoded, _ = self.encode(texts)
        with self.arithmetic:
            if self._pairs:
                read = self.model.qformer(
                    query_embeds=self.model.embeddings(input_ids=encoded["input_ids"]),
                    query_length=0,
                    attention_mask=encoded["attention_mask"],
                )
                vectors = self.model.text_projection(read.last_hidden_state[:, 0])
            else:
                vectors = self.model.get_text_features(**encoded).pooler_output
        return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()

    @property
    def _pairs(self) -> bool:
        """Whether image and text are read together."""
        return hasattr(self.model, "itm_head")

    @property
    def _masked(self) -> bool:
        """Whether the text part looks at which tokens are padding: those trained at a fixed length do as their own
        tokenizer says."""
        return self.family.padding == "longest" or "attention_mask" in self.processor.tokenizer.model_input_names

    def _positions(self) -> int:
        text = getattr(self.model.config, "qformer_config" if self._pairs else "text_config")
        return int(text.max_position_embeddings)

    def _pixels(self, images: Sequence[Pixels] | Pixels) -> dict[str, Tensor]:
        pictures = [Image.fromarray(image) for image in images]
        read = self.processor(images=pictures, return_tensors="pt")
        return dict(read.to(self.arithmetic.device, dtype=self.model.dtype))

    def _all(self, pixels: dict[str, Tensor], texts: dict[str, Tensor], wanted: list[list[int]]) -> list[Tensor]:
        logits = self.model(**pixels, **texts).logits_per_image.float().cpu()
        return [row[own] for row, own in zip(logits, wanted, strict=True)]

    def _matching(self, pixels: dict[str, Tensor], texts: dict[str, Tensor], wanted: list[list[int]]) -> list[Tensor]:
        """Log-odds of a match by BLIP-2's ITM head: Blip2ForImageTextRetrieval.forward, the vision part run once."""
        model = self.model
        seen = model.vision_model(pixel_values=pixels["pixel_values"]).last_hidden_state
        pairs = [(image, text) for image, row in enumerate(wanted) for text in row]
        image, text = (torch.tensor(one, device=seen.device) for one in zip(*pairs, strict=True))
        queries = model.query_tokens.expand(len(pairs), -1, -1)
        joint = model.embeddings(input_ids=texts["input_ids"][text], query_embeds=queries)
        ones = torch.ones(queries.shape[:2], dtype=torch.long, device=seen.device)
        read = model.qformer(
            query_embeds=joint,
            query_length=queries.shape[1],
            attention_mask=torch.cat([ones, texts["attention_mask"][text]], dim=1),
            encoder_hidden_states=seen[image],
            encoder_attention_mask=torch.ones(len(pairs), seen.shape[1], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        heads = model.itm_head(read[:, : queries.shape[1]].to(model.itm_head.weight.dtype)).mean(1).float().cpu()
        return list((heads[:, 1] - heads[:, 0]).split([len(row) for row in wanted]))

    def _queried(self, pixels: dict[str, Tensor]) -> Tensor:
        """BLIP-2's query vectors of images `[B, Q, d]`, before they are brought to length 1."""
        model = self.model
        seen = model.vision_model(pixel_values=pixels["pixel_values"]).last_hidden_state
        read = model.qformer(
            query_embeds=model.query_tokens.expand(len(seen), -1, -1),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        projected: Tensor = model.vision_projection(read.to(model.vision_projection.weight.dtype))
        return projected

    def _values(self, logits: Tensor) -> list[float]:
        """What logits become, by the family's kind, without digits that are rounding noise of the arithmetic.

        A sigmoid's are often near 0, so it keeps five digits wherever they begin.
        """
        if self.family.kind == "probability":
            return [float(f"{value:.5g}") for value in logits.double().sigmoid().tolist()]
        scale = float(self.model.logit_scale.float().exp()) if self.family.kind == "cosine" else 1.0
        return [round(value / scale, 6 if self.family.kind == "cosine" else 4) for value in logits.tolist()]
