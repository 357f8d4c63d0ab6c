"""The captions of the human test images through the rounds, from what the evaluations keep of every image."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.common.contracts import BootstrapResult, DatasetRef
from components.common.errors import CapfiltError
from components.common.seeding import key_seed
from components.common.storage import open_store, split_uri
from components.data.candidates import stored_candidates
from components.data.fetch import ShardCache
from components.data.manifest import load_manifest
from components.data.pictures import pictures_of
from components.data.sampleworld import Scene, judge_caption
from components.data.sampleworld.world import scenes_beside
from components.pages.gallery import LARGE, Side, facts_of, picture
from components.pages.report_data import CaptionedImage, CaptionRounds, Told
from components.pages.verdict import spoken_of

logger = logging.getLogger(__name__)

SHOWN, PINNED, REPEATED = 6, 12, 5
Details = Mapping[str, Mapping[str, Any]]
"""What an evaluation keeps of every image, by its key."""


class _Round(NamedTuple):
    number: int
    images: Details


def caption_rounds(
    result: BootstrapResult, cache_dir: Path, *, seed: int = 0, side: Side = LARGE
) -> CaptionRounds | None:
    """The captions of the test split; None where no round has kept any.

    Args:
        result: the bootstrap.
        cache_dir: for tars that are not on this machine.
        seed: of the choice of images that are shown whatever became of them.
        side: of their thumbnails.
    """
    rounds = [_Round(one.round, found) for one in result.rounds if (found := _details(one.details_uri))]
    if not rounds:
        return None
    numbers = [one.number for one in rounds]
    wanted = spoken_of(result.rounds, result.champion).round
    first, other = rounds[0], rounds[numbers.index(wanted) if wanted in numbers else -1]
    moves = sorted(
        (other.images[key]["cider"] - one["cider"], key) for key, one in first.images.items() if key in other.images
    )
    lost = [key for move, key in moves[:SHOWN] if move < 0]
    won = [key for move, key in moves[: -SHOWN - 1 : -1] if move > 0]
    pinned = sorted(first.images, key=lambda key: key_seed(seed, key))[:PINNED]
    cards = _cards(result, rounds, _thumbnails(result.raw.test, {*won, *lost, *pinned}, cache_dir, side))
    return CaptionRounds(
        dataset=result.raw.test.uri,
        images=len(first.images),
        rounds=(first.number, other.number),
        won=_chosen(cards, won),
        lost=_chosen(cards, lost),
        pinned=_chosen(cards, pinned),
        better=sum(move > 0 for move, _ in moves),
        worse=sum(move < 0 for move, _ in moves),
        repeated=tuple(_repeated(one.images) for one in rounds),
    )


def _chosen(cards: Mapping[str, CaptionedImage], keys: Sequence[str]) -> tuple[CaptionedImage, ...]:
    return tuple(cards[key] for key in keys if key in cards)


def _repeated(images: Details) -> tuple[tuple[str, int], ...]:
    said = Counter(one["caption"] for one in images.values())
    return tuple((text, count) for text, count in said.most_common(REPEATED) if count > 1)


def _details(uri: str | None) -> Details:
    """By image; nothing if the file is gone or holds no captions."""
    if uri is None:
        return {}
    folder, name = split_uri(uri)
    try:
        images = json.loads(open_store(folder).read(name))["images"]
        return {one["key"]: one for one in images if "caption" in one and "cider" in one}
    except (CapfiltError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: no captions of it are shown: %s", uri, error)
        return {}


def _cards(result: BootstrapResult, rounds: Sequence[_Round], images: Mapping[str, str]) -> dict[str, CaptionedImage]:
    scenes = scenes_beside(result.raw.truth_uri, "test") if result.raw.truth_uri else {}
    return {
        key: CaptionedImage(
            key=key,
            image=image,
            references=tuple(rounds[0].images[key].get("references", ())),
            told=tuple(_told(one.number, one.images[key], scenes.get(key)) for one in rounds if key in one.images),
        )
        for key, image in images.items()
    }


def _thumbnails(test: DatasetRef, keys: set[str], cache_dir: Path, side: Side) -> dict[str, str]:
    """By key, as far as the pictures are still there."""
    try:
        manifest = load_manifest(test.uri)
        images = pictures_of(test.uri, manifest, ShardCache(cache_dir))
        try:
            found = {
                key: picture(images, entry.name, key, side)
                for entry in manifest.shards
                for key in sorted(keys.intersection(stored_candidates(test.uri, entry.parquet).keys))
            }
        finally:
            images.close()
    except CapfiltError as error:
        logger.warning("no test image is shown: %s", error)
        return {}
    return {key: image for key, image in found.items() if image is not None}


def _told(number: int, one: Mapping[str, Any], scene: Scene | None) -> Told:
    verdict = judge_caption(scene, one["caption"]) if scene is not None else None
    return Told(
        round=number,
        text=one["caption"],
        cider=one["cider"],
        rank=one.get("text_rank"),
        true=verdict.true if verdict else None,
        facts=facts_of(verdict) if verdict else None,
    )
