"""Example images for the report: a few that show what CapFilt does, with all their texts and scores."""

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.common.contracts import DatasetRef, ScoreWeights, score_weights
from components.common.seeding import key_seed
from components.data.candidates import Candidate, deciding_score, stored_candidates
from components.data.decoding import BadImage
from components.data.fetch import ShardCache
from components.data.manifest import Manifest, load_manifest
from components.data.pictures import Pictures, small_jpeg, tars_of
from components.data.sampleworld import judge_caption
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
    source = _pictures(dataset, manifest, web, cache_dir)
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for entry in manifest.shards[:SHARDS_LOOKED_AT]:
        for row in stored_candidates(dataset.uri, entry.parquet).rows():
            groups[entry.name, row.key].append(row)
    examples: list[Example] = []
    try:
        for (shard, key), rows in _turns(groups, truth, seed):
            if len(examples) == count:
                break
            if (image := _thumbnail(source, shard, key)) is not None:
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


def _pictures(dataset: DatasetRef, manifest: Manifest, web: DatasetRef | None, cache_dir: Path | None) -> Pictures:
    """Web images by shard and key, from the input's tars or else the output's."""
    sources = [tars_of(web.uri)] if web is not None else []
    return Pictures(*sources, tars_of(dataset.uri, manifest), cache=ShardCache(cache_dir))


def _thumbnail(pictures: Pictures, shard: str, key: str) -> str | None:
    """Data URI of an image; None if no tar has it, or it does not decode."""
    data = pictures.read(shard, key)
    try:
        return None if data is None else thumbnail(data)
    except BadImage:
        return None


def thumbnail(data: bytes, side: int = _SIDE) -> str:
    """An image as a data URI of a small JPEG, its sides at most `side` pixels.

    Raises:
        BadImage: if it does not decode.
    """
    return "data:image/jpeg;base64," + base64.b64encode(small_jpeg(data, side)).decode()


def _example(
    key: str, image: str, rows: Sequence[Candidate], truth: Truth | None, weights: ScoreWeights | None
) -> Example:
    texts = tuple(
        ExampleText(
            source="web" if row.source == "web" else "synthetic",
            text=row.text,
            itm_probability=row.itm_probability,
            itc_similarity=row.itc_similarity,
            score=deciding_score(row, weights),
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
