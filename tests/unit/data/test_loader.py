"""Every pair once per epoch, for any number of processes, across stops, bad images and S3."""

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.storage import FolderStore, Store, join_uri, open_store, sha256_file, sha256_hex
from components.data.candidates import Candidate
from components.data.coco import import_coco
from components.data.decoding import decode_image, resize_square
from components.data.epochs import EpochPlan
from components.data.fetch import ShardCache
from components.data.loader import LoaderConfig, LoaderState, PairBatch, PairLoader, load_eval_set
from components.data.manifest import FileRecord, Provenance, dataset_store, seal_dataset
from components.data.publish import ShardBuilder
from components.data.records import KEPT_WEIGHT
from components.data.web import import_web
from tests.helpers.datasets import shard_file
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import encoded, photo, write_web
from tests.unit.data.test_coco import coco, write_images, write_json

SIZE = 16
CONFIG = LoaderConfig(image_size=SIZE, batch_size=4, randaugment=False, shuffle_shards=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[DatasetRef, int]]:
    """15 web pairs in 3 shards, and 7 images with 2 captions, counted twice: 43 pairs an epoch."""
    folder = tmp_path_factory.mktemp("data")
    store = open_store(str(folder / "store"))
    annotations = write_json(folder / "captions.json", coco())
    human = import_coco(annotations, str(write_images(folder / "i")), store=store, name="human", shard_size=4)
    return [(import_web(str(write_web(folder / "web")), store=store, name="web"), 1), (human, 2)]


def take(loader: PairLoader, batches: int) -> list[PairBatch]:
    return [next(loader) for _ in range(batches)]


def pairs(batches: list[PairBatch]) -> list[tuple[str, str]]:
    return [pair for batch in batches for pair in zip(batch.keys, batch.texts, strict=True)]


def run(data, batches: int, config: LoaderConfig = CONFIG, **settings) -> tuple[list[PairBatch], LoaderState]:
    with PairLoader(data, config, **({"seed": 1} | settings)) as loader:
        return take(loader, batches), loader.state()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3),
    st.lists(st.integers(1, 13), max_size=8),
)  # fmt: skip
def test_a_plan_has_every_pair_once_however_it_is_cut(
    sizes: list[int], window: int, epoch: int, cuts: list[int]
) -> None:
    plan = EpochPlan(sizes, seed=3, epoch=epoch, shuffle_shards=window)

    def read(start: int, count: int) -> list[tuple[int, int]]:
        return [
            pair
            for _, shards, numbers in plan.stretch(start, count)
            for pair in zip(shards.tolist(), numbers.tolist(), strict=True)
        ]

    whole = read(0, plan.total + 5)
    assert sorted(whole) == [(shard, pair) for shard, size in enumerate(sizes) for pair in range(size)]
    at, found = 0, []
    for count in [*cuts, plan.total]:
        found += read(at, count)
        at += count
    assert found == whole
    for shards in plan.windows:
        assert len(shards) <= window


def test_orders_differ_between_epochs_and_seeds_and_mix_shards() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = EpochPlan([100] * 10, seed=seed, epoch=epoch, shuffle_shards=5)
        return [int(s) * 100 + int(p) for _, ss, ps in plan.stretch(0, 1000) for s, p in zip(ss, ps, strict=True)]

    one = order(0, 0)
    assert one == order(0, 0) and len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert len({pair // 100 for pair in one[:100]}) == 5 == len({pair // 100 for pair in one[400:500]})


def test_an_epoch_has_every_pair_as_often_as_it_counts(data) -> None:
    with PairLoader(data, CONFIG, seed=0) as loader:
        assert loader.pairs_per_epoch == 43
        found = pairs(take(loader, 43))  # four epochs
    for epoch in range(4):
        counts = Counter(found[43 * epoch : 43 * (epoch + 1)])
        assert set(counts.values()) == {1, 2} and len(counts) == 29
        assert all((count == 2) == key.startswith("human/") for (key, _), count in counts.items())
    assert len({tuple(found[43 * epoch : 43 * (epoch + 1)]) for epoch in range(4)}) == 4


def test_pixels_texts_and_ids_belong_together(data) -> None:
    images = {f"{ref.name}/{one.key}": one for ref, _ in data for one in load_eval_set(ref)}
    batches, _ = run(data, 11, CONFIG.model_copy(update={"augment": False, "max_words": 3}))
    for batch in batches:
        assert batch.images.shape == (4, SIZE, SIZE, 3) and batch.images.dtype == np.uint8
        assert batch.image_ids.dtype == np.int64
        for pixels, text, number, key in zip(batch.images, batch.texts, batch.image_ids, batch.keys, strict=True):
            image = images[key]
            assert np.array_equal(pixels, resize_square(decode_image(image.image), SIZE))
            assert number == int(sha256_hex(image.image)[:16], 16) >> 1
            assert text in {" ".join(caption.lower().replace(".", "").split()[:3]) for caption in image.captions}


def test_two_processes_share_what_one_would_see(data) -> None:
    alone, state = run(data, 24, CONFIG.model_copy(update={"batch_size": 6}))
    two = [run(data, 24, CONFIG.model_copy(update={"batch_size": 3}), rank=rank, world=2) for rank in (0, 1)]
    assert [ours[1] for ours in two] == [state] * 2
    for whole, left, right in zip(alone, two[0][0], two[1][0], strict=True):
        assert whole.keys == left.keys + right.keys and whole.texts == left.texts + right.texts
        assert np.array_equal(whole.images, np.concatenate([left.images, right.images]))


@pytest.mark.parametrize("stop", [0, 1, 7, 10, 11, 25])
def test_going_on_is_the_same_as_not_having_stopped(data, stop: int) -> None:
    whole, end = run(data, 30)
    first, state = run(data, stop)
    rest, other_end = run(data, 30 - stop, state=LoaderState.model_validate_json(state.model_dump_json()))
    assert pairs(first + rest) == pairs(whole) and end == other_end
    assert all(np.array_equal(a.images, b.images) for a, b in zip(first + rest, whole, strict=True))


def test_going_on_with_another_number_of_processes_repeats_and_skips_nothing(data) -> None:
    first = [run(data, 4, CONFIG.model_copy(update={"batch_size": 2}), rank=rank, world=3) for rank in range(3)]
    state = first[0][1]
    assert state == LoaderState(epoch=0, consumed=24) == first[2][1]
    rest, end = run(data, 19, CONFIG.model_copy(update={"batch_size": 1}), state=state)
    assert end == LoaderState(epoch=1, consumed=0)
    found = Counter(pair for batches, _ in first for pair in pairs(batches)) + Counter(pairs(rest))
    assert found == Counter(pairs(run(data, 43, CONFIG.model_copy(update={"batch_size": 1}))[0]))


def test_threads_prefetch_and_cache_do_not_change_a_bit(data) -> None:
    config = LoaderConfig(image_size=SIZE, batch_size=40, shuffle_shards=2)
    plain, _ = run(data, 4, config.model_copy(update={"loader_threads": 1, "prefetch": 1, "cache_decoded_mb": 0}))
    other, _ = run(data, 4, config.model_copy(update={"loader_threads": 4, "prefetch": 5}))
    assert all(np.array_equal(a.images, b.images) and a.keys == b.keys for a, b in zip(plain, other, strict=True))
    assert not np.array_equal(plain[0].images, run(data, 1, config, seed=2)[0][0].images)


def test_views_of_a_picture_differ_between_captions_turns_and_epochs(data) -> None:
    human = [data[1]]
    batches, _ = run(human, 2, LoaderConfig(image_size=SIZE, batch_size=28, randaugment=False))
    assert Counter(batches[0].keys)["human/p_0"] == 4
    views = [
        bytes(pixels) for batch in batches for pixels, key in zip(batch.images, batch.keys, strict=True)
        if key == "human/p_0"
    ]  # fmt: skip
    assert len(views) == 8 == len(set(views))


def test_a_batch_may_be_larger_than_an_epoch(data) -> None:
    batches, state = run(data, 2, CONFIG.model_copy(update={"batch_size": 100}))
    assert state == LoaderState(epoch=4, consumed=28)
    counts = Counter(pairs(batches)[: 43 * 4])
    assert set(counts.values()) == {4, 8}


def seal_images(store: Store, images: list[bytes], name: str = "odd") -> DatasetRef:
    """A dataset that was not checked at import: images as they are."""
    target = dataset_store(store, name, "0" * 64)
    with ShardBuilder(target, "00000") as builder:
        for number, data in enumerate(images):
            row = Candidate(f"k{number}", sha256_hex(data), "web", f"text {number}", None, None, True)
            builder.add(row.key, [row], {"jpg": data})
        record = builder.commit()
    return seal_dataset(target, Provenance(name, "web", {}, "0" * 64), [record])


def test_a_bad_picture_gives_its_place_to_the_next_of_the_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [encoded(photo(number)) for number in range(8)]
    images[3] = b"<!DOCTYPE html>"
    ref = seal_images(open_store(str(tmp_path)), images)
    with PairLoader([(ref, 1)], CONFIG, seed=0) as loader:
        batches = take(loader, 4)
        assert loader.bad_count == 2 and [bad.reason for bad in loader.bad] == ["markup"] * 2
        assert loader.bad[0].key == "odd/k3" and loader.pairs_per_epoch == 8
    assert "odd/k3 cannot be used" in caplog.text
    for batch in batches:
        for key, text in zip(batch.keys, batch.texts, strict=True):
            assert key != "odd/k3" and text == f"text {key[-1]}"
    assert all(max(Counter(batch.keys).values()) <= 2 for batch in batches)


@pytest.mark.parametrize(("size", "bad"), [(1, [3]), (2, [2, 3, 4]), (4, [0, 1, 2, 3, 4, 5])])
def test_one_bad_image_ends_no_training_however_small_the_batch(tmp_path: Path, size: int, bad: list[int]) -> None:
    """Pairs behind a batch without a usable image take its place; going on gives the same."""
    images = [b"no" if number in bad else encoded(photo(number)) for number in range(8)]
    ref = seal_images(open_store(str(tmp_path)), images)
    config = CONFIG.model_copy(update={"batch_size": size})
    whole, _ = run([(ref, 1)], 24, config)
    for batch in whole:
        assert len(batch.keys) == size
        for key, text, number, pixels in zip(batch.keys, batch.texts, batch.image_ids, batch.images, strict=True):
            assert int(key[-1]) not in bad and text == f"text {key[-1]}"
            assert number == int(sha256_hex(images[int(key[-1])])[:16], 16) >> 1 and pixels.any()
    _, state = run([(ref, 1)], 5, config)
    assert pairs(run([(ref, 1)], 19, config, state=state)[0]) == pairs(whole[5:])


def test_a_batch_without_one_good_picture_stops(tmp_path: Path) -> None:
    ref = seal_images(open_store(str(tmp_path)), [b"no"] * 8)
    with (
        PairLoader([(ref, 1)], CONFIG, seed=0) as loader,
        pytest.raises(DataError, match="whole batch of unusable images, e.g. odd/k"),
    ):
        next(loader)


def test_wrong_uses_are_refused(data, tmp_path: Path) -> None:
    ref = data[0][0]
    with pytest.raises(ConfigError, match="rank 2 is not in 0"):
        PairLoader(data, CONFIG, seed=0, rank=2, world=2)
    with pytest.raises(ConfigError, match="image_size"):
        PairLoader(data, LoaderConfig(), seed=0)
    with pytest.raises(ConfigError, match="repeat must be at least 1"):
        PairLoader([(ref, 0)], CONFIG, seed=0)
    with pytest.raises(DataError, match="nothing to train on: no datasets"):
        PairLoader([], CONFIG, seed=0)
    with pytest.raises(DataError, match="holds version"):
        PairLoader([(ref.model_copy(update={"digest": "0" * 64}), 1)], CONFIG, seed=0)
    with pytest.raises(DataError, match="nothing to train on: odd"):
        PairLoader([(seal_images(open_store(str(tmp_path)), []), 1)], CONFIG, seed=0)


def test_a_changed_table_or_tar_stops_the_loader(tmp_path: Path) -> None:
    ref = seal_images(open_store(str(tmp_path)), [encoded(photo(number)) for number in range(8)])
    table, tar = (shard_file(ref.uri, "00000", suffix) for suffix in (".parquet", ".tar"))
    whole = table.read_bytes()
    table.write_bytes(whole[:-9] + b"X" + whole[-8:])
    with PairLoader([(ref, 1)], CONFIG, seed=0) as loader, pytest.raises(DataError, match="its sha256 differs"):
        next(loader)
    table.write_bytes(whole)
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd8\xfe"))
    with PairLoader([(ref, 1)], CONFIG, seed=0) as loader, pytest.raises(DataError, match="changed since it was"):
        next(loader)


def test_waiting_is_counted(data) -> None:
    with PairLoader(data, CONFIG, seed=0) as loader:
        take(loader, 3)
        waited = loader.wait_seconds
        assert waited > 0
        time.sleep(0.3)
        start = time.monotonic()
        next(loader)
        assert loader.wait_seconds - waited <= time.monotonic() - start, "what its user did meanwhile is no waiting"


def test_closing_ends_the_threads(data) -> None:
    before = threading.active_count()
    with PairLoader(data, CONFIG, seed=0) as loader:
        next(loader)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_cached_pictures_come_fast(tmp_path: Path) -> None:
    """5,000 pairs a second and core leave 200 µs a pair, most of it for pixels: the house-keeping must cost little."""
    images = [encoded(photo(number, 64, 64)) for number in range(64)]
    ref = seal_images(open_store(str(tmp_path)), images)
    config = LoaderConfig(image_size=64, batch_size=64, augment=False, loader_threads=1)
    with PairLoader([(ref, 1)], config, seed=0) as loader:
        take(loader, 6)
        start = time.process_time()
        take(loader, 100)
        rate = 6400 / (time.process_time() - start)
    assert rate > 5000, f"{rate:.0f} pairs per CPU second"


def test_s3_shards_are_fetched_once_checked_and_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data) -> None:
    (tmp_path / "server").mkdir()
    web = write_web(tmp_path / "web")
    with serve_s3(tmp_path / "server") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("components.common.storage.s3_client._clients", {})
        bucket = open_store(server.uri)
        for path in web.iterdir():
            bucket.upload(path, f"web/{path.name}")
        ref = import_web(f"{server.uri}/web", store=bucket, name="web")
        config = CONFIG.model_copy(update={"cache_dir": str(tmp_path / "cache")})
        remote, _ = run([(ref, 1)], 8, config)
        local, _ = run([data[0]], 8)
        assert pairs(remote) == pairs(local)
        assert all(np.array_equal(a.images, b.images) for a, b in zip(remote, local, strict=True))
        tars = {sha256_file(path) for path in web.iterdir()}
        assert {path.name for path in (tmp_path / "cache").iterdir() if len(path.name) == 64} == tars
        for path in web.iterdir():
            bucket.delete(f"web/{path.name}")
        assert pairs(run([(ref, 1)], 8, config)[0]) == pairs(local)  # nothing is fetched twice


def test_processes_that_want_one_shard_fetch_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.tar").write_bytes(b"x" * 1000)
    record = FileRecord(uri="", bytes=1000, sha256=sha256_hex(b"x" * 1000))
    fetched: list[str] = []
    download = FolderStore.download

    def slowly(self: FolderStore, key: str, path: Path) -> None:
        fetched.append(key)
        time.sleep(0.2)
        download(self, key, path)

    monkeypatch.setattr(FolderStore, "local_path", lambda self, key: None)
    monkeypatch.setattr(FolderStore, "download", slowly)

    def read(_: int) -> int:  # a cache of its own, as another process has
        with ShardCache(tmp_path / "cache").opened(str(tmp_path / "0.tar"), record) as handle:
            pass
        try:
            return len(os.pread(handle, 2000, 0))
        finally:
            os.close(handle)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [1000] * 4
    assert fetched == ["0.tar"]


def test_the_cache_keeps_to_its_size_and_checks_what_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    monkeypatch.setattr(FolderStore, "local_path", lambda self, key: None)  # as if it were remote
    records = {}
    for number in range(3):
        (origin / f"{number}.tar").write_bytes(bytes([number]) * 100)
        records[number] = FileRecord(uri="", bytes=100, sha256=sha256_hex(bytes([number]) * 100))
    cache = ShardCache(tmp_path / "cache", max_bytes=250)

    def read(number: int) -> bytes:
        with cache.opened(join_uri(str(origin), f"{number}.tar"), records[number]) as handle:
            data = os.pread(handle, 1000, 0)
        os.close(handle)
        return data

    for number in (0, 1, 0, 2):
        assert read(number) == bytes([number]) * 100
        time.sleep(0.02)
    kept = {path.name for path in (tmp_path / "cache").iterdir() if len(path.name) == 64}
    assert kept == {records[0].sha256, records[2].sha256}
    (origin / "1.tar").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="1.tar changed: its sha256 is"):
        read(1)
    assert {path.name for path in (tmp_path / "cache").iterdir() if len(path.name) == 64} == kept
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert ShardCache().folder == tmp_path / "xdg/capfilt/shards"


def seal_weighted(target: Store, shards: list[list[float]]) -> DatasetRef:
    """Shards with one pair of each of these weights."""
    records = []
    for at, weights in enumerate(shards):
        with ShardBuilder(target, f"{at:05d}") as builder:
            for number, weight in enumerate(weights):
                data = encoded(photo(100 * at + number))
                key = f"k{at}-{number}"
                row = Candidate(key, sha256_hex(data), "web", f"text {key}", None, None, True, weight=weight)
                builder.add(key, [row], {"jpg": data})
            records.append(builder.commit({KEPT_WEIGHT: sum(weights)} if set(weights) != {1.0} else None))
    return seal_dataset(target, Provenance("weighted", "web", {}, "1" * 64), records)


@pytest.mark.parametrize("world", [1, 2])
def test_a_pair_is_met_as_often_as_it_weighs(tmp_path: Path, world: int) -> None:
    """Over 40 epochs, in one process or two: within 2 of its weight times 40, and the same in every run."""
    weights = [[2.0, 0.5, 0.5, 0.25, 0.75], [1.0, 1.0], [0.1, 0.1, 0.8, 3.0]]
    ref = seal_weighted(open_store(str(tmp_path)), weights)
    config = CONFIG.model_copy(update={"batch_size": 2, "augment": False})
    met: Counter[str] = Counter()
    for rank in range(world):
        with PairLoader([(ref, 1)], config, seed=3, rank=rank, world=world) as loader:
            assert loader.pairs_per_epoch == 4 + 2 + 4
            for batch in take(loader, 200 // world):
                met.update(batch.keys)
    for at, row in enumerate(weights):
        for number, weight in enumerate(row):
            assert abs(met[f"weighted/k{at}-{number}"] - 40 * weight) <= 2, (at, number, met)
    assert met.total() == 400
    with PairLoader([(ref, 1)], config, seed=3) as one, PairLoader([(ref, 1)], config, seed=3) as two:
        assert pairs(take(one, 12)) == pairs(take(two, 12))


def test_equal_weights_change_nothing_of_the_order(tmp_path: Path) -> None:
    weighted = seal_weighted(open_store(str(tmp_path / "a")), [[1.0] * 5, [1.0] * 3])
    with PairLoader([(weighted, 1)], CONFIG, seed=1) as loader:
        keys = [key for batch in take(loader, 2) for key in batch.keys]
    assert sorted(keys) == sorted(f"weighted/k{at}-{n}" for at, count in ((0, 5), (1, 3)) for n in range(count))
