"""Example images for the report: a few that show what CapFilt does, with all their texts and scores."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from components.common.contracts import DatasetRef, ScoreWeights, score_weights
from components.common.seeding import key_seed
from components.data.candidates import Candidate, deciding_score, stored_candidates
from components.data.decoding import BadImage, decode_image
from components.data.fetch import ShardCache
from components.data.manifest import Manifest, load_manifest
from components.data.pictures import Images, Pictures, pictures_of, tars_of
from components.data.sampleworld import Judgement, judge_caption
from components.evaluation.dataset import MATCH, UNKNOWN_KINDS, Truth, filter_verdict
from components.pages.report_data import Example, ExampleText

SHARDS_LOOKED_AT = 4
LARGE, _SMALL, _TINY = (224, 70), (112, 50), (96, 40)  # sides in pixels, and qualities of WebP
Side = tuple[int, int]
"""Of a thumbnail: most pixels, and quality."""
Name = tuple[str, str]
"""Shard and key of an image."""


def pick_examples(
    dataset: DatasetRef,
    web: DatasetRef | None = None,
    *,
    count: int = 12,
    truth: Mapping[str, Truth] | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> tuple[Example, ...]:
    """A varied choice of images, the same for the same dataset and seed.

    Images take turns by what the filter said of the web text and of the written one, so that a rare outcome shows
    too. Only the first few shards are looked at.

    Args:
        dataset: what CapFilt wrote.
        web: what it read; its tars also hold the images none of whose texts were kept.
        count: how many.
        truth: by key, to say of the texts what they really are.
        seed: another choice.
        cache_dir: for tars that are not on this machine.
    """
    known = truth or {}
    manifest = load_manifest(dataset.uri)
    groups = first_groups(dataset.uri, manifest)
    weights, side = score_weights(manifest.config), side_of(count)
    examples: list[Example] = []
    source = pictures(dataset, manifest, web, cache_dir)
    try:
        for (shard, key), rows in _turns(groups, known, seed):
            if len(examples) == count:
                break
            if (image := picture(source, shard, key, side)) is not None:
                examples.append(example(key, image, rows, known.get(key), weights))
    finally:
        source.close()
    return tuple(examples)


def same_examples(
    dataset: DatasetRef, pinned: Sequence[Example], *, truth: Mapping[str, Truth] | None = None
) -> tuple[Example, ...]:
    """The same images, with the texts and decisions of another pass; those it has not are left out."""
    manifest = load_manifest(dataset.uri)
    weights = score_weights(manifest.config)
    rows: dict[str, list[Candidate]] = defaultdict(list)
    for (_, key), group in first_groups(dataset.uri, manifest).items():
        rows[key] += group
    known = truth or {}
    return tuple(
        example(one.key, one.image, rows[one.key], known.get(one.key), weights) for one in pinned if one.key in rows
    )


def first_groups(uri: str, manifest: Manifest) -> dict[Name, list[Candidate]]:
    """Candidates by image, of the shards that examples come from."""
    groups: dict[Name, list[Candidate]] = defaultdict(list)
    for entry in manifest.shards[:SHARDS_LOOKED_AT]:
        for row in stored_candidates(uri, entry.parquet).rows():
            groups[entry.name, row.key].append(row)
    return groups


def _turns(
    groups: Mapping[Name, Sequence[Candidate]], truth: Mapping[str, Truth], seed: int
) -> Iterator[tuple[Name, Sequence[Candidate]]]:
    """Groups in an order that alternates between outcomes (and kinds of web text, where known)."""
    outcomes: dict[tuple[object, ...], list[Name]] = defaultdict(list)
    for name in sorted(groups, key=lambda name: key_seed(seed, *name)):
        verdicts = tuple(sorted((row.source, str(filter_verdict(row))) for row in groups[name]))
        if len({row.source for row in groups[name]}) > 1:
            outcomes[verdicts].append(name)
    for names in outcomes.values():
        _spread_kinds(names, truth)
    queues = [list(reversed(outcomes[verdicts])) for verdicts in sorted(outcomes, key=str)]
    while queues:
        for queue in queues:
            name = queue.pop()
            yield name, groups[name]
        queues = [queue for queue in queues if queue]


def _spread_kinds(names: list[Name], truth: Mapping[str, Truth]) -> None:
    """Reorder in place: the first of each kind, then the second of each …"""
    seen: Counter[str] = Counter()
    turn: dict[Name, int] = {}
    for name in names:
        kind = truth[name[1]].kind if name[1] in truth else ""
        turn[name] = seen[kind]
        seen[kind] += 1
    names.sort(key=turn.__getitem__)


def pictures(dataset: DatasetRef, manifest: Manifest, web: DatasetRef | None, cache_dir: Path | None) -> Pictures:
    """Web images by shard and key, from the input's tars, where it is named or known, or else the output's."""
    cache = ShardCache(cache_dir)
    if web is None:
        return pictures_of(dataset.uri, manifest, cache)
    return Pictures(tars_of(web.uri), tars_of(dataset.uri, manifest), cache=cache)


def side_of(count: int) -> Side:
    """Side and quality of all thumbnails of a page with so many examples: one of 1,000 stays below 3 MB."""
    return LARGE if count <= 150 else _SMALL if count <= 600 else _TINY


def picture(images: Images, shard: str, key: str, side: Side) -> str | None:
    """Data URI of an image; None if no tar has it, or it does not decode."""
    data = images.read(shard, key)
    try:
        return None if data is None else thumbnail(data, *side)
    except BadImage:
        return None


def thumbnail(data: bytes, side: int = LARGE[0], quality: int = LARGE[1]) -> str:
    """An image as a data URI of a small WebP, its sides at most `side` pixels.

    Raises:
        BadImage: if it does not decode.
    """
    from PIL import Image

    image = Image.fromarray(decode_image(data))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def example(
    key: str, image: str, rows: Iterable[Candidate], truth: Truth | None, weights: ScoreWeights | None
) -> Example:
    """An image with texts of its own, judged where the truth is known."""
    texts = tuple(_shown(row, truth, deciding_score(row, weights)) for row in rows)
    return Example(key=key, image=image, texts=texts, kind=truth.kind if truth else None)


def _shown(row: Candidate, truth: Truth | None, score: float | None) -> ExampleText:
    return ExampleText(
        source="web" if row.source == "web" else "synthetic",
        text=row.text,
        itm_probability=row.itm_probability,
        itc_similarity=row.itc_similarity,
        score=score,
        kept=row.kept,
        reason=row.reason,
        true=is_true(row, truth),
        facts=facts_of(judge_caption(truth.scene, row.text)) if truth and truth.scene else None,
    )


def is_true(row: Candidate, truth: Truth | None) -> bool | None:
    """Whether a candidate is right; None where nobody knows."""
    if truth is None:
        return None
    if row.source == "web":
        return None if truth.kind in UNKNOWN_KINDS else truth.kind == MATCH
    return judge_caption(truth.scene, row.text).true if truth.scene else None


def facts_of(verdict: Judgement) -> tuple[int, int] | None:
    """Facts that are right, of how many it states; None for a text that states none."""
    return (verdict.claims - verdict.false, verdict.claims) if verdict.claims else None
