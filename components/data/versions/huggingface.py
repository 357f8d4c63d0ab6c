"""A dataset for strangers: tars that `datasets`, webdataset and open_clip read, and the papers that go with them.

    data/train-00000-of-00010.tar   KEY.jpg, KEY.json, KEY.txt of every kept sample; images byte for byte
    data/sizes.json                 samples of each tar, as open_clip reads it
    metadata/train-….parquet        the JSON of each tar's samples as a table, for those who need no images
    README.md                       the card (card.py), with the features in its head
    croissant.json                  the same for programs (croissant.py)
    export.json                     which version this is, and the sha256 of each file; written last

Readers infer types from the first samples, so every sample has the same members and its JSON the same fields of the
same types: what the input's JSON held besides is left out, and with it whatever paths were in there. All images have
one ending, the first one's; in a dataset of several formats the ending is only a name, and `format` tells the truth.

Tars are written one by one, each at once or not at all. What is finished is noted under `.export`, so that the same
command goes on after an interruption; the notes are gone at the end.
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import ValidationError

from components.common.contracts import Contract
from components.common.errors import ConfigError, DataError
from components.common.locations import is_below
from components.common.redact import redact
from components.common.storage import Store, join_uri, open_store, sha256_hex
from components.data.candidates import Candidate, stored_candidates
from components.data.commits import load_json
from components.data.kept import KeptSample, kept_samples
from components.data.manifest import Manifest, load_manifest, plan_dataset
from components.data.records import FileRecord, ShardEntry, pretty
from components.data.scores import ITC, ITM
from components.data.selection import uid_of
from components.data.shards import write_shard
from components.data.versions.card import Card, card_text
from components.data.versions.croissant import croissant_document
from components.data.web.texts import json_fields

LAYOUT = 1
"""Raised when the same version would be exported to other bytes."""
EXPORT_KEY = "export.json"
_NOTES = ".export"
_SPLIT = re.compile(r"[A-Za-z0-9_]+")


class ExportedShard(Contract):
    """A finished tar and its table."""

    samples: int
    tar: FileRecord
    table: FileRecord


class Exported(Contract):
    """What was exported."""

    layout: int = LAYOUT
    dataset: str
    """Digest of the version."""
    split: str
    shards: tuple[ExportedShard, ...] = ()


class Shape(NamedTuple):
    """What all samples of an export have in common."""

    ending: str
    """Of the images: `jpg` or `png`."""
    scores: tuple[str, ...]
    """Scores that its captions have."""


def export_huggingface(
    uri: str,
    out: str,
    *,
    split: str = "train",
    license: str = "",  # noqa: A002 - the field's name
    licenses: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda samples: None,
) -> Exported:
    """Export what a version kept, to a folder or an S3 prefix; interrupted, the same call goes on.

    Args:
        uri: a sealed dataset.
        out: where to; empty, or begun by the same call before.
        split: name of the split.
        license: the dataset's own licence, as the Hugging Face hub spells it; empty: nobody said.
        licenses: licences of what the dataset was made from, by role (`captioner`, `filter`, `web` …), where models'
            own cards do not tell.
        progress: called with the number of samples done, tar by tar.

    Raises:
        ConfigError: something else lies at `out`, or a name is none.
        DataError: there is no dataset, nothing of it was kept, or a file is not what the manifest says.
    """
    if not _SPLIT.fullmatch(split):
        raise ConfigError(f"{split!r} is no name for a split: use letters, digits and _, e.g. train")
    manifest, store = load_manifest(uri), open_store(out)
    card = Card.of(manifest, license=license, licenses=licenses or {})
    if is_below(open_store(uri).uri, store.uri):
        raise ConfigError(f"{store.uri} lies inside the dataset {uri}: export to a place beside it")
    shards = [entry for entry in manifest.shards if entry.counts.kept]
    if not shards:
        raise DataError(f"{uri}: no caption was kept, so there is nothing to export")
    wanted = Exported(dataset=manifest.digest, split=split)
    done = _begun(store, wanted)
    shape = _shape(uri, shards[0])
    finished = []
    for index, entry in enumerate(shards):
        name = f"{split}-{index:05d}-of-{len(shards):05d}"
        shard = done.get(name) or _export_shard(uri, entry, store, name, shape)
        finished.append(shard)
        progress(shard.samples)
    exported = wanted.model_copy(update={"shards": tuple(finished)})
    _finish(store, manifest, exported, card, shape)
    return exported


def _begun(store: Store, wanted: Exported) -> dict[str, ExportedShard]:
    """What an earlier call finished, by name.

    Raises:
        ConfigError: something else lies there.
    """
    notes = store.child(_NOTES)
    if store.exists(EXPORT_KEY):
        there = _exported(store)
        if there.model_copy(update={"shards": ()}) != wanted:
            raise ConfigError(
                f"{store.uri} holds the export of version {there.dataset[:12]} (split {there.split}), not of "
                f"{wanted.dataset[:12]} (split {wanted.split}): export to another place"
            )
        found = list(there.shards)
    else:
        if not notes.exists("plan.json") and (other := next(store.list(), None)) is not None:
            raise ConfigError(f"{store.uri} is not empty ({other.key} lies there): export to an empty place")
        plan_dataset(notes, wanted.model_dump(mode="json", exclude={"shards"}))
        keys = [info.key for info in notes.list() if info.key != "plan.json"]
        found = [ExportedShard.model_validate(load_json(notes.read(key), join_uri(notes.uri, key))) for key in keys]
    whole = (one for one in found if _is_there(store, one.tar) and _is_there(store, one.table))
    return {PurePosixPath(one.tar.uri).stem: one for one in whole}


def _exported(store: Store) -> Exported:
    try:
        return Exported.model_validate(load_json(store.read(EXPORT_KEY), join_uri(store.uri, EXPORT_KEY)))
    except ValidationError as error:
        raise ConfigError(f"{store.uri}: its {EXPORT_KEY} is none of ours: export to an empty place") from error


def _is_there(store: Store, file: FileRecord) -> bool:
    info = store.info(file.uri)
    return info is not None and info.size == file.bytes


def _shape(uri: str, first: ShardEntry) -> Shape:
    """What the first shard's samples say of all; its tables all come from one plan."""
    sample = next(kept_samples(uri, first))
    table = stored_candidates(uri, first.parquet)
    rows = [row for row in table.rows() if row.kept]
    blip = {ITM: "itm_probability", ITC: "itc_similarity"}
    known = [name for name, field in blip.items() if any(getattr(row, field) is not None for row in rows)]
    return Shape("png" if sample.kind == "png" else "jpg", (*known, *(one.name for one in table.scores)))


def _export_shard(uri: str, entry: ShardEntry, store: Store, name: str, shape: Shape) -> ExportedShard:
    """Write a tar and its table, and note that they are finished."""
    key, rows = f"data/{name}.tar", list[dict[str, Any]]()
    local = store.local_path(key)
    with tempfile.TemporaryDirectory(prefix="capfilt-export-") as folder:
        target = local or Path(folder) / "export.tar"
        target.parent.mkdir(parents=True, exist_ok=True)
        size, digest = write_shard(_members(uri, entry, shape, rows), target)
        if local is None:
            store.upload(target, key)
    table = _table(rows, shape.scores)
    record = FileRecord(uri=f"metadata/{name}.parquet", bytes=len(table), sha256=sha256_hex(table))
    store.write(record.uri, table)
    tar = FileRecord(uri=key, bytes=size, sha256=digest)
    shard = ExportedShard(samples=len(rows), tar=tar, table=record)
    store.child(_NOTES).write(f"{name}.json", pretty(shard.model_dump(mode="json")))
    return shard


def _members(
    uri: str, entry: ShardEntry, shape: Shape, rows: list[dict[str, Any]]
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """The samples of a tar; their JSON is gathered in `rows`."""
    for sample in kept_samples(uri, entry):
        fields = sample_fields(sample, shape.scores)
        rows.append(fields)
        data = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        yield sample.key, {shape.ending: sample.image, "json": data.encode(), "txt": fields["text"].encode()}


def _table(rows: Sequence[dict[str, Any]], scores: Sequence[str]) -> bytes:
    """The JSON of samples as parquet, a column per field, scores as `score_NAME`: the same rows, the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    kinds = {"captions": pa.list_(text), "sources": pa.list_(text), "weights": pa.list_(number)}
    kinds = {name: kinds.get(name, text) for name in rows[0] if name != "scores"}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    for name in scores:
        columns[f"score_{name}"] = pa.array([row["scores"][name] for row in rows], pa.list_(number))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def sample_fields(sample: KeptSample, scores: Sequence[str]) -> dict[str, Any]:
    """The JSON of an exported sample; every sample has these fields, in these types.

    `captions`, `sources`, `weights` and each list of `scores` go together: an entry per kept caption. A score that a
    caption does not have is null.
    """
    own = json_fields(sample.fields)
    captions = sample.captions
    fields: dict[str, Any] = {
        "key": sample.key,
        "uid": uid_of(sample.key, own) or "",
        "url": _public(own.get("url")),
        "image_sha256": captions[0].image_sha256,
        "format": "jpeg" if sample.kind == "jpg" else sample.kind,
        "text": sample.text or captions[0].text,
        "captions": [one.text for one in captions],
        "sources": [one.source for one in captions],
        "weights": [float(one.weight) for one in captions],
    }
    return fields | ({"scores": {name: [_score(one, name) for one in captions] for name in scores}} if scores else {})


def _score(caption: Candidate, name: str) -> float | None:
    if name in (ITM, ITC):
        value = caption.itm_probability if name == ITM else caption.itc_similarity
    else:
        value = caption.others[name].value if name in caption.others else None
    return None if value is None else float(value)


def _public(url: object) -> str:
    """A web address without logins and signatures; of anything else nothing."""
    return redact(url) if isinstance(url, str) and url.startswith(("http://", "https://")) else ""


def _finish(store: Store, manifest: Manifest, exported: Exported, card: Card, shape: Shape) -> None:
    """Write the papers, the list of tars last."""
    sizes = {PurePosixPath(one.tar.uri).name: one.samples for one in exported.shards}
    tars = [one.tar for one in exported.shards]
    document = croissant_document(manifest, card, tars, exported.split, shape.ending, shape.scores)
    text = card_text(manifest, card, tars, exported.split, shape.ending, shape.scores)
    store.write("data/sizes.json", pretty(sizes))
    store.write("croissant.json", pretty(document))
    store.write("README.md", text.encode())
    store.write(EXPORT_KEY, pretty(exported.model_dump(mode="json")))
    for info in list(store.child(_NOTES).list()):
        store.child(_NOTES).delete(info.key)
    if (folder := store.local_path(_NOTES)) is not None and folder.is_dir():
        folder.rmdir()
