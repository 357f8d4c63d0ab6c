"""Write a sample world as files, in the layouts real data comes in, so that the real import path reads it.

world.json                     written last: the world is whole
human/captions_{train,val,test}.json, human/images/*.jpg      COCO captions
web/00000.tar, .parquet, _stats.json                          img2dataset (docs/facts.md 11)
truth/truth.parquet            key, kind, human_caption, scene: for scoring only, nothing that learns reads it
"""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.common.errors import DataError
from components.common.seeding import digest_of, key_seed
from components.common.storage import open_store
from components.data.sampleworld.config import SampleWorldConfig
from components.data.sampleworld.drawing import draw_scene, encode_jpeg
from components.data.sampleworld.language import human_caption, human_captions
from components.data.sampleworld.scene import Scene, sample_scene
from components.data.sampleworld.webtext import Kind, web_text

WORLD_VERSION = 1  # counts changes of what a config generates
SPLITS = ("train", "val", "test")
_KEYS_PER_SHARD = 10_000  # img2dataset: key = 10,000 x shard + index, nine digits


@dataclass(frozen=True)
class SampleWorldPaths:
    """Where the parts of a generated world lie."""

    captions_train: Path
    captions_val: Path
    captions_test: Path
    images: Path
    web: Path
    truth: Path

    @classmethod
    def under(cls, folder: Path) -> "SampleWorldPaths":
        """The paths of a world in this folder."""
        human = folder / "human"
        train, val, test = (human / f"captions_{split}.json" for split in SPLITS)
        return cls(train, val, test, human / "images", folder / "web", folder / "truth" / "truth.parquet")


@dataclass(frozen=True)
class _WebSample:
    key: str
    kind: Kind
    text: str
    human_caption: str
    scene: Scene
    jpeg: bytes


def generate_sample_world(config: SampleWorldConfig, folder: Path) -> SampleWorldPaths:
    """Generate a world, or find it done.

    Raises:
        DataError: the folder holds a world of another config.
    """
    paths = SampleWorldPaths.under(folder)
    marker = folder / "world.json"
    if _is_done(marker, config):
        return paths
    for part in (paths.images, paths.web, paths.truth.parent):
        part.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        _write_human(config, split, paths)
    _write_web(config, paths)
    record = {"version": WORLD_VERSION, "digest": _digest(config), "config": config.model_dump(mode="json")}
    partial = marker.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(marker)
    return paths


def _digest(config: SampleWorldConfig) -> str:
    return digest_of({"version": WORLD_VERSION, "config": config.model_dump(mode="json")})


def _is_done(marker: Path, config: SampleWorldConfig) -> bool:
    if not marker.exists():
        return False
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        if record["digest"] == _digest(config):
            return True
        was: dict[str, Any] = record["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker} is not a sample world's marker ({error}); delete {marker.parent}") from error
    wanted = config.model_dump(mode="json")
    changes = [
        f"{name}: {was.get(name)!r} there, {wanted[name]!r} asked for"
        for name in wanted
        if was.get(name) != wanted[name]
    ]
    difference = "; ".join(changes) or f"version {record.get('version')} there, {WORLD_VERSION} now"
    raise DataError(f"{marker.parent} holds another sample world ({difference}); use another folder or delete it")


def _random(config: SampleWorldConfig, *name: str | int) -> random.Random:
    return random.Random(key_seed("sample-world", config.seed, *name))


def picture_of(config: SampleWorldConfig, *name: str | int) -> tuple[Scene, bytes, random.Random]:
    """The scene and picture with this name, and the generator to write its texts with."""
    rng = _random(config, *name)
    scene = sample_scene(rng)
    picture = draw_scene(scene, config.image_size, rng)
    return scene, encode_jpeg(picture, config.jpeg_quality), rng


def _write_human(config: SampleWorldConfig, split: str, paths: SampleWorldPaths) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, image_id in enumerate(_human_ids(config, split)):
        scene, jpeg, rng = picture_of(config, split, index)
        name = _human_name(split, image_id)
        (paths.images / name).write_bytes(jpeg)
        images.append({"id": image_id, "file_name": name, "width": config.image_size, "height": config.image_size})
        for at, caption in enumerate(human_captions(scene, config.captions_per_image, rng)):
            annotation_id = (image_id - 1) * config.captions_per_image + at + 1
            annotations.append({"id": annotation_id, "image_id": image_id, "caption": caption})
    target = paths.images.parent / f"captions_{split}.json"
    target.write_text(json.dumps({"images": images, "annotations": annotations}))


def human_scenes(config: SampleWorldConfig, split: str) -> Iterator[tuple[str, Scene]]:
    """File name and scene of every human picture of a split, without drawing it."""
    for index, image_id in enumerate(_human_ids(config, split)):
        yield _human_name(split, image_id), sample_scene(_random(config, split, index))


def scenes_beside(truth_uri: str, split: str) -> dict[str, Scene]:
    """Scenes of the human pictures of a split, by sample key, of the world that a truth table is part of.

    Returns:
        nothing where the table is of no sample world.
    """
    folder, _, name = truth_uri.rpartition("/truth/")
    if name != "truth.parquet" or not (store := open_store(folder)).exists("world.json"):
        return {}
    config = SampleWorldConfig.model_validate(json.loads(store.read("world.json"))["config"])
    return {name.rpartition(".")[0]: scene for name, scene in human_scenes(config, split)}


def _human_ids(config: SampleWorldConfig, split: str) -> range:
    """Image ids of a split; the splits follow one another."""
    first = {"train": 1, "val": 1 + config.human_train, "test": 1 + config.human_train + config.human_val}[split]
    count = {"train": config.human_train, "val": config.human_val, "test": config.human_test}[split]
    return range(first, first + count)


def _human_name(split: str, image_id: int) -> str:
    return f"{split}_{image_id:06d}.jpg"


def _kinds(config: SampleWorldConfig) -> list[Kind]:
    """The kind of every web text: exact shares (largest remainders), in seeded order."""
    bad = round(config.web * config.bad_share)
    exact = {kind: bad * share for kind, share in config.noise.shares().items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in by_remainder[: bad - sum(counts.values())]:
        counts[kind] += 1
    kinds: list[Kind] = ["match"] * (config.web - bad)
    for kind, count in counts.items():
        kinds += [kind] * count
    random.Random(key_seed("sample-world", config.seed, "kinds")).shuffle(kinds)
    return kinds


def _write_web(config: SampleWorldConfig, paths: SampleWorldPaths) -> None:
    kinds = _kinds(config)
    truth: list[dict[str, str]] = []
    for shard, start in enumerate(range(0, config.web, config.shard_size)):
        part = kinds[start : start + config.shard_size]
        samples = [_web_sample(config, shard, at, start + at, kind) for at, kind in enumerate(part)]
        _write_shard(config, paths.web, shard, samples)
        truth += [
            {"key": one.key, "kind": one.kind, "human_caption": one.human_caption, "scene": one.scene.to_json()}
            for one in samples
        ]
    pq.write_table(pa.Table.from_pylist(truth), paths.truth)


def _web_sample(config: SampleWorldConfig, shard: int, at: int, index: int, kind: Kind) -> _WebSample:
    scene, jpeg, rng = picture_of(config, "web", index)
    caption = human_caption(scene, rng)
    return _WebSample(f"{_KEYS_PER_SHARD * shard + at:09d}", kind, web_text(kind, scene, rng), caption, scene, jpeg)


def _write_shard(config: SampleWorldConfig, folder: Path, shard: int, samples: Sequence[_WebSample]) -> None:
    rows = [_row(config, sample) for sample in samples]
    (folder / f"{shard:05d}.tar").write_bytes(_tar(samples, rows))
    pq.write_table(pa.Table.from_pylist(rows, schema=_ROW_SCHEMA), folder / f"{shard:05d}.parquet")
    stats = {
        "count": len(rows),
        "successes": len(rows),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0,
        "end_time": 0,
        "status_dict": {"success": len(rows)},
    }
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))


_ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("url", "caption", "key", "status", "error_message")),
        *((name, pa.int64()) for name in ("width", "height", "original_width", "original_height")),
        ("sha256", pa.string()),
    ]
)


def _row(config: SampleWorldConfig, sample: _WebSample) -> dict[str, Any]:
    digest = hashlib.sha256(sample.jpeg).hexdigest()
    sides = dict.fromkeys(("width", "height", "original_width", "original_height"), config.image_size)
    url = f"https://sample-world.invalid/{digest[:24]}.jpg"
    return {
        "url": url, "caption": sample.text, "key": sample.key, "status": "success", "error_message": None,
        **sides, "sha256": digest,
    }  # fmt: skip


def _tar(samples: Sequence[_WebSample], rows: Iterable[dict[str, Any]]) -> bytes:
    """`KEY.jpg`, `KEY.txt`, `KEY.json` per sample, with fixed times, owners and modes: equal input, equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, row in zip(samples, rows, strict=True):
            members = {"jpg": sample.jpeg, "txt": sample.text.encode(), "json": json.dumps(row).encode()}
            for extension, data in members.items():
                header = tarfile.TarInfo(f"{sample.key}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()
