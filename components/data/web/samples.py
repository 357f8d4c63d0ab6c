"""One sample of a web shard: its image decoded, its texts found, or the reason why it cannot be used."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from components.common.storage import sha256_hex, split_uri
from components.data.config import MAX_PIXELS, MIN_SIDE
from components.data.decoding import BadImage, Pixels, decode_image
from components.data.manifest import BadSample
from components.data.shards import (
    BROKEN_SHARD,
    DUPLICATE_KEY,
    EARLIER_SHARD,
    SampleIndex,
    ShardScan,
    images_among,
    read_at,
)
from components.data.web.texts import WebText, text_members, web_texts


@dataclass(frozen=True)
class WebSample:
    """A sample as it was read.

    Args:
        sample: its place in the tar.
        texts: its texts, or one that says why there is none; none of a sample whose members must not be read.
        sha256: hash of the image's bytes; empty where there is no image.
        image: its pixels; None if it failed.
        reason: short code of the failure, e.g. `truncated`; empty if there is none.
        detail: what was found, for people.
    """

    sample: SampleIndex
    texts: tuple[WebText, ...] = ()
    sha256: str = ""
    image: Pixels | None = None
    reason: str = ""
    detail: str = ""


def read_sample(
    path: Path,
    sample: SampleIndex,
    repeated: Collection[str] = (),
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
) -> WebSample:
    """Read one sample of a local tar.

    Args:
        path: the tar.
        sample: where its members lie.
        repeated: keys that an earlier shard has.
        max_pixels: image size beyond which it is refused undecoded.
        min_side: shortest side in pixels below which it is refused.

    Raises:
        DataError: the tar became shorter since it was indexed. Whatever else is wrong is the sample's reason.
    """
    if sample.problem is not None:
        earlier = f"{EARLIER_SHARD}; " if sample.key in repeated else ""
        return WebSample(sample, reason=sample.problem, detail=f"{earlier}at byte {sample.offset} of the tar")
    texts = _texts(path, sample)
    if sample.image is None:
        return WebSample(sample, texts, reason=_without_image(sample), detail=_members(sample))
    data = read_at(path, *sample.members[sample.image])
    digest = sha256_hex(data)
    try:
        image = decode_image(data, max_pixels=max_pixels, min_side=min_side)
    except BadImage as error:
        return WebSample(sample, texts, digest, reason=error.reason, detail=str(error))
    return WebSample(sample, texts, digest, image)


def _texts(path: Path, sample: SampleIndex) -> tuple[WebText, ...]:
    json_name, names = text_members(sample.members, sample.image)
    wanted = [name for name in (json_name, *names) if name is not None]
    return web_texts({name: read_at(path, *sample.members[name]) for name in wanted}, sample.image)


def _without_image(sample: SampleIndex) -> str:
    return "several_images" if images_among(sample.members) else "no_image"


def _members(sample: SampleIndex) -> str:
    hint = "; keys must not contain dots" if len(images_among(sample.members)) > 1 else ""
    return f"members: {', '.join(sorted(sample.members))[:200]}{hint}"


def with_repeats(samples: Iterable[SampleIndex], repeated: Collection[str]) -> list[SampleIndex]:
    """The samples, those with the key of an earlier shard's marked as duplicates."""
    if not repeated:
        return list(samples)
    return [replace(one, problem=one.problem or DUPLICATE_KEY) if one.key in repeated else one for one in samples]


def lost_behind_break(uri: str, scan: ShardScan, expected: int | None) -> BadSample | None:
    """What a broken tar has lost: as many samples as somebody counted, at least those it cut. None if it is whole."""
    broken = scan.broken
    if broken is None:
        return None
    name = split_uri(uri)[1]
    count = max(1, scan.cut, (expected or 0) - len(scan.samples))
    detail = f"{name} is broken at byte {broken.offset}: {broken.what}"
    return BadSample(key=f"{name}@{broken.offset}", reason=BROKEN_SHARD, detail=detail[:300], count=count)
