"""One shard from its scored samples to its commit: decide, write tar and candidate table, declare it finished.

A shard's files are a deterministic function of the input shard, the models and the plan. Data is written first, then
the commit record; whoever dies in between leaves nothing that counts, and whoever redoes it writes the same bytes.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from components.common.errors import DataError, StorageError
from components.common.storage import Store, sha256_hex
from components.data.candidates import Candidate, candidates_to_bytes
from components.data.commits import commit_shard
from components.data.records import BadSample, Counts, FileRecord, ShardRecord, own_file
from components.data.scores import ITM, Column
from components.data.shards import SampleIndex, write_shard
from components.data.vectors import ImageRow, write_vectors
from components.data.web.samples import lost_behind_break
from components.data.web.texts import companion
from components.regeneration.band import band_passes, cascade_stats, told
from components.regeneration.config import CapfiltConfig
from components.regeneration.guard import check_collapse
from components.regeneration.policy import (
    BELOW_THRESHOLD,
    COIN,
    KEPT,
    Decision,
    Text,
    choose_text,
    coin_passes,
    decide,
    passes,
    rule_passes,
    weighed,
    with_weights,
)
from components.regeneration.reading import Loaded, OpenShard
from components.regeneration.rules import Rule
from components.regeneration.seeds import coin_seed, text_seed
from components.regeneration.stats import Accepts, ShardStats, shard_stats
from components.regeneration.texts import json_fields

R = TypeVar("R")


@dataclass(frozen=True)
class JudgedSample:
    """What became of one sample: its candidates with decisions, or the reason of its failure."""

    loaded: Loaded
    texts: tuple[Text, ...] = ()
    decisions: tuple[Decision, ...] = ()
    vector: npt.NDArray[np.float16] | None = None

    @property
    def kept(self) -> list[Text]:
        """The captions that stay, in order."""
        return [text for text, decision in zip(self.texts, self.decisions, strict=True) if decision.kept]


@dataclass
class ShardWork:
    """A shard while its samples go through the models."""

    shard: OpenShard
    judged: list[JudgedSample] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """A committed shard and its figures."""

    record: ShardRecord
    stats: ShardStats


def judge(loaded: Loaded, texts: Sequence[Text], config: CapfiltConfig, stream: str = "") -> JudgedSample:
    """Apply filter and policy to the scored texts of one image; `stream` (seeds.py) is for a coin."""
    texts = with_weights(texts, config.weights)
    if config.coin is None:
        passed, rejection = accepts(config)(texts), BELOW_THRESHOLD
    else:
        passed, rejection = coin_passes(texts, config.coin, coin_seed(stream, loaded.sample.key, loaded.sha256)), COIN
    decisions = decide(texts, config.policy, passed, rejection=rejection, score=config.score or ITM)
    if config.cascade is not None:
        decisions = told(texts, decisions)
    if config.weigh is not None:
        decisions = weighed(texts, decisions, _rule(config.weigh, float))
    return JudgedSample(loaded, tuple(texts), tuple(decisions))


def accepts(config: CapfiltConfig) -> Accepts:
    """Which texts of an image pass: by the rule, by any score where pairs are weighed, by a threshold."""
    if config.keep is not None:
        rule = _rule(config.keep, bool)
        return lambda texts: rule_passes(texts, rule)
    if config.weigh is not None:
        return lambda texts: [text.scored for text in texts]
    if config.cascade is not None:
        return lambda texts: band_passes(texts, config)
    return lambda texts: passes(texts, config.threshold, config.score or ITM)


_rule = cache(Rule)


def stats_of(rows: Iterable[Candidate], config: CapfiltConfig) -> ShardStats:
    """The figures of a shard's rows, which these settings decided."""
    rows = list(rows)
    stats = shard_stats(rows, config.threshold, by_coin=config.coin is not None, accepts=_other_ways(config))
    return stats if config.cascade is None else replace(stats, cascade=cascade_stats(rows, config))


def _other_ways(config: CapfiltConfig) -> Accepts | None:
    others = (config.keep, config.weigh, config.weights, config.cascade)
    plain = all(one is None for one in others) and config.score in (None, ITM)
    return None if plain else lambda texts: accepts(config)(with_weights(texts, config.weights))


Beside = tuple[FileRecord, FileRecord] | None
"""Vectors and images of a shard (vectors.py), where there are any."""


def finish_shard(
    work: ShardWork,
    store: Store,
    work_dir: Path,
    config: CapfiltConfig,
    plan: str,
    *,
    beside: Beside = None,
    scores: Sequence[Column] = (),
    outcomes: bool | None = None,
) -> Finished:
    """Write a shard's tar and table to the store and commit it.

    Args:
        work: all its samples, judged, in input order.
        store: rooted at the output dataset.
        work_dir: local folder for the tar before it is copied to the store.
        config: for the collapse guard and the number of retries.
        plan: fingerprint of the plan that the shard is part of.
        beside: vectors that lie in the store already; without them the samples' own are written.
        scores: scores of other scorers than BLIP, for columns of their own.
        outcomes: whether the table says what became of captions; None: as the config.

    Raises:
        DataError: a sample was lost.
        StorageError: the store refuses, or trouble that can heal lasted too long.
        GateError: the captions have collapsed; nothing is committed.
    """
    name = work.shard.source.name
    rows = [row for sample in work.judged for row in candidate_rows(sample)]
    stats = stats_of(rows, config)
    check_collapse(stats.captions, config.guard, f"shard {name}")
    table = candidates_to_bytes(rows, scores, outcomes=bool(config.check_captions if outcomes is None else outcomes))
    local = work_dir / f"out-{name}.tar"
    try:
        size, digest = write_shard(_kept_samples(work, config), local)
        tar = own_file(name, ".tar", size, digest)
        parquet = own_file(name, ".parquet", len(table), sha256_hex(table))
        healing(lambda: store.upload(local, tar.uri), config.retries)
        healing(lambda: store.write(parquet.uri, table), config.retries)
        vectors, images = beside or healing(lambda: _write_beside(work, store), config.retries) or (None, None)
        more = {"plan": plan, "vectors": vectors, "images": images}
        record = shard_record(work, tar, parquet, stats).model_copy(update=more)
        return Finished(healing(lambda: commit_shard(store, record), config.retries), stats)
    finally:
        local.unlink(missing_ok=True)
        work.shard.close()


def _write_beside(work: ShardWork, store: Store) -> Beside:
    """Write the vectors of a shard's good images; None where the models gave none."""
    seen = [one for one in work.judged if one.vector is not None]
    rows = [ImageRow(one.loaded.sample.key, one.loaded.sha256, one.loaded.phash) for one in seen]
    vectors = [one.vector for one in seen if one.vector is not None]
    return write_vectors(store, work.shard.source.name, rows, np.stack(vectors)) if vectors else None


def healing(call: Callable[[], R], retries: int, *, pause: float = 0.5) -> R:
    """Call again after trouble that can heal, with doubling pauses (seconds)."""
    for attempt in range(retries + 1):
        try:
            return call()
        except StorageError as error:
            if not error.retryable or attempt == retries:
                raise
            time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")


def candidate_rows(sample: JudgedSample) -> list[Candidate]:
    """Table rows of one sample. A failed sample's web texts are listed too, with the failure as its reason."""
    loaded = sample.loaded
    if loaded.reason:
        return [_row(loaded, text, Decision(False, loaded.reason)) for text in loaded.texts]
    return [_row(loaded, text, one) for text, one in zip(sample.texts, sample.decisions, strict=True)]


def _row(loaded: Loaded, text: Text, decision: Decision) -> Candidate:
    return Candidate(
        key=loaded.sample.key,
        image_sha256=loaded.sha256,
        source=text.source,
        text=text.text,
        itm_probability=text.probability,
        itc_similarity=text.similarity,
        kept=decision.kept,
        reason="" if decision.reason == KEPT else decision.reason,
        weight=decision.weight,
        others=text.others,
        outcome=text.outcome,
        rule=text.rule,
    )


def shard_record(work: ShardWork, tar: FileRecord, parquet: FileRecord, stats: ShardStats) -> ShardRecord:
    """The commit record: files, counts, every bad sample.

    Raises:
        DataError: if the samples that came out are not those that went in.
    """
    keys = [sample.loaded.sample.key for sample in work.judged]
    if keys != [sample.key for sample in work.shard.samples]:
        raise DataError(
            f"shard {work.shard.source.uri}: {len(work.shard.samples)} samples went in, {len(keys)} came out, or in "
            "another order; this is a defect, please report it with the shard"
        )
    bad = [
        BadSample(key=one.loaded.sample.key, reason=one.loaded.reason, detail=one.loaded.detail)
        for one in work.judged
        if one.loaded.reason
    ]
    if (lost := _lost(work.shard)) is not None:
        bad.append(lost)
    good = [one for one in work.judged if not one.loaded.reason]
    pairs = sum(len(one.kept) for one in good)
    failed = Counter[str]()
    for one in bad:
        failed[one.reason] += one.count
    counts = Counts(
        samples=len(good) + failed.total(),
        kept=sum(bool(one.kept) for one in good),
        dropped=sum(not one.kept for one in good),
        failed=dict(sorted(failed.items())),
        kept_pairs=pairs,
        dropped_pairs=sum(len(one.texts) for one in good) - pairs,
    )
    return ShardRecord(
        name=work.shard.source.name, tar=tar, parquet=parquet, counts=counts, bad=tuple(bad), metrics=stats.figures()
    )


def _lost(shard: OpenShard) -> BadSample | None:
    """What a broken tar has lost behind the break: as many samples as somebody counted, at least the one it cut."""
    if shard.source.take is not None:
        return None
    return lost_behind_break(shard.source.uri, shard.scan, shard.source.expected)


def _kept_samples(work: ShardWork, config: CapfiltConfig) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Samples of the output tar: those with a kept caption; every input member but text and JSON bit-identical."""
    for one in work.judged:
        if kept := one.kept:
            sample = one.loaded.sample
            seed = text_seed(config.seed, sample.key, one.loaded.sha256)
            chosen = choose_text(kept, config.text, seed, config.score or ITM)
            yield sample.key, kept_members(work.shard, sample, kept, chosen)


def kept_members(shard: OpenShard, sample: SampleIndex, kept: Sequence[Text], chosen: Text) -> dict[str, bytes]:
    """Members of an output sample: the input's bit-identical, but for text (the chosen one) and JSON (all kept)."""
    members = {extension: shard.member(sample, extension) or b"" for extension in sample.members}
    text, fields = (companion(sample.members, sample.image, name) for name in ("txt", "json"))
    return members | {text: chosen.text.encode(), fields: sample_json(members.get(fields), kept)}


def sample_json(data: bytes | None, kept: Sequence[Text]) -> bytes:
    """The sample's JSON: the input's fields, and the kept captions with source and scores under `captions`."""
    fields = json_fields(data)
    former = fields.pop("captions", None)
    if former is not None and not _is_ours(former):
        fields["input_captions"] = former
    fields["captions"] = [
        {
            "text": text.text,
            "source": text.source,
            "itm_probability": text.probability,
            "itc_similarity": text.similarity,
            **({"scores": {name: one.value for name, one in text.others.items()}} if text.others else {}),
        }
        for text in kept
    ]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def _is_ours(captions: object) -> bool:
    """Whether a `captions` field was written by `sample_json`: then the new one takes its place."""
    return isinstance(captions, list) and all(isinstance(one, dict) and "itm_probability" in one for one in captions)
