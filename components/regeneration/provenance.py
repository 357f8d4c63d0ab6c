"""Where a sample came from, and why it is what it is."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.common.errors import DataError, StorageError
from components.common.seeding import key_seed
from components.common.storage import open_store
from components.data.candidates import Candidate
from components.data.commits import commit_of
from components.data.manifest import PLAN_KEY, Manifest, file_uri, load_manifest
from components.data.records import ShardEntry
from components.data.versions.verify import shard_rows
from components.regeneration.policy import NOT_WRITTEN
from components.regeneration.reading import fetch_shard
from components.regeneration.recut import origin_of
from components.regeneration.seeds import caption_seeds, stream_of


def explain(uri: str, key: str) -> dict[str, Any]:
    """Everything known of one sample: its input shard and place there, its candidates, scores, decisions and makers.

    Args:
        uri: a sealed dataset.
        key: the sample's key.

    Raises:
        DataError: the dataset has no such sample.
    """
    manifest = load_manifest(uri)
    store = open_store(uri)
    for entry in manifest.shards:
        record = commit_of(store, entry)
        rows = [row for row in shard_rows(uri, entry) if row.key == key]
        failures = [bad for bad in (record.bad if record else ()) if bad.key == key]
        if rows or failures:
            return _explanation(manifest, uri, entry, key, rows, [bad.model_dump() for bad in failures])
    raise DataError(f"{uri} has no sample {key!r}: check the key, or look in another version")


def _explanation(
    manifest: Manifest, uri: str, entry: ShardEntry, key: str, rows: list[Candidate], failures: list[dict[str, Any]]
) -> dict[str, Any]:
    captions = sum(row.source == "synthetic" for row in rows)
    image = rows[0].image_sha256 if rows else ""
    return {
        "key": key,
        "dataset": {"name": manifest.name, "uri": uri, "digest": manifest.digest, "kind": manifest.kind},
        "shard": {"name": entry.name, "tar": file_uri(uri, entry.tar), "sha256": entry.tar.sha256},
        "input": _input_place(manifest, entry, key),
        "kept": any(row.kept for row in rows),
        "failures": failures,
        "candidates": [
            {
                "source": row.source,
                "text": row.text,
                "itm_probability": row.itm_probability,
                "itc_similarity": row.itc_similarity,
                "kept": row.kept,
                "reason": row.reason or "kept",
                **({"scores": {name: one._asdict() for name, one in row.others.items()}} if row.others else {}),
                **({"outcome": row.outcome, "rule": row.rule} if row.outcome else {}),
                **({"weight": row.weight} if row.weight != 1 else {}),
                **_cascaded(row),
            }
            for row in rows
        ],
        "image_sha256": image,
        "seeds": _seeds(manifest, uri, key, image, captions),
        "parents": [parent.model_dump() for parent in manifest.parents],
        "config": manifest.config,
    }


def _cascaded(row: Candidate) -> dict[str, str]:
    """What a cascade did without, in words; of all other candidates nothing."""
    if row.reason == NOT_WRITTEN:
        return {"cascade": "no caption was written: the web text was kept, and the policy needs no other"}
    if row.itc_similarity is not None and row.itm_probability is None:
        return {"cascade": "decided by ITC alone, never scored by ITM"}
    return {}


def _seeds(manifest: Manifest, uri: str, key: str, image_sha256: str, count: int) -> list[int]:
    """The seeds that an image's captions were drawn with, by the rule of the version that drew them."""
    if manifest.kind != "capfilt":
        return []
    version = json.loads(open_store(uri).read(PLAN_KEY)).get("version", 1)
    if version < 2:  # upgraded: seeded from the plan, wherever in it the image was
        return [key_seed(manifest.fingerprint, key, index) for index in range(count)]
    captioner = next(parent.digest for parent in manifest.parents if parent.role == "captioner")
    return caption_seeds(stream_of(captioner, manifest.config), key, image_sha256, count)


def _input_place(manifest: Manifest, entry: ShardEntry, key: str) -> dict[str, Any]:
    """Input tar and byte offset of a sample; why they are unknown, if they are."""
    if manifest.kind not in ("capfilt", "recut"):
        return {"origin": manifest.origin}
    try:
        web = origin_of(manifest)
        source = next(shard for shard in web.shards if shard.name == entry.name)
        with TemporaryDirectory(prefix="capfilt-explain-") as folder:
            shard = fetch_shard(source, Path(folder))
            try:
                found = [sample for sample in shard.scan.samples if sample.key == key]
            finally:
                shard.close()
        return {"tar": source.uri, "sha256": shard.sha256, "offsets": [sample.offset for sample in found]}
    except (DataError, StorageError) as error:
        return {"origin": manifest.origin, "unknown": str(error)}
