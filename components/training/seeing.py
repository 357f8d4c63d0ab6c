"""The sample world's own ImageNet: a vision transformer trained on labelled pictures, for `encoders.vision`.

    python -m components.training.seeing configs/sample-vit

made the folder of that name, from which the sample starts. It is shipped, and not a stage of every run, since it is the
same for every seed and takes more time than the sample's loop can spare (docs/loop.md, with the figures).
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from components.common.progress import Progress
from components.common.seeding import seed_everything
from components.data.decoding import to_pixels
from components.data.sampleworld.config import SampleWorldConfig
from components.data.sampleworld.labels import DEPTH, OF_A_THING, OF_THE_GROUND, LabelledPictures, labelled_pictures
from components.model.config import CLIP_MEAN, CLIP_STD, VisionConfig
from components.model.encoders import save_vision
from components.model.labelling import LabelBatch, LabelObjective
from components.model.vision import VisionTransformer
from components.training.config import OptimConfig
from components.training.engine import build_optimizer
from components.training.schedule import learning_rate


class SeeingConfig(BaseModel):
    """One training on labelled pictures; the defaults made the sample's encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vision: VisionConfig = Field(
        default=VisionConfig(image_size=72, patch_size=12, width=128, depth=3, heads=4, initializer_range=0.06),
        description="the vision transformer; its patches must not cross the thirds of a picture",
    )
    steps: int = Field(default=1200, ge=1, description="optimizer steps")
    batch_size: int = Field(default=64, ge=1, description="pictures per step")
    pictures: int = Field(default=16_000, ge=1, description="labelled pictures to learn from")
    tested: int = Field(default=500, ge=1, description="further ones to measure on")
    optim: OptimConfig = Field(
        default=OptimConfig(lr=2e-3, min_lr=4e-5, warmup_steps=50, clip=3.0), description="AdamW and its learning rate"
    )
    threads: int = Field(default=1, ge=1, description="CPU threads")
    seed: int = Field(default=0, ge=0, description="seed of weights, order and pictures")

    @field_validator("vision")
    @classmethod
    def _patches_of_ninths(cls, vision: VisionConfig) -> VisionConfig:
        if (vision.image_size // vision.patch_size) % 3:
            raise ValueError(
                f"{vision.image_size // vision.patch_size} patches a side do not go into thirds, by which pictures are "
                "labelled: choose patch_size so that image_size is 3, 6, 9 … patches"
            )
        return vision


def main(arguments: list[str] | None = None) -> None:
    """Train, save the folder, and print the share of each attribute that is named right in pictures never seen."""
    parser = argparse.ArgumentParser(prog="python -m components.training.seeing", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--config", type=json.loads, default={}, help='JSON, e.g. {"steps": 200, "threads": 2}')
    options = parser.parse_args(arguments)
    try:
        config = SeeingConfig.model_validate(options.config)
    except ValidationError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    objective, measured = train_to_see(config)
    save_vision(objective.vision_model, options.out, (CLIP_MEAN, CLIP_STD))
    sys.stdout.write(json.dumps(measured) + "\n")


def train_to_see(config: SeeingConfig) -> tuple[LabelObjective, dict[str, float]]:
    """A vision transformer that names what labelled pictures show, with its heads; and what it gets right of others."""
    torch.set_num_threads(config.threads)
    seed_everything(config.seed)
    world = SampleWorldConfig(seed=config.seed, image_size=config.vision.image_size)
    objective = label_objective(VisionTransformer(config.vision))
    optimizer = build_optimizer(objective, config.optim)
    batches = _batches(config, labelled_pictures(world, 0, config.pictures))
    with Progress(config.steps * config.batch_size, "pictures", "labels") as progress:
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.optim, step, total_steps=config.steps, steps_per_epoch=config.steps)
            optimizer.zero_grad()
            losses = objective(next(batches))
            losses["loss"].backward()
            if config.optim.clip:
                torch.nn.utils.clip_grad_norm_(objective.parameters(), config.optim.clip)
            optimizer.step()
            shapes = f"{float(losses['shape_accuracy']):.0%}"
            progress.advance(config.batch_size, loss=losses["loss"].item(), shapes_named=shapes)
    return objective, _measured(objective, labelled_pictures(world, config.pictures, config.tested))


def label_objective(vision: VisionTransformer) -> LabelObjective:
    """The objective of a vision transformer on the sample world's labels."""
    of_a_thing = {name: len(values) for name, values in OF_A_THING.items()}
    of_the_ground = {name: len(values) for name, values in OF_THE_GROUND.items()}
    return LabelObjective(vision, of_a_thing, of_the_ground, DEPTH)


def _batches(config: SeeingConfig, pictures: LabelledPictures) -> Iterator[LabelBatch]:
    """Endless batches in an order of the seed's, every picture once before any comes again."""
    rng = np.random.default_rng(config.seed)
    waiting: NDArray[np.int64] = np.empty(0, np.int64)
    while True:
        while len(waiting) < config.batch_size:
            waiting = np.concatenate([waiting, rng.permutation(len(pictures.images))])
        yield _batch(pictures, waiting[: config.batch_size])
        waiting = waiting[config.batch_size :]


def _batch(pictures: LabelledPictures, rows: NDArray[np.int64]) -> LabelBatch:
    pixels = to_pixels(torch.as_tensor(pictures.images[rows]), CLIP_MEAN, CLIP_STD)
    labels = pictures.labels
    return LabelBatch(pixels, torch.as_tensor(labels.things[rows]), torch.as_tensor(labels.ground[rows]))


@torch.no_grad()
def _measured(objective: LabelObjective, pictures: LabelledPictures) -> dict[str, float]:
    found = objective.eval()(_batch(pictures, np.arange(len(pictures.images))))
    return {name: round(float(value), 4) for name, value in found.items() if name.endswith("_accuracy")}


if __name__ == "__main__":
    main()
