"""ViT-B/16 and BERT-base, all twelve layers, beside transformers: logits and what searches write, at 224 and at 384.

One model of 360 M random weights on each side plays all roles (about 3 GiB together): a question-answering model's
vision and two text stacks have the very shapes of the captioner's and the filter's.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import BlipConfig as TheirConfig
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

from components.model.blip import BlipCaptioner, BlipFilter, BlipVqa
from components.model.config import BlipConfig, DecodingConfig, VisionConfig
from components.model.decoding import generate
from tests.helpers.transformers_blip import fill_text, fill_vision

LARGEST = 384
EPS = {224: 1e-5, 384: 1e-6}  # as the hub's configs have it, and as BLIP was trained
CONFIG = BlipConfig(vision=VisionConfig(image_size=LARGEST))
TEXT = CONFIG.text
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WORDS = torch.tensor([[0, 1037, 2450, 3564, 2006, 1996, 3509, 102], [0, 1037, 3899, 102, 0, 0, 0, 0]])
MASK = WORDS.ne(0).index_fill(1, torch.tensor([0]), True)


class Side:
    """Both implementations of one role."""

    def __init__(self, theirs: nn.Module, ours: nn.Module) -> None:
        self.theirs, self.ours = theirs.eval(), ours.eval()


class Models:
    """All roles over one set of weights, at any image size up to 384."""

    def __init__(self) -> None:
        theirs = self._question_answering()
        with torch.device("meta"):
            writing, matching = BlipForConditionalGeneration(theirs.config), BlipForImageTextRetrieval(theirs.config)
            ours, captioner, filter = BlipVqa(CONFIG), BlipCaptioner(CONFIG), BlipFilter(CONFIG)
        writing.vision_model, writing.text_decoder = theirs.vision_model, theirs.text_decoder
        matching.vision_model, matching.text_encoder = theirs.vision_model, theirs.text_encoder
        weights = dict(theirs.state_dict())
        ours = ours.to_empty(device="cpu")
        fill_vision(ours.vision_model, weights)
        fill_text(ours.text_encoder, weights, "text_encoder.", "encoder")
        fill_text(ours.text_decoder, weights, "text_decoder.bert.", "decoder")
        captioner.vision_model, captioner.text = ours.vision_model, ours.text_decoder
        filter.vision_model, filter.text = ours.vision_model, ours.text_encoder
        for name in ("vision_proj", "text_proj", "itm_head"):
            head = randomised(getattr(matching, name).to_empty(device="cpu"))
            setattr(matching, name, head)
            setattr(filter, name, head)
        self.captioner, self.filter, self.vqa = Side(writing, captioner), Side(matching, filter), Side(theirs, ours)
        self._positions = ours.vision_model.positions.detach().clone()

    @staticmethod
    def _question_answering() -> BlipForQuestionAnswering:
        vision = {"image_size": LARGEST}
        text = {"vocab_size": TEXT.vocab_size, "num_attention_heads": TEXT.heads, "encoder_hidden_size": 768}
        tokens = {"bos_token_id": TEXT.dec_id, "sep_token_id": TEXT.sep_id, "eos_token_id": TEXT.sep_id}
        config = TheirConfig(vision_config=vision, text_config={**text, **tokens, "pad_token_id": TEXT.pad_id})
        with torch.device("meta"):
            model = BlipForQuestionAnswering(config)
        model = model.to_empty(device="cpu")
        model.tie_weights()
        for module in model.modules():  # what to_empty left unset besides parameters
            if hasattr(module, "position_ids"):
                module.position_ids.copy_(torch.arange(module.position_ids.shape[1])[None])
        return randomised(model)

    def at(self, size: int) -> "Models":
        """The same models for pictures of another size: fewer positions, and the epsilon that goes with it."""
        rows = 1 + (size // 16) ** 2
        theirs, ours = self.vqa.theirs.vision_model, self.vqa.ours.vision_model
        theirs.embeddings.position_embedding = nn.Parameter(self._positions[:, :rows])
        ours.positions = nn.Parameter(self._positions[:, :rows])
        ours.config = ours.config.model_copy(update={"image_size": size})
        for side in (theirs, ours):
            for module in side.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = EPS[size]
        return self


def randomised(model: nn.Module) -> nn.Module:
    """Weights as wide as trained ones, so that outputs differ from token to token."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(1.0 if scale else 0.0, 0.04, generator=generator)
    return model


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with torch.inference_mode():
        yield Models()


@pytest.fixture(params=[224, 384])
def sized(models: Models, request: pytest.FixtureRequest) -> tuple[Models, Tensor]:
    size = request.param
    return models.at(size), torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))


def opened(first: int) -> Tensor:
    return WORDS.index_fill(1, torch.tensor([0]), first)


def until_end(row: list[int]) -> list[int]:
    return row[: row.index(TEXT.sep_id)] if TEXT.sep_id in row else row


@torch.inference_mode()
def test_every_role_at_base_size(sized: tuple[Models, Tensor]) -> None:
    models, pixels = sized
    tokens = models.vqa.theirs.vision_model(pixels).last_hidden_state
    own = models.vqa.ours.vision_model(pixels)
    torch.testing.assert_close(own, tokens, **CLOSE)
    both = tokens.expand(2, -1, -1)
    assert tokens.std(dim=1).mean() > 0.1, "tokens differ, or agreement would say little"

    ids, writer = opened(TEXT.dec_id), models.captioner
    decoder = writer.theirs.text_decoder
    expected = decoder(input_ids=ids, attention_mask=MASK.long(), encoder_hidden_states=both).logits
    kv = writer.ours.project_images(own)
    logits = writer.ours.logits(ids, MASK, kv)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits[MASK], expected[MASK], **CLOSE)

    filter = models.filter
    encoder, head = filter.theirs.text_encoder, filter.theirs.itm_head
    for zero, first in (("enc", TEXT.enc_id), ("cls", TEXT.cls_id)):
        states = encoder(input_ids=opened(first), attention_mask=MASK.long(), encoder_hidden_states=both)
        scores = filter.ours.match_logits(WORDS, MASK, filter.ours.project_images(own), position_zero=zero)
        torch.testing.assert_close(scores, head(states.last_hidden_state[:, 0]), **CLOSE)
    ids = opened(TEXT.cls_id)
    states = encoder(input_ids=ids, attention_mask=MASK.long()).last_hidden_state[:, 0]
    theirs = [filter.theirs.vision_proj(tokens[:, 0]), filter.theirs.text_proj(states)]
    image, text = (nn.functional.normalize(part, dim=-1) for part in theirs)
    similarity = filter.ours.image_embed(own) @ filter.ours.text_features(ids, MASK).T
    torch.testing.assert_close(similarity, image @ text.T, **CLOSE)

    asked, answers = opened(TEXT.enc_id), opened(TEXT.dec_id)[:, :4]
    vqa = models.vqa
    questions = vqa.ours.encode_questions(pixels.expand(2, -1, -1, -1), asked, MASK)
    logits = vqa.ours.logits(answers, None, questions)
    for row, length in enumerate(MASK.sum(1).tolist()):  # unpadded: transformers loses the mask over question states
        states = vqa.theirs.text_encoder(input_ids=asked[row : row + 1, :length], encoder_hidden_states=tokens)
        expected = vqa.theirs.text_decoder(
            input_ids=answers[row : row + 1], encoder_hidden_states=states.last_hidden_state
        ).logits
        torch.testing.assert_close(logits[row : row + 1], expected, **CLOSE)


@torch.inference_mode()
def test_searches_write_the_same_tokens_at_base_size(sized: tuple[Models, Tensor]) -> None:
    models, pixels = sized
    writer = models.captioner
    prompt = [TEXT.dec_id, 1037, 3861, 1997]
    given = torch.tensor([[*prompt, TEXT.sep_id]])  # their generate drops the last token
    kv = writer.ours.encode_images(pixels)
    for method, beams in (("greedy", 1), ("beam", 3)):
        expected = writer.theirs.generate(
            pixel_values=pixels, input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
            num_beams=beams, min_length=5, max_length=12, repetition_penalty=1.5,
        )[0].tolist()  # fmt: skip
        config = DecodingConfig(method=method, beams=beams, min_length=5, max_length=12, repetition_penalty=1.5)
        written = generate(writer.ours, kv, prompt, config)
        assert written == [until_end(expected[len(prompt) :])]
        assert len(set(written[0])) > 2, "more than one word over and over"
