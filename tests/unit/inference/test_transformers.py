"""Captioners and scorers of transformers' families, held against transformers itself on tiny random models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from components.common.errors import ConfigError, ModelError
from components.inference.arithmetic import Arithmetic
from components.inference.families import CAPTIONERS, SCORERS, captioner_family, scorer_family, settled_decoding
from components.inference.protocols import Written
from components.inference.transformers_captioner import TransformersCaptioner
from components.inference.transformers_scorer import TransformersScorer
from components.model.config import DecodingConfig
from tests.helpers import tiny_transformers
from tests.helpers.webshards import photo

CPU = Arithmetic(torch.device("cpu"), "fp32")
IMAGES = [np.asarray(photo(number, 30 + 7 * number, 90 - 6 * number)) for number in range(8)]
TEXTS = ["a red dog", "Two CATS on the grass .", "a big blue ball near a house " * 30]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder(role: str, name: str) -> Path:
        path = root / f"{role}-{name}"
        if not path.is_dir():
            (tiny_transformers.CAPTIONERS if role == "captioner" else tiny_transformers.SCORERS)[name](path)
        return path

    return folder


def captioner(folder: Path, **decoding: object) -> TransformersCaptioner:
    family = captioner_family(str(folder))
    return TransformersCaptioner(folder, family, settled_decoding(DecodingConfig.model_validate(decoding), family), CPU)


def test_the_tables_hold_what_is_tested_and_nothing_else() -> None:
    assert CAPTIONERS.keys() == {"blip", *tiny_transformers.CAPTIONERS}
    assert SCORERS.keys() == {"blip", *tiny_transformers.SCORERS}


@pytest.mark.parametrize("method", ["greedy", "nucleus"])
@pytest.mark.parametrize("name", sorted(tiny_transformers.CAPTIONERS))
def test_a_batch_says_what_each_image_alone_is_told(name: str, method: str, saved: Callable[[str, str], Path]) -> None:
    worker = captioner(saved("captioner", name), method=method, max_length=9, min_length=2, repetition_penalty=1.2)
    count = 2 if method == "nucleus" else 1
    seeds = [[100 * at + one for one in range(count)] for at in range(len(IMAGES))]
    together = worker.write(IMAGES, seeds)
    assert together == [worker.write([image], [seed])[0] for image, seed in zip(IMAGES, seeds, strict=True)]
    texts = {one.text for row in together for one in row}
    assert len(texts) >= 3, texts
    for one in (one for row in together for one in row):
        assert 2 <= one.tokens <= 9 and (one.finish == "length") == (one.tokens == 9)
        asked = worker.decoding.prompt
        assert not asked or asked not in one.text  # the prompt is cut
    if method == "nucleus":
        assert together != worker.write(IMAGES, [[7 + seed for seed in row] for row in seeds])


def test_a_models_own_settings_are_never_applied(saved: Callable[[str, str], Path], tmp_path: Path) -> None:
    """Wherever transformers would take them from: they are in the folder, and change nothing."""
    plain = saved("captioner", "llava")
    folder = tmp_path / "llava"
    folder.mkdir()
    for path in plain.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    own = json.loads((folder / "generation_config.json").read_text())
    own |= {"do_sample": True, "temperature": 3.0, "num_beams": 4, "repetition_penalty": 9.0, "max_new_tokens": 2}
    own |= {"no_repeat_ngram_size": 1, "bad_words_ids": [[5], [6], [7]], "forced_eos_token_id": 2, "top_k": 2}
    (folder / "generation_config.json").write_text(json.dumps(own))
    seeds = [[0]] * 3
    found = captioner(folder, max_length=7).write(IMAGES[:3], seeds)
    assert found == captioner(plain, max_length=7).write(IMAGES[:3], seeds)
    assert {one.finish for row in found for one in row} == {"length"}


@pytest.mark.parametrize("name", ["idefics3", "gemma3"])
def test_greedy_tokens_are_transformers_own(name: str, saved: Callable[[str, str], Path]) -> None:
    """By its processor and `generate`, as its documentation calls them, one image at a time."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = saved("captioner", name)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    prompt = CAPTIONERS[name].decoding["prompt"]

    def inputs_of(picture: Image.Image) -> Any:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        return processor.apply_chat_template([{"role": "user", "content": content}], **how)

    _holds(captioner(folder, max_length=6), model, processor.tokenizer, inputs_of)


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "internvl"])
def test_stills_are_told_as_by_those_who_read_video_too(name: str, saved: Callable[[str, str], Path]) -> None:
    """Their own processors cannot be made here, so the prompt is laid out by hand, as those lay it out."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    folder = saved("captioner", name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def inputs_of(picture: Image.Image) -> Any:
        marks, read = _laid_out(name, images, picture)
        text = f"user : {marks} {CAPTIONERS[name].decoding['prompt']} assistant : "
        inputs = {**tokenizer(text, return_tensors="pt"), **read}
        inputs.pop("token_type_ids", None)
        if name == "qwen3_vl":
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        return inputs

    _holds(captioner(folder, max_length=6), model, tokenizer, inputs_of)


def _laid_out(name: str, images: Any, picture: Image.Image) -> tuple[str, dict[str, torch.Tensor]]:
    """The signs that stand for an image in the prompt, and what the model reads of it."""
    if name == "smolvlm":
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        read = images([[picture]], return_row_col_info=True, return_tensors="pt")
        rows, columns = read.pop("rows")[0][0], read.pop("cols")[0][0]
        signs = ("<fake_token_around_image>", "<image>", "<global-img>")
        return get_image_prompt_string(int(rows), int(columns), 4, *signs), dict(read)
    if name == "internvl":
        read = images(picture, crop_to_patches=True, return_tensors="pt")
        return f"<img>{'<IMG_CONTEXT>' * 4 * int(read.pop('num_patches')[0])}</img>", dict(read)
    read = images(picture, return_tensors="pt")
    return f"<|vision_start|>{'<|image_pad|>' * (int(read['image_grid_thw'].prod()) // 4)}<|vision_end|>", dict(read)


def _holds(ours: TransformersCaptioner, model: Any, tokenizer: Any, inputs_of: Callable[[Image.Image], Any]) -> None:
    """Ours, of several images at once, against transformers' of each."""
    expected = []
    for image in IMAGES[:3]:
        inputs = inputs_of(Image.fromarray(image))
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(tokens, skip_special_tokens=True).strip())
    assert [row[0].text for row in ours.write(IMAGES[:3], [[0]] * 3)] == expected
    assert len(set(expected)) > 1, expected


def test_positions_stay_fine_in_narrow_arithmetic(saved: Callable[[str, str], Path]) -> None:
    """Weights are bf16; the frequencies of positions, which are none, are not rounded to three digits."""
    folder = saved("captioner", "qwen3_vl")
    family = captioner_family(str(folder))
    decoding = settled_decoding(DecodingConfig(), family)
    narrow = TransformersCaptioner(folder, family, decoding, Arithmetic(torch.device("cpu"), "bf16")).model
    assert {one.dtype for one in narrow.parameters()} == {torch.bfloat16}
    fine = dict(captioner(folder).model.named_buffers())
    assert any("inv_freq" in name for name in fine)
    for name, buffer in narrow.named_buffers():
        assert torch.equal(buffer, fine[name]), name


def test_an_image_that_the_model_refuses_is_an_error_of_its_own(saved: Callable[[str, str], Path]) -> None:
    worker = captioner(saved("captioner", "qwen2_5_vl"), min_length=0, max_length=4)
    strip = np.zeros((3, 900, 3), np.uint8)
    rows = worker.write([IMAGES[0], strip, IMAGES[1]], [[0]] * 3)
    assert rows[1] == [Written("", "error", 0, rows[1][0].detail)] and "aspect ratio" in rows[1][0].detail
    assert rows[0] + rows[2] == [row[0] for row in worker.write(IMAGES[:2], [[0]] * 2)]


def test_prompts_that_a_family_does_not_take(saved: Callable[[str, str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="git takes no prompt, not 'a photo of'"):
        captioner(saved("captioner", "git"), prompt="a photo of")
    with pytest.raises(ConfigError, match="knows no task 'a dog'.*<CAPTION>, <DETAILED_CAPTION>"):
        captioner(saved("captioner", "florence2"), prompt="a dog")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in saved("captioner", "llava").iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="has no chat template"):
        captioner(bare)


def _expected(folder: Path, name: str, texts: list[str]) -> torch.Tensor:
    """`logits_per_image` of transformers' own model and processor, called as documented."""
    from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

    model = AutoModelForZeroShotImageClassification.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    pictures = [Image.fromarray(image) for image in IMAGES]
    with torch.inference_mode():
        if name == "blip-2":
            columns = []
            for text in texts:
                how = {"return_tensors": "pt", "truncation": True, "max_length": 32 + 4}
                inputs = processor(images=pictures, text=[text] * len(pictures), **how)
                two = model(**inputs, use_image_text_matching_head=True).logits_per_image
                columns.append(two[:, 1] - two[:, 0])
            return torch.stack(columns, 1)
        padding, length = ("max_length", 64) if "siglip" in name else (True, 77)
        how = {"return_tensors": "pt", "truncation": True, "padding": padding, "max_length": length}
        lower = [text.lower() for text in texts] if "siglip" in name else texts
        inputs = processor(images=pictures, text=lower, **how)
        logits: torch.Tensor = model(**inputs).logits_per_image
        return logits


@pytest.mark.parametrize("name", sorted(tiny_transformers.SCORERS))
def test_logits_are_transformers_own(name: str, saved: Callable[[str, str], Path]) -> None:
    folder = saved("scorer", name)
    worker = TransformersScorer(folder, scorer_family(str(folder)), CPU)
    logits, cut = worker.logits(IMAGES, [TEXTS] * len(IMAGES))
    expected = _expected(folder, name, TEXTS)
    assert torch.allclose(torch.stack(logits), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05 and cut == {TEXTS[2]}

    rows = [TEXTS[:2], TEXTS[1:], [], TEXTS, TEXTS[:1], [], TEXTS[2:], TEXTS]
    judged = worker.judge_all(IMAGES, rows).readings
    alone = [worker.judge_all([image], [row]).readings[0] for image, row in zip(IMAGES, rows, strict=True)]
    for together, single, logit, row in zip(judged, alone, logits, rows, strict=True):
        assert [one.truncated for (one,) in together] == [text == TEXTS[2] for text in row]
        assert np.allclose([one.value for (one,) in together], [one.value for (one,) in single], atol=1e-5)
        where = [TEXTS.index(text) for text in row]
        scale = float(worker.model.logit_scale.exp()) if name == "clip" else 1.0
        values = logit[where] / scale if name == "clip" else logit[where].sigmoid()
        assert np.allclose([one.value for (one,) in together], values, atol=1e-5)
    for vectors in (worker.embed_images(IMAGES), worker.embed_texts(TEXTS)):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5)


def test_a_cut_text_keeps_its_end_token(saved: Callable[[str, str], Path]) -> None:
    folder = saved("scorer", "clip")
    worker = TransformersScorer(folder, scorer_family(str(folder)), CPU)
    tokens = {number: " ".join(["dog"] * number) for number in (74, 75, 76, 200)}
    encoded, cut = worker.encode(list(tokens.values()))
    ids = encoded["input_ids"]
    assert ids.shape[1] == 77 and cut == {tokens[76], tokens[200]}
    assert ids[1, -1] == ids[2, -1] == ids[3, -1] == 2 and torch.equal(ids[2], ids[3])


def test_weights_that_lack_a_part_and_pickles_are_refused(saved: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for path in saved("scorer", "clip").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights.pop("text_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weights of a CLIPModel are missing .*text_projection.weight"):
        TransformersScorer(folder, scorer_family(str(folder)), CPU)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin, a pickle"):
        TransformersScorer(folder, scorer_family(str(folder)), CPU)
