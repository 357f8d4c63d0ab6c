"""CapFilt (caption, then score the caption and one web text) against the loop written with transformers, in one run.

    python -m tests.benchmarks.bench_capfilt [--image-size 224 384] [--dtype fp32 bf16] [--batch 8] [--device cuda]

ViT-B/16 and BERT-base with random weights; the same files, images, lengths and greedy search on both sides, which
take turns; seconds are medians. Captions must be equal and scores within 1e-3 in fp32, else the figures mean nothing.

Ours also gives every text's ITC similarity, which takes the usual loop another pass of everything; `ours, ITM alone`
leaves it out, so that both sides give the same.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.decoding import to_pixels
from components.inference.arithmetic import Arithmetic
from components.inference.captioner import Captioner
from components.inference.filter import Filter
from components.model.blip import BlipCaptioner, BlipFilter
from components.model.checkpoints.weights import load_captioner, load_filter, save_model
from components.model.config import BlipConfig, DecodingConfig, TextConfig, VisionConfig
from components.model.tokenizer import BERT_TOKENS, BlipTokenizer
from tests.benchmarks.transformers_capfilt import TransformersCapfilt

VOCAB = 30522
DECODING = DecodingConfig(method="greedy", min_length=5, max_length=20)
WEB_TEXT = "w100 w200 w300 w400 w500 w600 w700 w800 w900 w1000 w1100 w1200"


class MatchingAlone(Filter):
    """Our filter giving no more than the usual loop does."""

    def _similarities(self, ids: torch.Tensor, mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return images.new_zeros(images.shape[0])


def main() -> None:
    """Print a table of both sides and the ratios."""
    options = _options()
    torch.set_num_threads(options.threads)
    for size in options.image_size:
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder), size, options)
            seconds = {}
            for dtype in options.dtype:
                seconds[dtype] = _compare(Path(folder), size, dtype, options)
            if len(seconds) == 2:
                ratio = seconds["fp32"]["transformers"] / seconds["bf16"]["ours"]
                sys.stdout.write(f"capfilt {size}px  our bf16 against their fp32: {ratio:.2f}x\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--image-size", type=int, nargs="+", default=[224])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    return parser.parse_args()


def _save(folder: Path, size: int, options: argparse.Namespace) -> None:
    """Random checkpoints in Hugging Face form."""
    tokenizer = BlipTokenizer.from_tokens([*BERT_TOKENS, *(f"w{index}" for index in range(VOCAB - len(BERT_TOKENS)))])
    heads = options.width // 64
    config = BlipConfig(
        vision=VisionConfig(image_size=size, width=options.width, depth=options.depth, heads=heads),
        text=TextConfig(width=options.width, depth=options.depth, heads=heads, intermediate=4 * options.width),
        queue_size=0,
    ).for_tokenizer(tokenizer)
    torch.manual_seed(0)
    for name, kind in (("captioner", BlipCaptioner), ("filter", BlipFilter)):
        save_model(kind(config), tokenizer, folder / name)


def _compare(folder: Path, size: int, dtype: str, options: argparse.Namespace) -> dict[str, float]:
    squares = np.random.default_rng(0).integers(0, 256, (options.batch, size, size, 3), dtype=np.uint8)
    sides: dict[str, Callable[[], Any]] = {
        "transformers": _theirs(folder, squares, dtype, options.device),
        "ours": _ours(Filter, folder, squares, dtype, options.device),
        "ours, ITM alone": _ours(MatchingAlone, folder, squares, dtype, options.device),
    }
    results = {name: side() for name, side in sides.items()}
    _check(results, dtype)
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.turns):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            turns[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(values) for name, values in turns.items()}
    for name, value in seconds.items():
        sys.stdout.write(
            f"capfilt {size}px  {dtype}  batch={options.batch}  {name:15s} {options.batch / value:8.2f}/s\n"
        )
    ours, matching = (seconds["transformers"] / seconds[name] for name in ("ours", "ours, ITM alone"))
    sys.stdout.write(f"capfilt {size}px  {dtype}  ratio {ours:.2f}x, ITM alone {matching:.2f}x\n")
    return seconds


def _check(results: dict[str, tuple[list[str], np.ndarray]], dtype: str) -> None:
    (their_captions, their_scores), (captions, scores) = results["transformers"], results["ours"]
    worst = float(np.abs(their_scores - scores).max())
    if dtype == "fp32" and (their_captions != captions or worst > 1e-3):
        raise SystemExit(f"the sides do not agree: worst score {worst}, captions equal: {their_captions == captions}")
    sys.stdout.write(
        f"  {dtype}: captions equal {their_captions == captions}, worst difference of scores {worst:.1e}\n"
    )


def _ours(
    kind: type[Filter], folder: Path, squares: np.ndarray, dtype: str, device: str
) -> Callable[[], tuple[list[str], np.ndarray]]:
    arithmetic = Arithmetic(torch.device(device), "bf16" if dtype == "bf16" else "fp32")
    captioner = Captioner(load_captioner(folder / "captioner"), DECODING, arithmetic)
    filter = kind(load_filter(folder / "filter", position_zero="cls"), arithmetic)

    def run() -> tuple[list[str], np.ndarray]:
        captions = [row[0] for row in captioner.caption(squares, [[0]] * len(squares))]
        rows = filter.score(squares, [[WEB_TEXT, caption] for caption in captions])
        return captions, np.array([[score.probability for score in row] for row in rows])

    return run


def _theirs(folder: Path, squares: np.ndarray, dtype: str, device: str) -> Callable[[], tuple[list[str], np.ndarray]]:
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    loop = TransformersCapfilt(folder / "captioner", folder / "filter", kind)
    loop.captioner.to(device)
    loop.filter.to(device)
    tokenizer = BlipTokenizer.load(folder / "captioner")
    prompt = torch.tensor([[*tokenizer.prompt_ids(DECODING.prompt), tokenizer.sep_id]] * len(squares), device=device)

    def texts(words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = tokenizer.encode(words, 35)
        return batch.ids.to(device), batch.mask.long().to(device)

    def run() -> tuple[list[str], np.ndarray]:
        pixels = to_pixels(squares, device=device).to(kind)
        ids = loop.caption(pixels, prompt, min_length=DECODING.min_length, max_length=DECODING.max_length)
        captions = tokenizer.decode_batch(ids[:, prompt.shape[1] - 1 :].tolist())
        scores = loop.match(pixels, [texts([WEB_TEXT] * len(squares)), texts(captions)])
        return captions, torch.stack(scores, dim=1).cpu().numpy()

    return run


if __name__ == "__main__":
    main()
