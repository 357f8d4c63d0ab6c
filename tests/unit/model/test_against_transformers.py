"""Our network beside transformers' with the same random weights: logits, and what greedy and beam search write."""

import pytest
import torch
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

from components.model.blip import BlipCaptioner, BlipFilter, BlipVqa
from components.model.config import BlipConfig, DecodingConfig
from components.model.decoding import generate
from tests.helpers.transformers_blip import CLS, DEC, ENC, SEP, TINY, fill_text, fill_vision, theirs

PROMPT = [DEC, 5, 6, 7]


@pytest.fixture(scope="module")
def captioners() -> tuple[BlipForConditionalGeneration, BlipCaptioner]:
    other = theirs(BlipForConditionalGeneration)
    with torch.no_grad():
        other.text_decoder.cls.predictions.bias[SEP] += 2.5  # so that texts end early, and at different lengths
    model = BlipCaptioner(TINY).eval()
    weights = dict(other.state_dict())
    fill_vision(model.vision_model, weights)
    fill_text(model.text, weights, "text_decoder.bert.", "decoder")
    return other, model


def pixels(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def padded_texts(lengths: tuple[int, ...], seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids[:, 0] = CLS
    return ids.masked_fill(~mask, 0), mask


@torch.no_grad()
def test_image_tokens(captioners):
    other, model = captioners
    expected = other.vision_model(pixels(3)).last_hidden_state
    torch.testing.assert_close(model.vision_model(pixels(3)), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_captioning_logits(captioners):
    other, model = captioners
    ids, mask = padded_texts((9, 4, 7))
    ids[:, 0] = DEC
    expected = other(pixel_values=pixels(3), input_ids=ids, attention_mask=mask.long()).logits
    logits = model.logits(ids, mask, model.encode_images(pixels(3)))
    torch.testing.assert_close(logits[mask], expected[mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize(("shortest", "longest"), [(5, 20), (0, 12), (12, 14), (0, 5)])
@pytest.mark.parametrize(("method", "beams"), [("greedy", 1), ("beam", 3), ("beam", 2)])
def test_search_writes_the_same_tokens(captioners, method, beams, shortest, longest, penalty):
    other, model = captioners
    prompt = torch.tensor([[*PROMPT, SEP]]).repeat(12, 1)  # their generate drops the last token
    expected = other.generate(
        pixel_values=pixels(12), input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
        num_beams=beams, min_length=shortest, max_length=longest, repetition_penalty=penalty,
    )  # fmt: skip
    config = DecodingConfig(
        method=method, beams=beams, min_length=shortest, max_length=longest, repetition_penalty=penalty
    )
    written = generate(model, model.encode_images(pixels(12)), PROMPT, config)
    assert written == [until_end(row[len(PROMPT) :].tolist()) for row in expected]


def test_search_ends_at_different_lengths(captioners):
    """Otherwise the test above would say nothing about texts that end, and images that leave."""
    _, model = captioners
    config = DecodingConfig(method="beam", min_length=0, max_length=20)
    assert len({len(row) for row in generate(model, model.encode_images(pixels(12)), PROMPT, config)}) > 3


def until_end(row: list[int]) -> list[int]:
    return row[: row.index(SEP)] if SEP in row else row


@torch.no_grad()
@pytest.mark.parametrize("zero", ["enc", "cls"])
def test_filter(zero):
    other = theirs(BlipForImageTextRetrieval)
    model = BlipFilter(TINY, zero).eval()
    weights = dict(other.state_dict())
    fill_vision(model.vision_model, weights)
    fill_text(model.text, weights, "text_encoder.", "encoder")
    for head in ("vision_proj", "text_proj", "itm_head"):
        getattr(model, head).load_state_dict(getattr(other, head).state_dict())
    ids, mask = padded_texts((6, 10, 3))
    kv, image_embed = model.image_features(pixels(3))
    similarity = image_embed @ model.text_features(ids, mask).T
    match = model.match_logits(ids, mask, kv)
    expected = other(ids, pixels(3), use_itm_head=False, attention_mask=mask.long()).itm_score
    torch.testing.assert_close(similarity, expected, atol=1e-4, rtol=1e-4)
    first = ids.clone()
    first[:, 0] = ENC if zero == "enc" else CLS
    expected = other(first, pixels(3), attention_mask=mask.long()).itm_score
    torch.testing.assert_close(match, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_question_answering():
    """Questions of different lengths in one batch of ours, one by one in transformers.

    transformers 5.23 drops the mask over padded question states on its way, so a batch of its own would differ; and it
    has one width for what both stacks attend to, so image and text are equally wide here.
    """
    config: BlipConfig = TINY.with_vision(width=32, heads=4)
    other = theirs(BlipForQuestionAnswering, config)
    model = BlipVqa(config).eval()
    weights = dict(other.state_dict())
    fill_vision(model.vision_model, weights)
    fill_text(model.text_encoder, weights, "text_encoder.", "encoder")
    fill_text(model.text_decoder, weights, "text_decoder.bert.", "decoder")
    lengths = (8, 5, 6)
    questions, mask = padded_texts(lengths)
    answers, _ = padded_texts((4, 4, 4), seed=5)
    questions[:, 0], answers[:, 0] = ENC, DEC
    kv = model.encode_questions(pixels(3), questions, mask)
    logits = model.logits(answers, None, kv)
    written = generate(model, kv, [DEC], DecodingConfig(method="beam", min_length=0, max_length=10))
    for row, length in enumerate(lengths):
        question, image, answer = questions[row : row + 1, :length], pixels(3)[row : row + 1], answers[row : row + 1]
        tokens = other.vision_model(image).last_hidden_state
        states = other.text_encoder(input_ids=question, encoder_hidden_states=tokens).last_hidden_state
        expected = other.text_decoder(input_ids=answer, encoder_hidden_states=states).logits
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-4, rtol=1e-4)
        expected = other.generate(question, image, do_sample=False, num_beams=3, min_length=0, max_length=10)
        assert written[row] == until_end(expected[0, 1:].tolist())
