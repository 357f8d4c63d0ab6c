"""Another threshold or policy on stored scores: a new dataset version in minutes, without a model.

Every candidate was stored with its score, kept or not. The images come from the web shards that the dataset was made
from, since its own tars lack those it had dropped.
"""

import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError, DataError, StorageError
from components.common.seeding import digest_of
from components.common.storage import Store, open_store
from components.data.candidates import Candidate, stored_candidates
from components.data.commits import commit_of, recall
from components.data.manifest import Manifest, dataset_store, load_manifest, plan_dataset, seal_dataset
from components.data.records import BadSample, Parent, Provenance, ShardEntry
from components.data.scores import ITC, ITM
from components.data.shards import BROKEN_SHARD
from components.regeneration.cascaded import check_known, inherited_cascade
from components.regeneration.config import CapfiltConfig
from components.regeneration.guard import GuardConfig
from components.regeneration.lineup import check_names, check_thresholds
from components.regeneration.plan import WebInput, web_input
from components.regeneration.policy import Policy, TextChoice
from components.regeneration.reading import Loaded, OpenShard, fetch_shard
from components.regeneration.shard import Beside, Finished, JudgedSample, ShardWork, finish_shard, judge, stats_of
from components.regeneration.stats import Totals, run_metrics
from components.regeneration.textfilters import Setting, TextFilters
from components.regeneration.texts import text_of

REVISION = 2  # 2: files named by content
"""Raised when the same dataset and settings would give another output."""

_WEIGHED = ("calibrated", "weights")
_GUARD_OFF = GuardConfig(max_top_caption_share=1.0)


def recut_dataset(
    uri: str,
    *,
    threshold: float | None,
    policy: Policy,
    store: Store,
    name: str,
    text: TextChoice | None = None,
    keep: str | None = None,
    weigh: str | None = None,
    score: str | None = None,
    text_filters: Mapping[str, Setting] | None = None,
    threshold_of: Mapping[str, str] | None = None,
    out: Store | None = None,
    work_dir: Path | None = None,
) -> CapfiltResult:
    """Decide again about every candidate of a dataset.

    Args:
        uri: a dataset made by CapFilt, or a recut one.
        threshold: score from which a text is kept, of the kind that the dataset was made by; None: 0.5, if that is a
            match probability.
        policy: as in CapfiltConfig.
        text: as in CapfiltConfig; None: as in the dataset.
        keep, weigh, score, threshold_of: as in CapfiltConfig; `score` by default as in the dataset.
        text_filters: as in CapfiltConfig, beside those that were in use before: what they dropped has no scores.
        store: root under which the new version gets its place.
        name: its name.
        out: exact root of the new dataset, instead of its place under `store`.
        work_dir: local folder for temporary files.

    Raises:
        DataError: it is no such dataset, or its web shards are gone or changed.
        ConfigError: the threshold is no probability, a rule is none or asks for a score that is not stored, a threshold
            is another scorer's, or `out` holds something else.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold} is no probability: use 0 … 1")
    manifest = load_manifest(uri)
    if manifest.kind not in ("capfilt", "recut"):
        raise DataError(f"{uri} is a {manifest.kind} dataset without scores; only what CapFilt made can be cut again")
    # What decided before must not stay among the settings: not the old threshold, not a coin.
    inherited: dict[str, Any] = {
        name: manifest.config[name] for name in ("limit", "seed", "text", "score") if name in manifest.config
    }
    if keep is None and weigh is None and score is None:  # the threshold is of what the dataset was made by
        inherited |= {name: manifest.config[name] for name in _WEIGHED if manifest.config.get(name) is not None}
    filters = {**manifest.config.get("text_filters", {}), **(text_filters or {})}
    given: dict[str, Any] = {"text": text, "keep": keep, "weigh": weigh, "score": score, "threshold": threshold}
    given["text_filters"] = filters or None
    inherited |= {"guard": _GUARD_OFF} | {field: value for field, value in given.items() if value is not None}
    inherited |= inherited_cascade(manifest, threshold, score, keep, weigh)
    config = _config(policy=policy, threshold_of=dict(threshold_of or {}), **inherited)
    check_thresholds(config, _digests(manifest))
    check_names(config, _stored_names(manifest, uri))
    check_known(config, uri, manifest)
    named = {field for field in ("keep", "weigh", "score", "cascade", *_WEIGHED) if getattr(config, field) is not None}
    named |= {"text_filters"} if config.text_filters else set()
    settings = config.model_dump(mode="json", include={"threshold", "policy", "limit", "seed", "text"} | named)
    plan = {"kind": "recut", "version": REVISION, "dataset": manifest.digest, "config": settings}
    target = out or dataset_store(store, name, digest_of(plan))
    fingerprint = plan_dataset(target, plan)
    entries, totals = [], Totals()
    with tempfile.TemporaryDirectory(prefix="capfilt-recut-", dir=work_dir) as folder:
        for done in _shards(manifest, open_store(uri), target, config, fingerprint, Path(folder)):
            entries.append(done.record.entry())
            totals.add(done.stats, done.record.counts)
    parents = (Parent(role="dataset", digest=manifest.digest, uri=uri), *manifest.parents)
    made = Provenance(name, "recut", settings, fingerprint, parents, manifest.origin)
    ref = seal_dataset(target, made, entries)
    return CapfiltResult(dataset=ref, metrics=run_metrics(totals.stats, totals.counts, 0.0, 0))


def _config(**settings: Any) -> CapfiltConfig:
    try:
        return CapfiltConfig(**settings)
    except ValidationError as error:
        raise ConfigError("\n".join(one["msg"].removeprefix("Value error, ") for one in error.errors())) from error


def _digests(manifest: Manifest) -> dict[str, str]:
    """Digests of the scorers behind a dataset's scores, by the score's name."""
    roles = {parent.role: parent.digest for parent in manifest.parents}
    found = {role.partition(":")[2]: digest for role, digest in roles.items() if role.startswith("scorer:")}
    main = manifest.config.get("score") or ITM
    judge = {name: roles["filter"] for name in ((ITM, ITC) if main == ITM else (main,)) if "filter" in roles}
    return judge | found


def _stored_names(manifest: Manifest, uri: str) -> list[str]:
    """Scores that a dataset holds, as the first shard has them in which anything was scored."""
    for entry in manifest.shards:
        table = stored_candidates(uri, entry.parquet)
        rows = table.rows()
        blip = any(row.itc_similarity is not None for row in rows)
        if blip or any(row.others for row in rows):
            return [*((ITM, ITC) if blip else ()), *(one.name for one in table.scores)]
    return [ITM, ITC]


def origin_of(manifest: Manifest) -> WebInput:
    """The web shards that a dataset was made from.

    Raises:
        DataError: they are not there any more, or are others now.
    """
    wanted = next((parent.digest for parent in manifest.parents if parent.role == "web"), "")
    limit = manifest.config.get("limit")
    try:
        web = web_input(manifest.origin, limit if isinstance(limit, int) else None)
    except (DataError, StorageError) as error:
        raise DataError(f"the web shards of dataset {manifest.name} cannot be read: {error}") from error
    if web.digest != wanted:
        raise DataError(
            f"{manifest.origin} holds other web shards than dataset {manifest.name} was made from (version "
            f"{web.digest[:12]}, wanted {wanted[:12]}): bring those back"
        )
    return web


def _shards(
    manifest: Manifest, source: Store, target: Store, config: CapfiltConfig, fingerprint: str, work_dir: Path
) -> Iterator[Finished]:
    """Every shard decided again, in order; those an earlier run committed are taken over."""
    web: WebInput | None = None
    committed, filters = recall(target, plan=fingerprint), TextFilters(config.text_filters)
    for entry in manifest.shards:
        if (record := committed.get(entry.name)) is not None:
            yield Finished(record, stats_of(stored_candidates(target.uri, record.parquet).rows(), config))
            continue
        web = web or origin_of(manifest)
        commit = commit_of(source, entry)
        if commit is None:
            raise DataError(f"{source.uri}: the commit record of shard {entry.name} is gone; make the dataset again")
        table = stored_candidates(source.uri, entry.parquet)
        rows = table.rows()
        shard = fetch_shard(next(one for one in web.shards if one.name == entry.name), work_dir)
        judged = [
            one if one.loaded.reason else judge(one.loaded, filters.marked(one.texts), config)
            for one in recalled(shard, rows, commit.bad)
        ]
        beside = taken_along(entry, source, target)
        yield finish_shard(
            ShardWork(shard, judged),
            target,
            work_dir,
            config,
            fingerprint,
            beside=beside,
            scores=table.scores,
            outcomes=table.outcomes,
        )


def taken_along(entry: ShardEntry, source: Store, target: Store) -> Beside:
    """A shard's vectors, which no decision changes, for the new dataset."""
    if entry.vectors is None or entry.images is None:
        return None
    for file in (entry.vectors, entry.images):
        target.copy(source, file.uri, file.uri)
    return entry.vectors, entry.images


def recalled(shard: OpenShard, rows: list[Candidate], bad: tuple[BadSample, ...]) -> Iterator[JudgedSample]:
    """The samples of a shard with their texts and scores as they were stored, undecided, in input order.

    Raises:
        DataError: table and shard do not belong together.
    """
    images = deque(list(group) for _, group in groupby(rows, key=lambda row: (row.key, row.image_sha256)))
    failures = deque(one for one in bad if one.reason != BROKEN_SHARD)
    for sample in shard.samples:
        if sample.problem is not None:
            failure = failures.popleft()
            yield JudgedSample(Loaded(sample, (), reason=failure.reason, detail=failure.detail))
            continue
        if not images or images[0][0].key != sample.key:
            raise DataError(f"shard {shard.source.uri}: the candidate table lacks sample {sample.key}; verify both")
        group = images.popleft()
        texts = tuple(text_of(row) for row in group)
        digest = group[0].image_sha256
        if failures and failures[0].key == sample.key and failures[0].reason == group[0].reason:
            failure = failures.popleft()
            yield JudgedSample(Loaded(sample, texts, digest, reason=failure.reason, detail=failure.detail))
        else:
            yield JudgedSample(Loaded(sample, texts, digest), texts)
