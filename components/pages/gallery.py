"""Example images for the report: a few that show what CapFilt does, with all their texts and scores."""

import base64
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.common.contracts import DatasetRef, ScoreWeights, score_weights
from components.common.seeding import key_seed
from components.data.candidates import Candidate, stored_candidates
from components.data.decoding import BadImage, decode_image
from components.data.fetch import ShardCache
from components.data.manifest import Manifest, ShardEntry, file_uri, load_manifest
from components.data.sampleworld import judge_caption
from components.data.shards import scan_shard
from components.evaluation.dataset import MATCH, UNKNOWN_KINDS, Truth, filter_verdict, load_truth, noise_metrics
from components.pages.report_data import CapfiltReport, Example, ExampleText

SHARDS_LOOKED_AT = 4
_SIDE = 224


def describe_capfilt(
    dataset: DatasetRef,
    web: DatasetRef | None = None,
    *,
    made_by: int,
    metrics: Mapping[str, float] | None = None,
    truth_uri: str | None = None,
    examples: int = 12,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> CapfiltReport:
    """What the report says of one CapFilt pass.

    Args:
        dataset: what CapFilt wrote.
        web: what it read; its tars also hold the images none of whose texts were kept.
        made_by: the round whose captioner and filter worked.
        metrics: `capfilt/…` and `truth/…` measured before; without them noise ratios are counted here.
        truth_uri: truth table, to say of examples what they really are.
        examples: images to show.
    """
    manifest = load_manifest(dataset.uri)
    dropped: Counter[str] = Counter()
    rows = (row for entry in manifest.shards for row in stored_candidates(dataset.uri, entry.parquet).rows())
    counted = noise_metrics(_tally(rows, dropped))
    coin = manifest.config.get("coin")
    return CapfiltReport(
        made_by=made_by,
        metrics=counted | dict(metrics or {}),
        failed=manifest.totals.failed,
        dropped=dict(dropped),
        threshold=None if coin is not None else float(manifest.config.get("threshold", 0.5)),
        examples=pick_examples(dataset, web, count=examples, truth_uri=truth_uri, seed=seed, cache_dir=cache_dir),
    )


def _tally(rows: Iterator[Candidate], dropped: "Counter[str]") -> Iterator[Candidate]:
    for row in rows:
        if not row.kept:
            dropped[row.reason] += 1
        yield row


def pick_examples(
    dataset: DatasetRef,
    web: DatasetRef | None = None,
    *,
    count: int = 12,
    truth_uri: str | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> tuple[Example, ...]:
    """A varied choice of images, the same for the same dataset and seed.

    Images take turns by what the filter said of the web text and of the written one, so that a rare outcome shows
    too. Only the first few shards are looked at. `web`: see `describe_capfilt`.
    """
    truth = load_truth(truth_uri) if truth_uri else {}
    manifest = load_manifest(dataset.uri)
    source = _Pictures(dataset, manifest, web, cache_dir)
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for entry in manifest.shards[:SHARDS_LOOKED_AT]:
        for row in stored_candidates(dataset.uri, entry.parquet).rows():
            groups[entry.name, row.key].append(row)
    examples: list[Example] = []
    try:
        for (shard, key), rows in _turns(groups, truth, seed):
            if len(examples) == count:
                break
            if (image := source.thumbnail(shard, key)) is not None:
                examples.append(_example(key, image, rows, truth.get(key), score_weights(manifest.config)))
    finally:
        source.close()
    return tuple(examples)


def _turns(
    groups: Mapping[tuple[str, str], Sequence[Candidate]], truth: Mapping[str, Truth], seed: int
) -> Iterator[tuple[tuple[str, str], Sequence[Candidate]]]:
    """Groups in an order that alternates between outcomes (and kinds of web text, where known)."""
    outcomes: dict[tuple[object, ...], list[tuple[str, str]]] = defaultdict(list)
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


def _spread_kinds(names: list[tuple[str, str]], truth: Mapping[str, Truth]) -> None:
    """Reorder in place: the first of each kind, then the second of each …"""
    seen: Counter[str] = Counter()
    turn: dict[tuple[str, str], int] = {}
    for name in names:
        kind = truth[name[1]].kind if name[1] in truth else ""
        turn[name] = seen[kind]
        seen[kind] += 1
    names.sort(key=turn.__getitem__)


class _Pictures:
    """Thumbnails of web images by shard and key, from the input's tars or else the output's."""

    def __init__(self, dataset: DatasetRef, manifest: Manifest, web: DatasetRef | None, cache_dir: Path | None) -> None:
        self._cache = ShardCache(cache_dir)
        self._tars: list[tuple[str, dict[str, ShardEntry]]] = []
        for ref, its in ((web, load_manifest(web.uri) if web else None), (dataset, manifest)):
            if ref is not None and its is not None:
                self._tars.append((ref.uri, {entry.name: entry for entry in its.shards}))
        self._open: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {}

    def close(self) -> None:
        for handle, _ in self._open.values():
            os.close(handle)

    def thumbnail(self, shard: str, key: str) -> str | None:
        """Data URI of an image; None if no tar has it, or it does not decode."""
        for root, entries in self._tars:
            if shard in entries and (data := self._read(root, entries[shard], key)) is not None:
                try:
                    return thumbnail(data)
                except BadImage:
                    return None
        return None

    def _read(self, root: str, entry: ShardEntry, key: str) -> bytes | None:
        uri = file_uri(root, entry.tar)
        if uri not in self._open:
            with self._cache.opened(uri, entry.tar) as handle:
                samples = scan_shard(f"/proc/self/fd/{handle}", name=uri).samples
                places = {one.key: one.members[one.image] for one in samples if one.image and not one.problem}
                self._open[uri] = handle, places
        handle, places = self._open[uri]
        if key not in places:
            return None
        offset, size = places[key]
        return os.pread(handle, size, offset)


def thumbnail(data: bytes, side: int = _SIDE) -> str:
    """An image as a data URI of a small JPEG, its sides at most `side` pixels.

    Raises:
        BadImage: if it does not decode.
    """
    from PIL import Image

    image = Image.fromarray(decode_image(data))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _score(row: Candidate, weights: ScoreWeights | None) -> float | None:
    if weights is None or row.itm_probability is None or row.itc_similarity is None:
        return row.itm_probability
    return weights.probability(row.itm_probability, row.itc_similarity)


def _example(
    key: str, image: str, rows: Sequence[Candidate], truth: Truth | None, weights: ScoreWeights | None
) -> Example:
    texts = tuple(
        ExampleText(
            source="web" if row.source == "web" else "synthetic",
            text=row.text,
            itm_probability=row.itm_probability,
            itc_similarity=row.itc_similarity,
            score=_score(row, weights),
            kept=row.kept,
            reason=row.reason,
            true=_truth_of(row, truth),
            facts=_facts_of(row, truth),
        )
        for row in rows
    )
    return Example(key=key, image=image, texts=texts, kind=truth.kind if truth else None)


def _truth_of(row: Candidate, truth: Truth | None) -> bool | None:
    if truth is None:
        return None
    if row.source == "web":
        return None if truth.kind in UNKNOWN_KINDS else truth.kind == MATCH
    return judge_caption(truth.scene, row.text).true if truth.scene else None


def _facts_of(row: Candidate, truth: Truth | None) -> tuple[int, int] | None:
    if truth is None or truth.scene is None:
        return None
    verdict = judge_caption(truth.scene, row.text)
    return (verdict.claims - verdict.false, verdict.claims) if verdict.claims else None
