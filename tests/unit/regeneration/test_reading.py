import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.common.errors import DataError
from components.regeneration.plan import web_input
from components.regeneration.policy import Text
from components.regeneration.reading import Item, ReadOptions, ShardSource, fetch_shard, load_sample, stream
from tests.helpers.webshards import bad_images, good_sample, odd_images, tar_bytes, write_web

OPTIONS = ReadOptions(sizes=(32, 24), max_pixels=1_000_000, min_side=2)


def read_all(folder: Path, **options: int) -> list[Item]:
    settings = {"threads": 3, "ahead": 4} | options
    return list(stream(web_input(str(folder)).shards, OPTIONS, folder, **settings))


def test_samples_come_in_order_with_their_squares_and_each_shards_end(tmp_path: Path) -> None:
    items = read_all(write_web(tmp_path / "web", shards=3, samples=4))
    keys = [item.loaded.sample.key if item.loaded else "end" for item in items]
    expected = [[f"{shard:05d}{index:04d}" for index in range(4)] + ["end"] for shard in range(3)]
    assert keys == sum(expected, [])
    first = items[0].loaded
    assert first is not None
    assert [square.shape for square in first.squares] == [(32, 32, 3), (24, 24, 3)]
    assert first.texts == (Text("web", "an image numbered 0"),)
    assert len(first.sha256) == 64


def test_the_same_samples_whatever_the_threads(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web")
    one, many = read_all(folder, threads=1, ahead=1), read_all(folder, threads=8, ahead=50)
    for a, b in zip(one, many, strict=True):
        assert (a.loaded is None) == (b.loaded is None)
        if a.loaded is not None and b.loaded is not None:
            assert a.loaded.sample == b.loaded.sample
            assert all(np.array_equal(x, y) for x, y in zip(a.loaded.squares, b.loaded.squares, strict=True))


def test_every_bad_picture_has_its_reason_and_every_odd_one_works(tmp_path: Path) -> None:
    images = {key: (data, reason) for key, (data, reason) in bad_images().items()}
    images |= {key: (data, "") for key, data in odd_images().items()}
    samples = [(key, {"jpg": data, "txt": b"words"}) for key, (data, _) in images.items()]
    (tmp_path / "0.tar").write_bytes(tar_bytes(samples))
    loaded = [item.loaded for item in read_all(tmp_path) if item.loaded is not None]
    assert {one.sample.key: one.reason for one in loaded} == {key: reason for key, (_, reason) in images.items()}
    assert all(bool(one.squares) == (not one.reason) for one in loaded)


def test_samples_without_a_usable_picture(tmp_path: Path) -> None:
    good = good_sample(1)
    samples = [
        ("none", {"txt": b"words"}),
        ("two", {"jpg": good["jpg"], "png": good["jpg"]}),
        ("dotted.v2", good),
        ("twice", good),
        ("between", good),
        ("twice", good),
    ]
    (tmp_path / "0.tar").write_bytes(tar_bytes(samples))
    loaded = [item.loaded for item in read_all(tmp_path) if item.loaded is not None]
    assert [(one.sample.key, one.reason) for one in loaded] == [
        ("none", "no_image"),
        ("two", "several_images"),
        ("dotted", ""),
        ("twice", ""),
        ("between", ""),
        ("twice", "duplicate_key"),
    ]
    assert loaded[2].texts[0].text == "an image numbered 1"


def test_a_shard_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    write_web(tmp_path, shards=1)
    (source,) = web_input(str(tmp_path)).shards
    tar = tmp_path / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match="has changed since the plan"):
        fetch_shard(source, tmp_path)
    tar.write_bytes(bytes(data) + bytes(512))
    with pytest.raises(DataError, match="has changed since the plan"):
        fetch_shard(replace(source, sha256=None), tmp_path)
    tar.unlink()
    with pytest.raises(DataError, match="gone since the plan"):
        fetch_shard(source, tmp_path)


def test_a_file_cut_while_it_is_read_is_an_error_not_a_bad_sample(tmp_path: Path) -> None:
    write_web(tmp_path, shards=1)
    (source,) = web_input(str(tmp_path)).shards
    shard = fetch_shard(source, tmp_path)
    shard.path.write_bytes(shard.path.read_bytes()[:2000])
    with pytest.raises(DataError, match="became shorter"):
        load_sample(shard, shard.samples[-1], OPTIONS)


def test_stopping_early_leaves_no_thread(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web", shards=4)
    before = threading.active_count()
    items = stream(web_input(str(folder)).shards, OPTIONS, folder, threads=3, ahead=4)
    next(items)
    items.close()
    assert threading.active_count() == before


def test_the_window_is_bounded(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web", shards=6, samples=3)
    fetched: list[str] = []

    def counting(source: ShardSource, work_dir: Path) -> object:
        fetched.append(source.name)
        return fetch_shard(source, work_dir)

    items = stream(web_input(str(folder)).shards, OPTIONS, folder, threads=2, ahead=3, fetch=counting)  # type: ignore[arg-type]
    next(items)
    assert len(fetched) <= 3  # the one at hand, the one whose samples fill the window, and one ahead
    items.close()
