"""Chance belongs to the image: what is drawn for it depends on what draws and on the image, on nothing around it.

So a shard that is added to the web data, another shard size or another name changes no caption of the images that were
there before.
"""

from collections.abc import Mapping
from typing import Any

from components.common.seeding import digest_of, key_seed


def stream_of(captioner: str, settings: Mapping[str, Any]) -> str:
    """What draws: the captioner's digest, the seed and how it decodes.

    Args:
        captioner: digest of the captioner.
        settings: `CapfiltConfig.effective()`, or the `config` of a manifest.
    """
    return digest_of({"captioner": captioner, "seed": settings["seed"], "decoding": settings["decoding"]})


def caption_seeds(stream: str, key: str, image_sha256: str, count: int) -> list[int]:
    """A seed for each caption of an image."""
    return [key_seed(stream, key, image_sha256, index) for index in range(count)]


def text_seed(seed: int, key: str, image_sha256: str) -> int:
    """The seed by which one of an image's captions is drawn for its `.txt`; `seed` is the config's."""
    return key_seed("text", seed, key, image_sha256)


def coin_seed(stream: str, key: str, image_sha256: str) -> int:
    """The seed of an image's coin."""
    return key_seed(stream, key, image_sha256, "coin")
