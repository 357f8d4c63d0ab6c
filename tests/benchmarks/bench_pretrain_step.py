"""One pre-training step of ours against the one written with transformers' modules, in one run.

    python -m tests.benchmarks.bench_pretrain_step [--batch 8] [--texts 30 | real] [--dtype fp32 bf16]
    python -m tests.benchmarks.bench_pretrain_step --device cuda --batch 64 --dtype bf16 [--largest-batch]

Same sizes (ViT-B/16 and BERT-base at 224 by default), same batch, same optimizer; seconds are medians of the steps that
took turns. `--texts real` takes word-piece lengths of real captions: ours pads to the longest of the batch, the
reference to 30. Every side runs in a process of its own, so that peak memory is its own. On a GPU the peak is the GPU's
memory, and model FLOPs utilisation is printed where the GPU's peak is known; `--largest-batch` measures ours alone, at
the largest power of two that fits.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from components.training.flops import counted, peak_flops

QUEUE, VOCAB = 1920, 30524


def main() -> None:
    """Print a table of both sides and the ratios."""
    options = _options()
    if options.side:
        sys.stdout.write(json.dumps(_measure(options)) + "\n")
        return
    check_device(options.device)
    ours = {}
    for dtype in options.dtype:
        if options.largest_batch:
            _print_side(options, dtype, "ours", _at_largest_batch(options, dtype))
            continue
        sides = {side: _child(options, side, dtype) for side in ("transformers", "ours")}
        ratio = sides["transformers"]["seconds"] / sides["ours"]["seconds"]
        ours[dtype] = sides["ours"]["seconds"]
        for side, figures in sides.items():
            _print_side(options, dtype, side, figures)
        sys.stdout.write(f"pretrain step  {dtype}  texts={options.texts}  ratio {ratio:.2f}x\n")
    if len(ours) == 2:
        sys.stdout.write(f"pretrain step  ours, bf16 over fp32: {ours['fp32'] / ours['bf16']:.2f}x\n")


def check_device(device: str) -> None:
    """End with a word on what is missing, where a GPU is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no NVIDIA GPU here that torch can use, and these benches need one: run `make bench`")


def _print_side(options: argparse.Namespace, dtype: str, side: str, figures: dict[str, float]) -> None:
    utilisation = f"  MFU {figures['mfu']:.1%}" if "mfu" in figures else ""
    sys.stdout.write(
        f"pretrain step  {dtype}  texts={options.texts}  batch={int(figures['batch'])}  {side:12s} "
        f"{figures['seconds']:7.3f} s  peak {figures['peak_gib']:.2f} GiB{utilisation}\n"
    )


def _at_largest_batch(options: argparse.Namespace, dtype: str) -> dict[str, float]:
    """Ours at twice the batch again and again, until the GPU's memory runs out."""
    best: dict[str, float] | None = None
    while (figures := _child(options, "ours", dtype)) and "out_of_memory" not in figures:
        best = figures
        options.batch *= 2
    if best is None:
        raise SystemExit(f"a batch of {options.batch} does not fit; start with a smaller --batch")
    return best


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", default="30", choices=["30", "real"], help="30 tokens each, or lengths of captions")
    parser.add_argument("--dtype", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--largest-batch", action="store_true", help="ours alone, doubling --batch while it fits")
    parser.add_argument("--side", choices=["transformers", "ours"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(options: argparse.Namespace, side: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_pretrain_step", "--side", side, "--dtype", dtype]
    for name in ("batch", "steps", "image_size", "width", "depth", "threads", "texts", "device"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(output.splitlines()[-1])
    return figures


def _measure(options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), options.dtype[0]
    try:
        return _timed(options, device, dtype) | {"batch": options.batch}
    except torch.cuda.OutOfMemoryError:
        return {"out_of_memory": 1.0}


def _timed(options: argparse.Namespace, device: torch.device, dtype: str) -> dict[str, float]:
    model, step = (_ours if options.side == "ours" else _transformers)(options)
    model.to(device)
    torch.set_default_device(device)  # what both sides make on the way, and the batch
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    model.train()

    def whole_step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = step(*_batch(options))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = []
    for _ in range(options.steps + 1):
        started = time.perf_counter()
        whole_step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    figures = {"seconds": statistics.median(seconds[1:])}
    if device.type == "cpu":
        return figures | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    peak = peak_flops(dtype)
    if peak is not None:
        figures["mfu"] = counted(whole_step)[1] / figures["seconds"] / peak
    return figures


def _batch(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, ids and mask; ids are as long as the longest text, at most 30."""
    size, batch = options.image_size, options.batch
    lengths = torch.full((batch,), 30)
    if options.texts == "real":
        # word pieces of real web texts cut at 30: mean 18, percentiles 5 to 99 as given (all 6,060 of shared/data/web)
        percentiles = torch.tensor([4.0, 6.0, 12.0, 16.0, 27.0, 30.0, 30.0])
        place = torch.rand(batch) * (len(percentiles) - 1)
        low = place.floor().long()
        lengths = torch.lerp(percentiles[low], percentiles[low + 1], place - low).round().long()
    ids = torch.randint(1000, VOCAB - 3, (batch, 30))
    mask = (torch.arange(30) < lengths[:, None]).long()
    return torch.randn(batch, 3, size, size), ids * mask, mask


def _transformers(options: argparse.Namespace) -> tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    from tests.benchmarks.transformers_step import TransformersPretrain

    heads = options.width // 64
    model = TransformersPretrain(
        image_size=options.image_size, width=options.width, depth=options.depth, heads=heads, vocab=VOCAB, queue=QUEUE
    )
    return model, model


def _ours(options: argparse.Namespace) -> tuple[nn.Module, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    from components.model.blip import BlipPretrain
    from components.model.config import BlipConfig, TextConfig, VisionConfig
    from components.model.learning import ModelBatch, PretrainObjective

    sizes: dict[str, Any] = {"width": options.width, "depth": options.depth, "heads": options.width // 64}
    config = BlipConfig(
        vision=VisionConfig(image_size=options.image_size, **sizes),
        text=TextConfig(vocab_size=VOCAB, intermediate=4 * options.width, **sizes),
        queue_size=QUEUE,
    )
    objective = PretrainObjective(BlipPretrain(config))

    def step(pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        longest = int(mask.sum(1).max())
        keys = torch.arange(len(ids))
        losses = objective(ModelBatch(pixels, ids[:, :longest], mask[:, :longest], keys, progress=1.0))
        objective.after_step()
        return losses["loss"]

    return objective, step


if __name__ == "__main__":
    main()
