"""A cascade's bands, found on a sample of the web data that is worked on in full.

A part of the sample says in what order bands are narrowed: always at the end where a text more that is decided
otherwise lets most others do without ITM. The rest tests these bands one after the other, from the widest on, and stops
at the first that may change more decisions than is tolerated, by the upper end of a one-sided exact interval (95 %).
As the order was settled beforehand by other images, testing many bands makes none of the tests less sure: the chosen
band exceeds the tolerance in one of twenty samples at most (Maurer, Hothorn and Lehmacher 1995: a priori ordered
hypotheses).

That holds for the data the sample was drawn from. What the run audits says whether it held there.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from components.common.contracts import Contract
from components.common.errors import ConfigError
from components.common.progress import Progress
from components.common.scratch import ScratchFolder
from components.common.seeding import digest_of
from components.common.shares import at_most
from components.common.storage import Store, open_store
from components.data.candidates import Candidate, stored_candidates
from components.data.records import pretty
from components.regeneration.band import (
    Bands,
    cascade_of,
    changed,
    in_cascade,
    needs_caption,
    ranks,
    with_bands,
)
from components.regeneration.config import CapfiltConfig
from components.regeneration.engines import run_engine
from components.regeneration.local import Done
from components.regeneration.plan import Plan
from components.regeneration.policy import Text
from components.regeneration.sample import Sample, draw_sample
from components.regeneration.shard import Finished
from components.regeneration.texts import text_of

logger = logging.getLogger(__name__)

REVISION = 1
"""Raised when the same sample would give other bands."""

_LEARN = 3  # of so many images one orders the bands, the others test them
_MARGINS = (2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.0)  # deviations beyond the first text that would be decided otherwise
_DIGITS = 6
_SEED = 0
_SOURCES = ("web", "synthetic")


class FoundBands(Contract):
    """Bands, and what was found of them on images that had no part in ordering them."""

    web: tuple[float, float]
    synthetic: tuple[float, float]
    tolerance: float = Field(description="share of decisions that may be others")
    sample: int = Field(description="images worked on in full")
    tested: int = Field(description="images among them that the bands were tested on")
    changed: float = Field(description="share of the tested images' decisions that are others")
    changed_at_most: float = Field(description="with 95 % certainty no larger share")
    itm_saved: float = Field(description="share of ITM passes that they save")
    captions_saved: float = Field(description="share of captions that they save")


def settled_bands(plan: Plan, place: Store, work_dir: Path, name: str) -> CapfiltConfig:
    """The plan's config with bands: those that were found before for the same data, models and settings, or new ones.

    A run that is taken up again must find the very bands it began with.

    Args:
        plan: all of the run but its bands.
        place: where they are written down.
        work_dir: local folder for the sample.
        name: of the dataset, for messages.

    Raises:
        ConfigError: there are too few images to be sure of any band.
    """
    key = bands_key(plan)
    if not place.exists(key):
        found = find_bands(full_pass(plan, work_dir, name), plan.config)
        place.write(key, pretty(found.model_dump(mode="json")), if_absent=True)
    found = FoundBands.model_validate_json(place.read(key))
    logger.info(
        "%s: ITM between cosines of %g and %g for web texts, %g and %g for synthetic ones: on %d images of a sample "
        "it changes %.2f %% of the decisions, at most %.2f %% with 95 %% certainty, and saves %.0f %% of the ITM "
        "passes and %.0f %% of the captions",
        name,
        *found.web,
        *found.synthetic,
        found.tested,
        100 * found.changed,
        100 * found.changed_at_most,
        100 * found.itm_saved,
        100 * found.captions_saved,
    )
    return with_bands(plan.config, (found.web, found.synthetic))


def bands_key(plan: Plan) -> str:
    """Where the bands of a plan that has none yet are written down."""
    return f"cascades/{digest_of({'revision': REVISION, 'plan': plan.as_json()})[:16]}.json"


def full_pass(plan: Plan, work_dir: Path, name: str) -> list[list[Text]]:
    """The scored texts of each image of a sample, web texts first; nothing of it is left."""
    cascade = cascade_of(plan.config)
    with ScratchFolder("cascade", work_dir) as folder:
        sample = draw_sample(plan.web, cascade.sample, _SEED, folder)
        if 2 * sample.images > sample.of:
            logger.warning(
                "%s: %d of %d images are worked on in full to find the cascade's bands; of so few it saves little",
                name,
                sample.images,
                sample.of,
            )
        rows = _worked_on(plan, sample, folder, f"{name}: sample")
    images = (
        [text_of(row) for row in group] for _, group in groupby(rows, key=lambda row: (row.key, row.image_sha256))
    )
    return [texts for texts in images if any(text.probability is not None for text in texts)]


def _worked_on(plan: Plan, sample: Sample, folder: Path, label: str) -> list[Candidate]:
    """All candidates of a sample, by the plan without its cascade."""
    settings = {"cascade": None, "limit": None, "engine": "local"}  # a cluster would not see the tars
    whole = replace(plan, web=sample.web, config=plan.config.model_copy(update=settings))
    out, done = open_store(str(folder / "out")), list[Finished]()
    with Progress(len(sample.shard_of), "images", label) as progress:

        def count(now: Done) -> None:
            progress.advance(now.images)

        run_engine(whole, whole.web.shards, out, folder, on_images=count, on_shard=done.append)
    tables = (one.record.parquet for one in sorted(done, key=lambda one: one.record.name))
    return [row for table in tables for row in stored_candidates(out.uri, table).rows()]


def find_bands(images: Sequence[Sequence[Text]], config: CapfiltConfig) -> FoundBands:
    """The narrowest bands that are sure enough.

    Args:
        images: the scored texts of each image.
        config: settings with a cascade.

    Raises:
        ConfigError: there are too few images to be sure of any.
    """
    tolerance = cascade_of(config).tolerance
    learn = images[::_LEARN]
    test = [texts for at, texts in enumerate(images) if at % _LEARN]
    chosen: tuple[CapfiltConfig, float] | None = None
    for bands in _ordered(learn, config):
        tried = with_bands(config, bands)
        others = sum(changed(texts, tried) for texts in test)
        if at_most(others, len(test)) > tolerance:
            break
        chosen = (tried, others)
    if chosen is None:
        raise ConfigError(
            f"{len(images)} usable images are too few to be sure of {tolerance:.2%} changed decisions: raise "
            "cascade.sample or cascade.tolerance, give cascade.web and cascade.synthetic, or do without the cascade"
        )
    return _told(chosen[0], test, chosen[1], len(images))


def _told(config: CapfiltConfig, test: Sequence[Sequence[Text]], others: float, sample: int) -> FoundBands:
    cascade = cascade_of(config)
    seen = [in_cascade(texts, config) for texts in test]
    scored = sum(text.probability is not None for texts in test for text in texts)
    asked = sum(text.probability is not None for texts in seen for text in texts)
    sparing = [not needs_caption([text for text in texts if text.source == "web"], config) for texts in seen]
    return FoundBands(
        web=cascade.band("web"),
        synthetic=cascade.band("synthetic"),
        tolerance=cascade.tolerance,
        sample=sample,
        tested=len(test),
        changed=others / len(test),
        changed_at_most=at_most(others, len(test)),
        itm_saved=1 - asked / scored,
        captions_saved=sum(sparing) / len(sparing),
    )


# ----------------------------------------------------------------------------------------------- the order of the bands


class _End(NamedTuple):
    """An end of a source's band.

    Attributes:
        source: 0 for web texts, 1 for synthetic ones.
        side: 0 for the lower end, 1 for the upper one.
        places: cosines of the texts that ITM decides against this side, outermost first.
        beyond: how many texts lie beyond each.
        deviation: of all cosines of the source.
    """

    source: int
    side: int
    places: list[float]
    beyond: list[int]
    deviation: float

    def at(self, step: int, margin: float = 0.0) -> float:
        """The end, at the text of this number or so many deviations beyond it."""
        outwards = 1 if self.side else -1
        return min(max(self.places[step] + outwards * margin * self.deviation, -1.0), 1.0)


def _ordered(images: Sequence[Sequence[Text]], config: CapfiltConfig) -> Iterator[Bands]:
    """Bands from the widest on: first all ends come near together, then the one moves that spares most for its text."""
    ends = [end for source in (0, 1) for end in _ends(images, source, config)]
    places = [[-1.0, 1.0], [-1.0, 1.0]]
    yield _bands(places)
    for margin in _MARGINS:
        for end in ends:
            places[end.source][end.side] = end.at(0, margin)
        yield _bands(places)
    steps = [0] * len(ends)
    while True:
        gains = [
            end.beyond[step + 1] - end.beyond[step] if step + 1 < len(end.places) else -1
            for end, step in zip(ends, steps, strict=True)
        ]
        if max(gains, default=-1) < 0:
            return
        moved = gains.index(max(gains))
        steps[moved] += 1
        places[ends[moved].source][ends[moved].side] = ends[moved].at(steps[moved])
        yield _bands(places)


def _bands(places: Sequence[Sequence[float]]) -> Bands:
    """Ends that have passed one another meet half-way."""
    web, synthetic = (
        (low, high) if low <= high else ((low + high) / 2, (low + high) / 2) for low, high in (map(_rounded, places))
    )
    return web, synthetic


def _rounded(band: Sequence[float]) -> tuple[float, float]:
    return round(band[0], _DIGITS), round(band[1], _DIGITS)


def _ends(images: Sequence[Sequence[Text]], source: int, config: CapfiltConfig) -> Iterator[_End]:
    """The ends of a source's band that can spare anything."""
    name = _SOURCES[source]
    known = [
        (text.similarity, text.probability >= config.threshold)
        for texts in images
        for text in texts
        if text.source == name and text.similarity is not None and text.probability is not None
    ]
    if not known or (config.policy == "replace" and name == "web"):
        return
    cosines, passed = np.array([one for one, _ in known]), np.array([one for _, one in known])
    deviation = float(cosines.std())
    for side in (0,) if ranks(config) else (0, 1):
        against = np.sort(cosines[passed if side == 0 else ~passed])
        places = against if side == 0 else against[::-1]
        if len(places):
            ordered = np.sort(cosines)
            beyond = (
                np.searchsorted(ordered, places, "left")
                if side == 0
                else len(ordered) - np.searchsorted(ordered, places, "right")
            )
            yield _End(source, side, places.tolist(), beyond.tolist(), deviation)
