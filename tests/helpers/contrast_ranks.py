"""One rank of a contrastive objective on gloo: `python -m tests.helpers.contrast_ranks KIND RANK WORLD FOLDER`.

Writes losses, gradients (averaged over ranks, as an engine does) and the queue to `FOLDER/<rank>.safetensors`.
Negatives are the likeliest allowed ones instead of drawn ones, so that a formula can be laid beside it.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from components.model import objectives
from components.model.blip import BlipFilter, BlipPretrain
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.learning import FilterObjective, ModelBatch, PretrainObjective

CONFIG = BlipConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=24, depth=1, heads=2),
    text=TextConfig(
        vocab_size=40, width=16, depth=2, heads=2, intermediate=32, max_positions=16, dropout=0.0,
        attention_dropout=0.0, pad_id=0, cls_id=1, sep_id=2, dec_id=38, enc_id=39,
    ),
    embed_dim=8,
    queue_size=5,
    temperature=0.2,
)  # fmt: skip
IMAGE_IDS = [[1, 2, 3], [3, 4, 1]]  # some images are on both ranks
LENGTHS = [[6, 4, 5], [8, 3, 8]]  # texts of different lengths on the two ranks


def likeliest(similarity: Tensor, forbidden: Tensor) -> objectives.Negatives:
    """Stands in for the draw."""
    weights = objectives.hard_negative_weights(similarity, forbidden)
    return objectives.Negatives(weights.argmax(dim=1), weights.sum(dim=1) > 0)


def batch_of(rank: int, step: int = 0) -> ModelBatch:
    """The micro-batch of a rank."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    lengths = torch.tensor(LENGTHS[rank])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(3, 38, mask.shape, generator=generator).masked_fill(~mask, 0)
    ids[:, 0] = 1
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    return ModelBatch(pixels, ids, mask, torch.tensor(IMAGE_IDS[rank]), progress=0.6)


def objective_of(kind: str) -> FilterObjective | PretrainObjective:
    """The same start on every rank, in float64."""
    torch.manual_seed(0)
    if kind == "pretrain":
        stage: FilterObjective | PretrainObjective = PretrainObjective(BlipPretrain(CONFIG).double())
    else:
        stage = FilterObjective(BlipFilter(CONFIG).double(), all_rank_negatives=kind == "filter-all-ranks")
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            if "norm" not in name and "temperature" not in name:
                parameter.mul_(8)
        for average, source in stage.teacher.encoders._pairs():  # the copies are equal at the start
            average.copy_(source)
    return stage.train()


def main(kind: str, rank: int, world: int, folder: Path) -> None:
    """Two micro-batches, one step."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    objectives.hard_negative_indices = likeliest  # type: ignore[assignment]
    stage = objective_of(kind)
    results = {}
    for step in range(2):
        losses = stage(batch_of(rank, step))
        losses["loss"].backward()
        results |= {f"{name}.{step}": value.detach().reshape(1) for name, value in losses.items()}
    for name, parameter in stage.named_parameters():
        gradient = parameter.grad.clone()
        dist.all_reduce(gradient)
        results[f"grad.{name}"] = gradient / world
    stage.after_step()
    results |= {name: value.reshape(-1).clone() for name, value in stage.teacher_state().items() if "queue" in name}
    save_file(results, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
