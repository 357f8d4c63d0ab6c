"""The pre-training step one would write with transformers' own BLIP modules: what `make bench` compares with.

It follows reference BLIP line by line: momentum encoders as deep copies updated parameter by parameter inside the
step, a queue, texts padded to 30 tokens, three image-grounded forwards that each project the image tokens anew,
negatives gathered in a Python loop.
B: batch, T: 30 tokens, N: image tokens, D: width, Q: queue, d: embedding width.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

EMBED, MOMENTUM, ALPHA, LENGTH = 256, 0.995, 0.4, 30


class TransformersPretrain(nn.Module):
    """ITC + ITM + LM on transformers' BLIP modules, encoder and decoder tied except self-attention."""

    def __init__(self, *, image_size: int, width: int, depth: int, heads: int, vocab: int, queue: int) -> None:
        super().__init__()
        vision = BlipVisionConfig(
            image_size=image_size, patch_size=16, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
            intermediate_size=4 * width, layer_norm_eps=1e-6, initializer_range=0.02,
        )  # fmt: skip
        text = BlipTextConfig(
            vocab_size=vocab, hidden_size=width, encoder_hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=depth, num_attention_heads=heads, is_decoder=True, bos_token_id=vocab - 2, pad_token_id=0,
            hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, sep_token_id=102, eos_token_id=102,
        )  # fmt: skip
        self.vision = BlipVisionModel(vision)
        self.encoder = BlipTextModel(text, add_pooling_layer=False)
        self.decoder = BlipTextLMHeadModel(text)
        self.vision_proj, self.text_proj = nn.Linear(width, EMBED), nn.Linear(width, EMBED)
        self.itm_head = nn.Linear(width, 2)
        self.temp = nn.Parameter(torch.full((1,), 0.07))
        self.momentum = nn.ModuleList(
            copy.deepcopy(module) for module in (self.vision, self.vision_proj, self.encoder, self.text_proj)
        )
        self.momentum.requires_grad_(False)
        _tie(self.encoder, self.decoder.bert)
        self.register_buffer("image_queue", F.normalize(torch.randn(EMBED, queue), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(EMBED, queue), dim=0))
        self.pointer, self.vocab = 0, vocab

    @torch.no_grad()
    def _update_momentum(self) -> None:
        for slow, fast in zip(
            self.momentum, (self.vision, self.vision_proj, self.encoder, self.text_proj), strict=True
        ):
            for slow_p, fast_p in zip(slow.parameters(), fast.parameters(), strict=True):
                slow_p.data = slow_p.data * MOMENTUM + fast_p.data * (1.0 - MOMENTUM)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Loss of one batch; pixels [B, 3, S, S], ids and mask [B, 30]."""
        batch = pixels.size(0)
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        tokens = self.vision(pixels).last_hidden_state
        image = F.normalize(self.vision_proj(tokens[:, 0]), dim=-1)
        text = F.normalize(self.text_proj(self.encoder(ids, attention_mask=mask).last_hidden_state[:, 0]), dim=-1)
        with torch.no_grad():
            self._update_momentum()
            slow_vision, slow_vision_proj, slow_encoder, slow_text_proj = self.momentum
            image_m = F.normalize(slow_vision_proj(slow_vision(pixels).last_hidden_state[:, 0]), dim=-1)
            text_m = F.normalize(slow_text_proj(slow_encoder(ids, attention_mask=mask).last_hidden_state[:, 0]), dim=-1)
            images_all = torch.cat([image_m.t(), self.image_queue.clone()], dim=1)
            texts_all = torch.cat([text_m.t(), self.text_queue.clone()], dim=1)
            hard = torch.zeros(batch, images_all.size(1))
            hard.fill_diagonal_(1)
            target_i2t = ALPHA * F.softmax(image_m @ texts_all / self.temp, dim=1) + (1 - ALPHA) * hard
            target_t2i = ALPHA * F.softmax(text_m @ images_all / self.temp, dim=1) + (1 - ALPHA) * hard
        sim_i2t, sim_t2i = image @ texts_all / self.temp, text @ images_all / self.temp
        itc = -(F.log_softmax(sim_i2t, 1) * target_i2t).sum(1).mean() / 2
        itc = itc - (F.log_softmax(sim_t2i, 1) * target_t2i).sum(1).mean() / 2
        self._enqueue(image_m, text_m)

        encoder_ids = ids.clone()
        encoder_ids[:, 0] = self.vocab - 1
        image_mask = torch.ones(tokens.shape[:2], dtype=torch.long)
        positive = self.encoder(
            encoder_ids, attention_mask=mask, encoder_hidden_states=tokens, encoder_attention_mask=image_mask
        ).last_hidden_state[:, 0]
        with torch.no_grad():
            weights_t2i = F.softmax(sim_t2i[:, :batch], dim=1) + 1e-4
            weights_t2i.fill_diagonal_(0)
            weights_i2t = F.softmax(sim_i2t[:, :batch], dim=1) + 1e-4
            weights_i2t.fill_diagonal_(0)
        negative_images = torch.stack([tokens[torch.multinomial(row, 1).item()] for row in weights_t2i])
        picks = [torch.multinomial(row, 1).item() for row in weights_i2t]
        negative_ids = torch.stack([encoder_ids[pick] for pick in picks])
        negative_mask = torch.stack([mask[pick] for pick in picks])
        negative = self.encoder(
            torch.cat([encoder_ids, negative_ids]),
            attention_mask=torch.cat([mask, negative_mask]),
            encoder_hidden_states=torch.cat([negative_images, tokens]),
            encoder_attention_mask=torch.cat([image_mask, image_mask]),
        ).last_hidden_state[:, 0]
        labels = torch.cat([torch.ones(batch, dtype=torch.long), torch.zeros(2 * batch, dtype=torch.long)])
        itm = F.cross_entropy(self.itm_head(torch.cat([positive, negative])), labels)

        decoder_ids = ids.clone()
        decoder_ids[:, 0] = self.vocab - 2
        logits = self.decoder(
            decoder_ids, attention_mask=mask, encoder_hidden_states=tokens, encoder_attention_mask=image_mask
        ).logits
        targets = decoder_ids.masked_fill(mask == 0, -100)
        lm = F.cross_entropy(logits[:, :-1].reshape(-1, self.vocab), targets[:, 1:].reshape(-1), label_smoothing=0.1)
        return itc + itm + lm

    @torch.no_grad()
    def _enqueue(self, image: Tensor, text: Tensor) -> None:
        batch = image.size(0)
        self.image_queue[:, self.pointer : self.pointer + batch] = image.t()
        self.text_queue[:, self.pointer : self.pointer + batch] = text.t()
        self.pointer = (self.pointer + batch) % self.image_queue.size(1)


def _tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Alias every parameter outside self-attention (docs/facts.md 4)."""
    for name, module in encoder.named_modules():
        if ".attention." in f".{name}." or not isinstance(getattr(module, "weight", None), nn.Parameter):
            continue
        twin = decoder.get_submodule(name)
        module.weight = twin.weight
        if getattr(module, "bias", None) is not None:
            module.bias = twin.bias
