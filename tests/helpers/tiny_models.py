"""A captioner and a filter small enough for tests, random but decided by a seed."""

from pathlib import Path

import torch

from components.common.contracts import ModelRef
from components.common.seeding import digest_of
from components.model.blip import BlipCaptioner, BlipFilter, BlipVqa
from components.model.checkpoints.weights import save_model
from components.model.config import BlipConfig, TextConfig, VisionConfig
from components.model.tokenizer import BlipTokenizer

WORDS = "a picture of numbered the red blue green ball cat dog house tree on under left right two three big small"
CORPUS = [WORDS, WORDS, "0 1 2 3 4 5 6 7 8 9", "0 1 2 3 4 5 6 7 8 9"]


def tiny_config(image_size: int = 32, width: int = 32) -> BlipConfig:
    """Two layers each."""
    return BlipConfig(
        vision=VisionConfig(image_size=image_size, patch_size=16, width=width, depth=2, heads=2),
        text=TextConfig(width=width, depth=2, heads=2, intermediate=64, max_positions=64),
        embed_dim=16,
        queue_size=0,
    )


def save_tiny_models(folder: Path, *, captioner_size: int = 32, filter_size: int = 32) -> tuple[ModelRef, ModelRef]:
    """Write both model folders; their references."""
    tokenizer = BlipTokenizer.train(CORPUS, 200)
    refs = []
    for seed, (role, kind, size) in enumerate(
        [("captioner", BlipCaptioner, captioner_size), ("filter", BlipFilter, filter_size)]
    ):
        torch.manual_seed(seed)
        model = kind(tiny_config(size).for_tokenizer(tokenizer))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(8)  # random weights of usual size give every text nearly the same score
        save_model(model, tokenizer, folder / role)
        refs.append(ModelRef(role=role, uri=str(folder / role), digest=digest_of([role, seed, size])))
    return refs[0], refs[1]


def save_tiny_vqa(folder: Path, seed: int = 3) -> BlipTokenizer:
    """Write a model that answers questions; its tokenizer."""
    tokenizer = BlipTokenizer.train([*CORPUS, "what colour is the ball where yes no ?"] * 2, 250)
    torch.manual_seed(seed)
    model = BlipVqa(tiny_config().for_tokenizer(tokenizer))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    save_model(model, tokenizer, folder)
    return tokenizer
