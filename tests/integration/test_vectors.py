"""Vectors beside the shards: those of the filter, in order, mapped from where they lie, unharmed by a recut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.common.contracts import ModelRef
from components.common.errors import DataError
from components.common.storage import open_store
from components.data.decoding import decode_image, resize_square
from components.data.manifest import load_manifest
from components.data.phash import hash_distance
from components.data.shards import read_shard
from components.data.vectors import open_vectors, read_images
from components.data.versions.verify import verify
from components.data.web import import_web
from components.inference.arithmetic import Arithmetic
from components.regeneration.config import CapfiltConfig
from components.regeneration.models import open_filter
from components.regeneration.recut import recut_dataset
from components.regeneration.run import run_capfilt
from tests.helpers.datasets import shard_file
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, encoded, good_sample, photo, tar_bytes, write_web


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    return save_tiny_models(tmp_path_factory.mktemp("models"), captioner_size=48, filter_size=32)


def test_vectors_of_every_good_image(tmp_path: Path, models: tuple[ModelRef, ModelRef]) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=7)
    copy = {**good_sample(0), "jpg": encoded(photo(0), quality=40)}
    odd = [(key, {**good_sample(1), "jpg": data}) for key, (data, _) in bad_images().items()]
    (web / "00002.tar").write_bytes(tar_bytes([*odd, ("copy", copy), ("wordless", {**good_sample(2), "txt": b""})]))
    config = CapfiltConfig(batch_size=3, threads=1, threshold=0.5, precision="fp32")
    store = open_store(str(tmp_path))
    made = run_capfilt(str(web), *models, config, store=store, name="out").dataset
    manifest = load_manifest(made.uri)
    filter = open_filter(Path(models[1].uri), config, Arithmetic(torch.device("cpu"), "fp32"))
    hashes = {}
    for entry in manifest.shards:
        vectors, images = open_vectors(made.uri, entry), read_images(made.uri, entry)
        assert isinstance(vectors, np.memmap) and vectors.dtype == np.float16 and vectors.shape == (len(images), 16)
        given = {one.key: one for one in read_shard(web / f"{entry.name}.tar")}
        good = [key for key in given if key not in bad_images()]
        assert [image.key for image in images] == good and len(good) == entry.counts.kept + entry.counts.dropped
        squares = np.stack([resize_square(decode_image(given[key].members["jpg"]), filter.size) for key in good])
        assert np.abs(vectors - filter.embed_images(squares).numpy()).max() < 1e-3
        assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(np.ones(len(good)), abs=1e-3)
        hashes |= {image.key: image.phash for image in images}
    assert hash_distance(hashes["copy"], hashes["000000000"]) <= 6 < hash_distance(hashes["copy"], hashes["000000001"])
    assert verify(made.uri).problems == ()
    cut = recut_dataset(made.uri, threshold=0.1, policy="best_of", store=store, name="cut").dataset
    assert [entry.vectors for entry in load_manifest(cut.uri).shards] == [entry.vectors for entry in manifest.shards]
    assert verify(cut.uri).problems == ()
    path = shard_file(cut.uri, "00001", ".npy")
    data = path.read_bytes()
    path.unlink()  # not the original's bytes, which it may share
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(cut.uri).problems == ("shard 00001: the vectors have other bytes than were committed",)
    assert verify(made.uri).problems == ()
    imported = import_web(str(web), store=store, name="web")
    with pytest.raises(DataError, match="has no vectors"):
        open_vectors(imported.uri, load_manifest(imported.uri).shards[0])
