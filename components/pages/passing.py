"""What the report says of one CapFilt pass: read from the candidate tables of the dataset it wrote."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.common.contracts import DatasetRef, score_weights
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import Manifest, load_manifest
from components.evaluation.dataset import load_truth, noise_metrics
from components.pages.gallery import SHARDS_LOOKED_AT, pick_examples, pictures, same_examples, side_of
from components.pages.mistakes import Mistakes
from components.pages.report_data import CapfiltReport, Example
from components.pages.tally import Tally


def describe_capfilt(
    dataset: DatasetRef,
    web: DatasetRef | None = None,
    *,
    made_by: int | None,
    metrics: Mapping[str, float] | None = None,
    truth_uri: str | None = None,
    examples: int = 12,
    pinned: Sequence[Example] | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> CapfiltReport:
    """What the report says of one CapFilt pass.

    Args:
        dataset: what CapFilt wrote.
        web: what it read; its tars also hold the images none of whose texts were kept.
        made_by: the round whose captioner and filter worked; None: there are no rounds.
        metrics: `capfilt/…` and `truth/…` measured before; without them noise ratios are counted here.
        truth_uri: truth table, to say of examples what they really are.
        examples: images to show.
        pinned: images that another pass shows: the same are shown again, in place of a choice.
        seed: of the choice.
        cache_dir: for tars that are not on this machine.
    """
    manifest = load_manifest(dataset.uri)
    truth = load_truth(truth_uri) if truth_uri else {}
    weights = score_weights(manifest.config)
    tally, mistakes = Tally(weights), Mistakes(truth, weights)
    counted = noise_metrics(tally.watch(_rows(dataset.uri, manifest, mistakes)))
    if pinned is None:
        shown = pick_examples(dataset, web, count=examples, truth=truth, seed=seed, cache_dir=cache_dir)
    else:
        shown = same_examples(dataset, pinned, truth=truth)
    near = [entry.name for entry in manifest.shards[:SHARDS_LOOKED_AT]]
    images = pictures(dataset, manifest, web, cache_dir)
    try:
        side = side_of(examples)
        wrong, refused = mistakes.kept(images, near, side), mistakes.refused(images, near, side)
    finally:
        images.close()
    return CapfiltReport(
        made_by=made_by,
        dataset=dataset,
        metrics=counted | dict(metrics or {}),
        images_in=manifest.totals.samples,
        texts=tally.texts,
        outcomes=dict(tally.outcomes),
        failed=manifest.totals.failed,
        dropped=dict(tally.dropped),
        threshold=None if manifest.config.get("coin") is not None else float(manifest.config.get("threshold", 0.5)),
        examples=shown,
        wrongly_kept=wrong,
        wrongly_refused=refused,
        mistakes=mistakes.counts,
    )


def _rows(uri: str, manifest: Manifest, mistakes: Mistakes) -> Iterator[Candidate]:
    for entry in manifest.shards:
        yield from mistakes.watch(entry.name, stored_candidates(uri, entry.parquet).rows())
