"""Datasets as webdataset pipelines: kept samples only, each once, from a folder and from S3, for plain PyTorch."""

import gc
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

import capfilt
from components.common.contracts import CapfiltResult, DatasetRef
from components.common.errors import DataError
from components.common.storage import open_store
from components.data.manifest import load_manifest
from components.data.web import import_web
from tests.helpers.s3 import serve_s3
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, encoded, good_sample, photo, tar_bytes, write_web

Sample = dict[str, Any]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good shards, and one of every kind of trouble, cut off at its end."""
    folder = write_web(tmp_path_factory.mktemp("web"), shards=5, samples=6)
    good = good_sample(50)
    odd: list[tuple[str, dict[str, bytes]]] = [("png", {**good, "png": encoded(photo(9), "PNG")})]
    del odd[0][1]["jpg"]
    odd += [(key, {**good, "jpg": data}) for key, (data, _) in bad_images().items()]
    odd += [("no-text", {**good, "txt": b" ", "json": b"{"}), ("twice", good), ("twice", good_sample(51))]
    odd += [("listed", {**good, "json": json.dumps({"caption": ["one", "two"], "url": "x"}).encode()})]
    odd += [("pickle", {**good, "pkl": pickle.dumps({"never": "opened"})}), ("dot.v2", good), ("000000001", good)]
    data = tar_bytes([*odd, ("torn", good)])
    (folder / "00005.tar").write_bytes(data[: data.index(b"torn.jpg") + 700])
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, web: Path) -> DatasetRef:
    return import_web(str(web), store=open_store(str(tmp_path_factory.mktemp("store"))), name="web")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, web: Path) -> CapfiltResult:
    folder = tmp_path_factory.mktemp("made")
    save_tiny_models(folder / "models")
    models = {role: folder / "models" / role for role in ("captioner", "filter")}
    return capfilt.regenerate(web=web, **models, out=folder / "out", threshold=0.3, batch_size=4, threads=1)


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


def test_only_kept_samples_of_tars_used_in_place(imported: DatasetRef) -> None:
    samples = list(capfilt.open_dataset(imported.uri))
    by_key = {sample["__key__"]: sample for sample in samples}
    assert len(samples) == len(by_key) == imported.images
    assert keys(samples)[:2] == ["000000000", "000000001"]
    assert set(keys(samples)[30:]) == {"png", "twice", "listed", "pickle", "dot"}
    assert by_key["png"]["png"] == encoded(photo(9), "PNG")
    assert by_key["twice"]["jpg"] == good_sample(50)["jpg"]
    assert by_key["pickle"].keys() == {"__key__", "__url__", "jpg", "txt", "json"}
    assert by_key["listed"]["txt"] == b"one"
    fields = json.loads(by_key["listed"]["json"])
    assert [one["text"] for one in fields["captions"]] == ["one", "two"]
    assert fields["url"] == "x"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_webdataset_reads_itself(made: CapfiltResult) -> None:
    """The dataset's own tars hold what was kept and nothing else, so a reader that knows no manifest sees the same."""
    urls = sorted(str(path) for path in Path(made.dataset.uri, "shards").glob("*.tar"))
    theirs = [
        {name: value for name, value in sample.items() if name not in ("pkl", "__local_path__")}
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    ]
    ours = list(capfilt.open_dataset(made.dataset.uri))
    assert len(ours) == made.dataset.images > 20
    (dotted,) = (one for one in theirs if one["__key__"] == "dot")  # `dot.v2.jpg` is `v2.jpg` of `dot` to webdataset
    dotted.update({name: dotted.pop(f"v2.{name}") for name in ("jpg", "txt", "json")})
    assert ours == theirs
    gc.collect()  # webdataset leaves its files to the collector


def test_webdatasets_methods(made: CapfiltResult) -> None:
    dataset = capfilt.open_dataset(made.dataset.uri).decode("rgb8").to_tuple("jpg;png", "txt", "json").batched(4)
    images, texts, fields = next(iter(dataset))
    assert images.shape == (4, 48, 64, 3)
    assert texts == [one["captions"][0]["text"] for one in fields]


def loaded(uri: str, workers: int, **options: Any) -> list[Sample]:
    """What a DataLoader gives, as plain PyTorch code has it."""
    loader = DataLoader(capfilt.open_dataset(uri, **options), batch_size=None, num_workers=workers)
    return list(loader)


_LOADING = """
import sys
from torch.utils.data import DataLoader
import capfilt
for one in DataLoader(capfilt.open_dataset(sys.argv[1], shuffle=4), batch_size=None, num_workers=2):
    print(one["__key__"])
"""


def test_forked_workers_see_every_sample_once(imported: DatasetRef) -> None:
    """In a process of its own: what other tests' servers left behind in this one is no business of a forked worker."""
    alone = keys(loaded(imported.uri, 0))
    done = subprocess.run([sys.executable, "-c", _LOADING, imported.uri], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    together = done.stdout.split()
    assert Counter(together) == Counter(alone)
    assert together != alone


def test_nodes_share_the_samples(imported: DatasetRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: list[str] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen += keys(capfilt.open_dataset(imported.uri, shuffle=10))
    assert len(seen) == len(set(seen)) == imported.images


def test_every_pass_has_its_order_and_a_seed_decides_it(imported: DatasetRef) -> None:
    first, again, other = (capfilt.open_dataset(imported.uri, shuffle=20, seed=seed) for seed in (1, 1, 2))
    passes = [keys(first), keys(first)]
    assert passes[0] != passes[1]
    assert [keys(again), keys(again)] == passes
    assert keys(other) != passes[0]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)


def test_it_goes_to_spawned_workers(imported: DatasetRef) -> None:
    dataset = capfilt.open_dataset(imported.uri, shuffle=5)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert Counter(keys(loader)) == Counter(keys(dataset))


def test_from_s3(tmp_path: Path, made: CapfiltResult, web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Web data imported where it lies, and CapFilt's own; the manifest alone says what is read."""
    with serve_s3(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        for path in [*web.glob("*.tar"), *(one for one in Path(made.dataset.uri).rglob("*") if one.is_file())]:
            below = Path("web", path.name) if path.parent == web else Path("out", path.relative_to(made.dataset.uri))
            open_store(server.uri).upload(path, below.as_posix())
        ref = import_web(f"{server.uri}/web", store=open_store(f"{server.uri}/store"), name="web")
        samples = loaded(ref.uri, 0)
        assert len(samples) == ref.images
        assert samples[0]["__url__"] == f"{server.uri}/web/00000.tar"
        ours = [{**one, "__url__": ""} for one in loaded(f"{server.uri}/out", 0)]
        assert ours == [{**one, "__url__": ""} for one in loaded(made.dataset.uri, 0)]


def test_what_does_not_fit_its_manifest_is_told(tmp_path: Path, web: Path) -> None:
    folder = write_web(tmp_path / "web", shards=1, samples=4)
    ref = import_web(str(folder), store=open_store(str(tmp_path / "store")), name="web")
    tar = folder / "00000.tar"
    data = tar.read_bytes()
    image = good_sample(2)["jpg"]
    tar.write_bytes(data.replace(image, image[:-1] + bytes([image[-1] ^ 1])))
    with pytest.raises(DataError, match="image '000000002' changed"):
        list(capfilt.open_dataset(ref.uri))
    tar.write_bytes(data[:3000])
    with pytest.raises(DataError, match="it should have"):
        list(capfilt.open_dataset(ref.uri))
    tar.write_bytes(tar_bytes([("other", good_sample(1))]))
    with pytest.raises(DataError, match="0 samples with a kept caption, the manifest says 4|it should have"):
        list(capfilt.open_dataset(ref.uri))
    table = Path(ref.uri, load_manifest(ref.uri).shards[0].parquet.uri)
    table.write_bytes(table.read_bytes() + b"x")
    with pytest.raises(DataError, match="its sha256 differs"):
        list(capfilt.open_dataset(ref.uri))
    with pytest.raises(DataError, match="is no dataset"):
        capfilt.open_dataset(tmp_path)


def test_a_training_loop_without_anything_of_ours(made: CapfiltResult) -> None:
    """What a user would write."""
    dataset = capfilt.open_dataset(made.dataset.uri, shuffle=100).decode("torchrgb").to_tuple("jpg;png", "txt")
    weights = torch.zeros(3, requires_grad=True)
    for image, _ in DataLoader(dataset, batch_size=8):
        ((image.mean(dim=(2, 3)) * weights).sum(dim=1) - 1).square().mean().backward()
    assert weights.grad is not None
    assert weights.grad.norm() > 0
