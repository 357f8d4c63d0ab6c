"""Captions that came to nothing are asked for again: a child of a sealed version, all else is taken over as it is.

Shards without such captions are taken over whole (extend.py). Of the others the images in question go through the
models once more, for these captions alone; then all images of the shard are decided again from what is stored, which
gives the same texts and scores, and so the same decisions and bytes, wherever nothing new was said.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.common.errors import ConfigError, DataError
from components.common.storage import Store
from components.data.candidates import stored_candidates
from components.data.commits import commit_of
from components.inference.memory import batches
from components.regeneration.extend import Base
from components.regeneration.models import CapfiltModels
from components.regeneration.outcomes import NOT_OK
from components.regeneration.plan import Plan
from components.regeneration.policy import Text
from components.regeneration.reading import OpenShard, ShardSource, fetch_shard, load_sample
from components.regeneration.recut import recalled, taken_along
from components.regeneration.shard import Finished, JudgedSample, ShardWork, finish_shard, judge

_PLURAL = {"errors": "error", "refusals": "refusal", "echoes": "echo"}


def what_again(base: Base | None, named: str) -> dict[str, Any]:
    """What a Plan says of captions that are tried again.

    Args:
        base: the version that they are in.
        named: outcomes as they are typed, `errors` or `errors,cut`.

    Raises:
        ConfigError: there is no such outcome, no version, or no such caption in it.
    """
    asked = {_PLURAL.get(one.strip(), one.strip()) for one in named.split(",")}
    if unknown := sorted(asked - set(NOT_OK)):
        raise ConfigError(f"retry: {unknown[0]!r} is no outcome to try again: name errors, {', '.join(NOT_OK[1:])}")
    if base is None:
        raise ConfigError("retry is for a finished version: name it by extend, and a new place by out")
    outcomes = tuple(one for one in NOT_OK if one in asked)
    if not base.holding(outcomes):
        raise ConfigError(
            f"{base.store.uri} has no caption whose outcome is {' or '.join(outcomes)}: there is nothing to try again; "
            "leave retry out"
        )
    return {"retry": outcomes, "retries": base.manifest.digest}


def retry_shards(
    base: Base, plan: Plan, todo: Sequence[ShardSource], models: CapfiltModels, target: Store, work_dir: Path
) -> Iterator[Finished]:
    """Shards of a version with these captions asked for again; each is committed when it is yielded.

    Args:
        base: the version, of the same models and settings.
        plan: the new plan, with the outcomes to try again.
        todo: input shards of the base as they were then, which hold such captions.
        models: of the plan.
        target: rooted at the new dataset.
        work_dir: local folder for temporary files.

    Raises:
        DataError: the base has lost its records, or its input has changed.
    """
    entries = {entry.name: entry for entry in base.manifest.shards}
    for source in todo:
        entry = entries[source.name]
        record = commit_of(base.store, entry)
        if record is None:
            raise DataError(
                f"{base.store.uri}: the commit record of shard {entry.name} is gone; make the version again"
            )
        table = stored_candidates(base.store.uri, entry.parquet)
        shard = fetch_shard(source, work_dir)
        samples = list(recalled(shard, table.rows(), record.bad))
        work = ShardWork(shard, _decided(shard, samples, models, plan.retry))
        yield finish_shard(
            work,
            target,
            work_dir,
            plan.config,
            plan.fingerprint,
            beside=taken_along(entry, base.store, target),
            scores=table.scores,
            outcomes=table.outcomes,
        )


def _decided(
    shard: OpenShard, samples: Sequence[JudgedSample], models: CapfiltModels, outcomes: Sequence[str]
) -> list[JudgedSample]:
    """All samples of a shard, those captions replaced."""
    texts = [list(sample.texts) for sample in samples]
    asked = {at: places for at, row in enumerate(texts) if (places := _places(row, outcomes))}
    for batch in batches(len(asked), models.config.batch_size):
        rows = [list(asked)[at] for at in batch]
        loaded = [load_sample(shard, samples[at].loaded.sample, models.read_options) for at in rows]
        numbers = [[place - _first(texts[at]) for place in asked[at]] for at in rows]
        for at, made in zip(rows, models.again(loaded, numbers), strict=True):
            for place, text in zip(asked[at], made, strict=True):
                texts[at][place] = text
    return [
        sample if sample.loaded.reason else judge(sample.loaded, row, models.config, models.stream)
        for sample, row in zip(samples, texts, strict=True)
    ]


def _places(texts: Sequence[Text], outcomes: Sequence[str]) -> list[int]:
    return [place for place, text in enumerate(texts) if text.outcome in outcomes]


def _first(texts: Sequence[Text]) -> int:
    """Where an image's captions begin, behind its web texts."""
    return sum(text.source == "web" for text in texts)
