"""CapFilt's captioner and filter against the loop a user would write with transformers: same files, same images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipImageProcessor

from components.data.decoding import decode_image, resize_square, to_pixels
from components.inference.arithmetic import Arithmetic
from components.inference.captioner import Captioner
from components.inference.filter import Filter
from components.model.checkpoints.weights import load_captioner, load_filter
from components.model.config import DecodingConfig
from components.model.tokenizer import BlipTokenizer
from tests.helpers.doubled import SIXTH_DIGIT, Doubled
from tests.helpers.tiny_models import CORPUS
from tests.helpers.transformers_blip import save_checkpoints
from tests.helpers.webshards import encoded, photo

TEXTS = ["a red ball on the left", "two big dogs", "a tree", "the house under a small cat on the right of a tree"]
CPU = Arithmetic(torch.device("cpu"), "fp32")


@pytest.fixture(scope="module")
def tokenizer() -> BlipTokenizer:
    return BlipTokenizer.train(CORPUS, 200)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: BlipTokenizer) -> tuple[Path, Path]:
    return save_checkpoints(tmp_path_factory.mktemp("theirs"), tokenizer)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encoded(photo(seed, 60 + 7 * seed, 90), quality=90) for seed in range(6)]


def squares(images: list[bytes], size: int) -> np.ndarray:
    return np.stack([resize_square(decode_image(data), size) for data in images])


def their_pixels(folder: Path, images: list[Image.Image], *, resize: bool = True) -> torch.Tensor:
    processor = BlipImageProcessor.from_pretrained(folder)
    return processor(images, return_tensors="pt", do_resize=resize)["pixel_values"]


def same_pixels(folder: Path, images: list[bytes]) -> torch.Tensor:
    """Their normalisation of our squares: what rounding one pixel otherwise does is not what is tested."""
    return their_pixels(folder, [Image.fromarray(square) for square in squares(images, 48)], resize=False)


def test_pixels_are_theirs_within_two_levels(folders: tuple[Path, Path], images: list[bytes]) -> None:
    preprocessor = load_captioner(folders[0]).preprocessor
    ours = to_pixels(squares(images, preprocessor.size), preprocessor.mean, preprocessor.std)
    theirs_ = their_pixels(folders[0], [Image.open(io.BytesIO(data)) for data in images])
    assert (ours - theirs_).abs().max() <= 2.01 / 255 / min(preprocessor.std)
    torch.testing.assert_close(ours, same_pixels(folders[0], images), atol=1e-5, rtol=0)


def test_greedy_captions_are_theirs(folders: tuple[Path, Path], tokenizer: BlipTokenizer, images: list[bytes]) -> None:
    decoding = DecodingConfig(method="greedy", max_length=16, min_length=6)
    ours = Captioner(load_captioner(folders[0]), decoding, CPU)
    assert ours.size == 48
    captions = ours.caption(squares(images, 48), [[0]] * len(images))
    model = BlipForConditionalGeneration.from_pretrained(folders[0]).eval()
    prompt = torch.tensor([[*tokenizer.prompt_ids(decoding.prompt), tokenizer.sep_id]] * len(images))
    with torch.inference_mode():
        ids = model.generate(
            pixel_values=same_pixels(folders[0], images),
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_beams=1,
            min_length=6,
            max_length=16,
        )
    skipped = ids[:, prompt.shape[1] - 1 :]  # their generate takes the prompt's [SEP] away
    assert [row[0] for row in captions] == [tokenizer.decode(row.tolist()) for row in skipped]
    assert len({row[0] for row in captions}) > 1


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:2], TEXTS])
def test_scores_are_theirs(
    folders: tuple[Path, Path], tokenizer: BlipTokenizer, images: list[bytes], texts: list[str]
) -> None:
    ours = Filter(load_filter(folders[1], position_zero="cls"), CPU)
    asked = [texts[: 1 + index % len(texts)] for index in range(len(images))]
    scores = ours.score(squares(images, 48), asked)
    model = BlipForImageTextRetrieval.from_pretrained(folders[1]).eval()
    pixels = same_pixels(folders[1], images)
    spread = []
    for index, row in enumerate(asked):
        for text, score in zip(row, scores[index], strict=True):
            batch = tokenizer.encode([text], 35)
            inputs = {
                "input_ids": batch.ids, "attention_mask": batch.mask.long(), "pixel_values": pixels[index : index + 1]
            }  # fmt: skip
            with torch.inference_mode():
                itm = model(**inputs, use_itm_head=True).itm_score.softmax(-1)[0, 1].item()
                itc = model(**inputs, use_itm_head=False).itm_score[0, 0].item()
            assert abs(score.probability - itm) < 1e-3
            assert abs(score.similarity - itc) < 1e-3
            spread.append(itm)
    assert max(spread) - min(spread) > 0.01


def test_a_score_does_not_depend_on_the_company(folders: tuple[Path, Path], images: list[bytes]) -> None:
    ours = Filter(load_filter(folders[1]), Doubled(torch.device("cpu"), "fp32"))
    alone = ours.score(squares(images[:1], 48), [TEXTS[:1]])[0][0]
    among = ours.score(squares(images, 48), [TEXTS, *[TEXTS[1:]] * (len(images) - 1)])[0][0]
    assert alone == pytest.approx(among, abs=SIXTH_DIGIT)  # texts differ by 1e-2


def test_captions_do_not_depend_on_the_company(folders: tuple[Path, Path], images: list[bytes]) -> None:
    ours = Captioner(load_captioner(folders[0]), DecodingConfig(), CPU)
    seeds = [[10 * index, 10 * index + 1] for index in range(len(images))]
    together = ours.caption(squares(images, 48), seeds)
    alone = [ours.caption(squares([data], 48), [row])[0] for data, row in zip(images, seeds, strict=True)]
    assert together == alone


def test_duplicates_are_scored_once_and_nothing_is_scored_for_nothing(
    folders: tuple[Path, Path], images: list[bytes]
) -> None:
    ours = Filter(load_filter(folders[1]), CPU)
    row = ours.score(squares(images[:2], 48), [["a tree", "A tree!", "a tree"], []])
    assert row[0][0] == row[0][1] == row[0][2]
    assert row[1] == []
    assert ours.score(squares(images[:1], 48), [[]]) == [[]]


def test_bf16_is_close(folders: tuple[Path, Path], images: list[bytes]) -> None:
    asked = [TEXTS] * len(images)
    exact = Filter(load_filter(folders[1]), CPU).score(squares(images, 48), asked)
    rough = Filter(load_filter(folders[1]), Arithmetic(torch.device("cpu"), "bf16")).score(squares(images, 48), asked)
    differences = np.abs(np.array(exact) - np.array(rough))
    assert 0 < differences.max() < 0.1
