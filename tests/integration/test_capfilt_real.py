"""`capfilt regenerate` over real web shards, with checkpoints that transformers saved."""

import gc
import json
from pathlib import Path

import pytest
import webdataset
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.storage import open_store
from components.data.manifest import load_manifest, read_commit
from components.data.shards import index_shard
from components.data.versions.verify import shard_rows, verify
from components.model.tokenizer import BlipTokenizer
from tests.helpers.transformers_blip import save_checkpoints


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_lost_of_the_real_shards(tmp_path: Path, shared_data: Path) -> None:
    vocabulary = BlipTokenizer.from_vocab_file(shared_data / "bert-base-uncased-vocab.txt")
    captioner, filter = save_checkpoints(tmp_path / "models", vocabulary, size=32)
    web, out = shared_data / "web", str(tmp_path / "out")
    places = ["--web", str(web), "--captioner", str(captioner), "--filter", str(filter), "--out", out]
    speed = ["--decoding", "greedy", "--max-length", "10", "--batch-size", "64", "--threshold", "0.5", "--json"]
    done = CliRunner().invoke(app, ["regenerate", *places, *speed])
    assert done.exit_code == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    manifest = load_manifest(out)
    totals = manifest.totals
    assert totals.samples == 6060 == totals.kept + totals.dropped + sum(totals.failed.values())
    assert metrics["capfilt/images_in"] == 6060
    assert 0 < totals.kept < 6060, "the threshold must divide for this test to mean anything"
    for entry in manifest.shards:
        record = read_commit(open_store(out), entry.name)
        assert record is not None
        told = dict.fromkeys(row.key for row in shard_rows(out, entry)) | dict.fromkeys(bad.key for bad in record.bad)
        assert sorted(told) == sorted(sample.key for sample in index_shard(web / f"{entry.name}.tar"))
    assert verify(out).problems == ()
    tars = sorted(str(path) for path in Path(out, "shards").glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")
    count = 0
    for image, text, fields in dataset:
        assert image.mode == "RGB" and text == fields["captions"][0]["text"]
        count += 1
    assert count == totals.kept
    del dataset
    gc.collect()  # webdataset leaves its files to the collector
