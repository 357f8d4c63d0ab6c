"""Model folders both ways: what transformers saves we load, what we save transformers loads, and the logits agree."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

from components.model.blip import BlipCaptioner, BlipFilter, BlipPretrain, BlipVqa
from components.model.checkpoints.weights import (
    load_base,
    load_captioner,
    load_filter,
    load_vqa,
    save_model,
    to_original,
)
from components.model.config import BlipConfig, DecodingConfig, TextConfig, VisionConfig
from components.model.decoding import generate
from components.model.tokenizer import BlipTokenizer
from tests.helpers.transformers_blip import theirs

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
TOKENIZER = BlipTokenizer.from_tokens(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "image", "of", *(f"word{i}" for i in range(40))]
)
SHAPES = {
    "as the hub has it: eps 1e-5": (32, 16, 48, 3, 2, 4, 1e-5),
    "as BLIP has it: eps 1e-6": (48, 8, 36, 2, 3, 2, 1e-6),
    "wider text than vision": (32, 8, 24, 2, 1, 4, 1e-6),
}


def scattered(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In eval mode, with weights so wide that outputs differ from token to token."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.3, generator=generator)
    return model.eval()


def config_of(shape: str) -> BlipConfig:
    size, patch, width, vision_heads, depth, text_heads, eps = SHAPES[shape]
    return BlipConfig(
        vision=VisionConfig(
            image_size=size, patch_size=patch, width=width, depth=depth, heads=vision_heads, layer_norm_eps=eps
        ),
        text=TextConfig(width=48, depth=3 - depth % 2, heads=text_heads, intermediate=80, max_positions=24),
        embed_dim=20,
        queue_size=6,
    ).for_tokenizer(TOKENIZER)


def inputs(config: BlipConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, ids and mask of four texts, two of them padded."""
    generator = torch.Generator().manual_seed(seed)
    size = config.vision.image_size
    mask = torch.arange(9) < torch.tensor([9, 5, 7, 9])[:, None]
    ids = torch.randint(5, 45, (4, 9), generator=generator).masked_fill(~mask, config.text.pad_id)
    ids[:, 0] = config.text.cls_id
    return torch.randn(4, 3, size, size, generator=generator), ids, mask


def folder_of_theirs(model: torch.nn.Module, folder: Path) -> Path:
    """A folder as on the hub: no [DEC] and [ENC] in the vocabulary, no section of ours in the config."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENIZER._tokens()[:-2]))
    return folder


def with_first(ids: torch.Tensor, first: int) -> torch.Tensor:
    return torch.cat([torch.full_like(ids[:, :1], first), ids[:, 1:]], dim=1)


def compare_captioning(ours: BlipCaptioner | BlipPretrain, other: BlipForConditionalGeneration) -> None:
    pixels, ids, mask = inputs(ours.config)
    ids = with_first(ids, ours.config.text.dec_id)
    expected = other(pixel_values=pixels, input_ids=ids, attention_mask=mask.long()).logits
    logits = ours.logits(ids, mask, ours.encode_images(pixels))
    torch.testing.assert_close(logits[mask], expected[mask], **CLOSE)


def compare_matching(ours: BlipFilter | BlipPretrain, other: BlipForImageTextRetrieval) -> None:
    pixels, ids, mask = inputs(ours.config)
    image_kv, image_embed = ours.image_features(pixels)
    for zero, first in (("enc", ours.config.text.enc_id), ("cls", ours.config.text.cls_id)):
        expected = other(with_first(ids, first), pixels, attention_mask=mask.long()).itm_score
        torch.testing.assert_close(ours.match_logits(ids, mask, image_kv, position_zero=zero), expected, **CLOSE)
    cosines = other(ids, pixels, attention_mask=mask.long(), use_itm_head=False).itm_score
    torch.testing.assert_close(image_embed @ ours.text_features(ids, mask).T, cosines, **CLOSE)


def compare_answers(ours: BlipVqa, other: BlipForQuestionAnswering) -> None:
    """One by one, unpadded: transformers 5.23 loses the mask over padded question states on the way."""
    pixels, ids, mask = inputs(ours.config)
    answers = with_first(ids[:, :4], ours.config.text.dec_id)
    questions = ours.encode_questions(pixels, ids, mask)
    logits = ours.logits(answers, None, questions)
    for row in range(len(ids)):
        length = int(mask[row].sum())
        question = with_first(ids[row : row + 1, :length], ours.config.text.enc_id)
        states = other.text_encoder(
            input_ids=question,
            encoder_hidden_states=other.vision_model(pixels[row : row + 1]).last_hidden_state,
        ).last_hidden_state
        expected = other.text_decoder(input_ids=answers[row : row + 1], encoder_hidden_states=states).logits
        torch.testing.assert_close(logits[row : row + 1], expected, **CLOSE)


CASES = {
    "captioner": (BlipForConditionalGeneration, BlipCaptioner, load_captioner, compare_captioning),
    "filter": (BlipForImageTextRetrieval, BlipFilter, load_filter, compare_matching),
    "vqa": (BlipForQuestionAnswering, BlipVqa, load_vqa, compare_answers),
}
CASES_AND_SHAPES = [(case, shape) for case in CASES for shape in SHAPES if case != "vqa" or "hub" in shape]


def read_by_transformers(kind: type, folder: Path) -> torch.nn.Module:
    """Without our code, every parameter found."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(("case", "shape"), CASES_AND_SHAPES)
def test_their_folder_in_our_model(case: str, shape: str, tmp_path: Path) -> None:
    kind, _, load, compare = CASES[case]
    other = theirs(kind, config_of(shape))
    loaded = load(folder_of_theirs(other, tmp_path))
    assert loaded.model.config.vision.layer_norm_eps == config_of(shape).vision.layer_norm_eps
    assert loaded.model.config.text.heads == config_of(shape).text.heads
    assert loaded.tokenizer.digest == TOKENIZER.digest
    compare(loaded.model, other)


@torch.no_grad()
@pytest.mark.parametrize(("case", "shape"), CASES_AND_SHAPES)
def test_our_folder_in_their_model(case: str, shape: str, tmp_path: Path) -> None:
    kind, ours, load, compare = CASES[case]
    model = scattered(ours(config_of(shape)))
    save_model(model, TOKENIZER, tmp_path)
    other, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    compare(model, other.eval())
    compare(load(tmp_path).model, other)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind.__name__]


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_pretrained_folder_holds_captioner_and_filter(shape: str, tmp_path: Path) -> None:
    model = scattered(BlipPretrain(config_of(shape)))
    save_model(model, TOKENIZER, tmp_path)
    captioner = read_by_transformers(BlipForConditionalGeneration, tmp_path)
    retrieval = read_by_transformers(BlipForImageTextRetrieval, tmp_path)
    compare_captioning(model, captioner)
    compare_captioning(load_captioner(tmp_path).model, captioner)
    compare_captioning(load_base(tmp_path).model, captioner)
    compare_matching(model, retrieval)
    compare_matching(load_filter(tmp_path).model, retrieval)
    compare_matching(load_base(tmp_path).model, retrieval)


@torch.no_grad()
@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_folder_writes_the_same_texts_there_and_here(method: str, tmp_path: Path) -> None:
    config = config_of("as the hub has it: eps 1e-5")
    model = scattered(BlipCaptioner(config))
    model.text.head.bias[config.text.sep_id] += 3.5
    save_model(model, TOKENIZER, tmp_path)
    other = read_by_transformers(BlipForConditionalGeneration, tmp_path)
    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    prompt = TOKENIZER.prompt_ids("an image of")
    ids = torch.tensor([[*prompt, config.text.sep_id]]).repeat(8, 1)
    expected = other.generate(
        pixel_values=pixels,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=3 if method == "beam" else 1,
        max_length=16,
        min_length=5,
    )
    decoding = DecodingConfig(method=method, beams=3, max_length=16, min_length=5)
    loaded = load_captioner(tmp_path)
    written = generate(loaded.model, loaded.model.encode_images(pixels), prompt, decoding)
    sep = config.text.sep_id
    rows = [row[len(prompt) :] for row in expected.tolist()]
    assert written == [row[: row.index(sep)] if sep in row else row for row in rows]
    assert len({len(row) for row in written}) > 1


@torch.no_grad()
@pytest.mark.parametrize("case", ["captioner", "filter"])
def test_another_image_size_as_transformers_interpolates(case: str, tmp_path: Path) -> None:
    """Bicubic, corners not aligned, the class token's row kept (docs/facts.md 1)."""
    kind, _, load, _ = CASES[case]
    other = theirs(kind, config_of("as BLIP has it: eps 1e-6"))
    loaded = load(folder_of_theirs(other, tmp_path), image_size=80)
    assert loaded.preprocessor.size == loaded.model.config.vision.image_size == 80
    pixels = torch.randn(2, 3, 80, 80)
    expected = other.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(loaded.model.vision_model(pixels), expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", [BlipCaptioner, BlipFilter, BlipPretrain, BlipVqa])
def test_the_original_layout_goes_round(kind: type, tmp_path: Path) -> None:
    """Sizes are read off the shapes, which needs heads of 64 as in every model of that repository."""
    config = BlipConfig(
        vision=VisionConfig(image_size=32, patch_size=16, width=128, depth=2, heads=2),
        text=TextConfig(width=128, depth=2, heads=2, intermediate=64, max_positions=24),
        embed_dim=12,
    ).for_tokenizer(TOKENIZER)
    model = kind(config)
    state = to_original(model)
    assert any(name.startswith("visual_encoder.blocks.1.attn.proj") for name in state)
    assert not any(name.startswith("vision_model") for name in state)
    if kind is not BlipFilter:
        tied = state["text_decoder.bert.embeddings.word_embeddings.weight"]
        torch.testing.assert_close(state["text_decoder.cls.predictions.decoder.weight"], tied)
    # what real files hold besides: momentum copies, queues, position ids
    state["visual_encoder_m.cls_token"] = torch.zeros(1, 1, 128)
    state |= {"image_queue": torch.zeros(12, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    prefix = "text_decoder.bert" if kind is BlipCaptioner else "text_encoder"
    state[f"{prefix}.embeddings.position_ids"] = torch.arange(24)[None]
    path = tmp_path / "model.pth"
    torch.save({"model": state, "epoch": 4}, path)
    load = {BlipCaptioner: load_captioner, BlipFilter: load_filter, BlipPretrain: load_base, BlipVqa: load_vqa}[kind]
    loaded = load(path, tokenizer=TOKENIZER)
    assert loaded.model.config.vision == config.vision and loaded.model.config.text == config.text
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(loaded.model.get_parameter(name), parameter, rtol=0, atol=0)


def parameters(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_parameter_counts_of_the_paper() -> None:
    """Table 3: 224 M shared, 252 M all but self-attention shared, 361 M nothing shared (docs/facts.md 4)."""
    with torch.device("meta"):
        base = BlipPretrain(BlipConfig())
        vqa = BlipVqa(BlipConfig())
        large = BlipConfig(vision=VisionConfig(width=1024, depth=24, heads=16))
        large_base = BlipPretrain(large)
    assert parameters(base) == pytest.approx(252.44, abs=0.005)
    own_attention = sum(parameters(layer.decoder_attention) for layer in base.text.layers)
    assert parameters(base) - own_attention == pytest.approx(224.08, abs=0.005)
    heads = sum(parameters(head) for head in (base.vision_proj, base.text_proj, base.itm_head))
    assert parameters(vqa) + heads == pytest.approx(361.33, abs=0.005)
    assert parameters(large_base) == pytest.approx(474.7, abs=0.05)


@torch.no_grad()
@pytest.mark.parametrize(("case", "size"), [("captioner", 224), ("filter", 384)])
def test_base_size(case: str, size: int, tmp_path: Path) -> None:
    """ViT-B/16 and BERT-base widths and heads, over folders; two layers of the twelve, to be quick."""
    kind, _, load, compare = CASES[case]
    config = BlipConfig(
        vision=VisionConfig(image_size=size, depth=2), text=TextConfig(depth=2, max_positions=40)
    ).for_tokenizer(TOKENIZER)
    other = theirs(kind, config, spread=0.02)
    compare(load(folder_of_theirs(other, tmp_path)).model, other)
