"""What a cascade spares and changes, and whether pilots tell the truth, reckoned on a recorded full pass of CapFilt.

    python -m tests.benchmarks.cascade DATASET [--truth FILE] [--seeds 10]

The dataset must have been made without a cascade, so that every text has both scores: then every band and every sample
can be held against what the whole pass decided.
"""

import argparse
from collections import Counter
from itertools import groupby

from components.common.errors import ConfigError
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import load_manifest
from components.evaluation.dataset import MATCH, UNKNOWN_KINDS, Truth, load_truth
from components.regeneration.band import changed, in_cascade, needs_caption, with_bands
from components.regeneration.config import CapfiltConfig
from components.regeneration.finding import find_bands
from components.regeneration.pilot import Estimate, counted_share, kept_share
from components.regeneration.policy import Policy, Text
from components.regeneration.sample import allocate, drawn
from components.regeneration.texts import text_of

Image = tuple[str, list[Candidate]]
"""Shard and rows."""


def recorded(uri: str) -> list[Image]:
    """The images of a dataset."""
    return [
        (entry.name, list(group))
        for entry in load_manifest(uri).shards
        for _, group in groupby(stored_candidates(uri, entry.parquet).rows(), key=lambda row: row.key)
    ]


def sampled(images: list[Image], count: int, seed: int) -> list[Image]:
    """A pilot's choice: of all shards in proportion."""
    shards = {name: list(group) for name, group in groupby(images, key=lambda image: image[0])}
    wanted = allocate([len(one) for one in shards.values()], count)
    found = []
    for (name, group), number in zip(shards.items(), wanted, strict=True):
        found += [group[at] for at in drawn([rows[0].key for _, rows in group], number, seed, name)]
    return found


def spared(images: list[Image], policy: Policy, sample: int, seed: int) -> str:
    """Bands found on a sample, and what they do on all images."""
    config = CapfiltConfig(policy=policy, cascade={"sample": sample})  # type: ignore[arg-type]
    try:
        found = find_bands([_texts(one) for one in sampled(images, sample, seed)], config)
    except ConfigError as error:
        return f"{policy}, seed {seed}: {error}"
    banded, whole = with_bands(config, (found.web, found.synthetic)), [_texts(one) for one in images]
    seen = [in_cascade(texts, banded) for texts in whole]
    asked, scored = (sum(text.probability is not None for texts in part for text in texts) for part in (seen, whole))
    captions = sum(needs_caption([text for text in texts if text.source == "web"], banded) for texts in seen)
    others = sum(changed(texts, banded) for texts in whole) / len(whole)
    return (
        f"{policy}, seed {seed}: web {found.web}, synthetic {found.synthetic}; ITM passes saved "
        f"{1 - asked / scored:.1%}, captions saved {1 - captions / len(whole):.1%}, decisions changed "
        f"{others:.2%} (promised: at most {found.changed_at_most:.2%})"
    )


def _texts(image: Image) -> list[Text]:
    return [text_of(row) for row in image[1]]


def piloted(images: list[Image], truth: dict[str, Truth], count: int, seeds: int) -> str:
    """How many pilots' intervals hold what the whole gives."""
    kept, right = _whole(images, truth)
    held = Counter[str]()
    for seed in range(seeds):
        chosen = sampled(images, count, seed)
        found_kept, found_right = _whole(chosen, truth)
        held["kept"] += found_kept.interval.low <= kept.value <= found_kept.interval.high
        if right is not None and found_right is not None:
            held["right"] += found_right.interval.low <= right.value <= found_right.interval.high
    told = f"pilots of {count}: keep rate of {kept.value:.1%} held by {held['kept']} of {seeds}"
    return told if right is None else f"{told}, precision of {right.value:.1%} by {held['right']} of {seeds}"


def _whole(images: list[Image], truth: dict[str, Truth]) -> tuple[Estimate, Estimate | None]:
    """Keep rate, and precision where the truth is known."""
    shards: dict[str, tuple[int, int]] = {}
    for name, rows in images:
        kept, seen = shards.get(name, (0, 0))
        shards[name] = (kept + any(row.kept for row in rows), seen + 1)
    web = [row for _, rows in images for row in rows if row.kept and row.source == "web" and row.key in truth]
    kinds = [kind for row in web if (kind := truth[row.key].kind) not in UNKNOWN_KINDS]
    return kept_share(shards, all_shards=True), counted_share(kinds.count(MATCH), len(kinds))


def main() -> None:
    """Print a line per policy and seed, and one of the pilots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--truth")
    parser.add_argument("--sample", type=int, default=2000)
    parser.add_argument("--pilot", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    images = recorded(given.dataset)
    print(piloted(images, load_truth(given.truth) if given.truth else {}, given.pilot, given.seeds), flush=True)
    for policy in ("keep_both", "fallback", "best_of", "replace"):
        for seed in range(min(given.seeds, 3)):
            print(spared(images, policy, given.sample, seed), flush=True)


if __name__ == "__main__":
    main()
