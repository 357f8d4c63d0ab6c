import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from torch.nn.modules.module import register_module_forward_pre_hook

from components.common.contracts import CapfiltResult, ModelRef
from components.common.errors import ConfigError, DataError, GateError, ModelError
from components.common.storage import open_store, sha256_hex
from components.data.candidates import Candidate, read_candidates
from components.data.manifest import dataset_ref, load_manifest, read_commit
from components.data.shards import read_shard
from components.model.vision import VisionTransformer
from components.regeneration.config import CapfiltConfig
from components.regeneration.guard import GuardConfig
from components.regeneration.run import run_capfilt
from tests.helpers.datasets import commit_file, shard_file
from tests.helpers.doubled import SIXTH_DIGIT, Doubled
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, good_sample, odd_images, tar_bytes, write_web

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"), captioner_size=48, filter_size=32)


def settings(**changes: object) -> CapfiltConfig:
    return CapfiltConfig(**({"batch_size": 3, "threads": 1, "threshold": 0.5} | changes))


def run(web: Path, models: Models, root: Path, **changes: object) -> CapfiltResult:
    return run_capfilt(str(web), *models, settings(**changes), store=open_store(str(root)), name="out")


def rows_of(result: CapfiltResult) -> list[Candidate]:
    tables = sorted(Path(result.dataset.uri, "shards").glob("*[0-9a-f].parquet"))
    return [row for path in tables if ".images" not in path.name for row in read_candidates(path)]


def bytes_of(result: CapfiltResult) -> dict[str, bytes]:
    """All files but `made.json`, which tells of the machine and is no part of the version."""
    folder = Path(result.dataset.uri)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "libraries" in json.loads(files.pop("made.json"))
    return files


def test_a_dataset_as_the_house_has_it(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=3, samples=5)
    result = run(web, models, tmp_path / "out")
    manifest = load_manifest(result.dataset.uri)
    assert result.dataset == dataset_ref(result.dataset.uri)
    assert [shard.name for shard in manifest.shards] == ["00000", "00001", "00002"]
    assert {parent.role: parent.digest for parent in manifest.parents}["captioner"] == models[0].digest
    totals = manifest.totals
    assert totals.samples == 15 == totals.kept + totals.dropped
    assert 0 < totals.kept < 15, "the threshold must divide for this test to mean anything"
    rows = rows_of(result)
    assert Counter(row.source for row in rows) == {"web": 15, "synthetic": 15}
    assert sum(row.kept for row in rows) == totals.kept_pairs == result.dataset.pairs
    for shard in range(3):
        given = {one.key: one.members for one in read_shard(web / f"{shard:05d}.tar")}
        made = list(read_shard(shard_file(result.dataset.uri, f"{shard:05d}")))
        by_key = {key: [row for row in rows if row.key == key] for key in given}
        assert [one.key for one in made] == [key for key in given if any(row.kept for row in by_key[key])]
        for sample in made:
            kept = [row for row in by_key[sample.key] if row.kept]
            assert sample.members["jpg"] == given[sample.key]["jpg"]
            assert sample.members["txt"].decode() == kept[0].text
            fields = json.loads(sample.members["json"])
            assert fields["captions"] == [
                {
                    "text": row.text,
                    "source": row.source,
                    "itm_probability": row.itm_probability,
                    "itc_similarity": row.itc_similarity,
                }
                for row in kept
            ]
            assert fields["url"] == json.loads(given[sample.key]["json"])["url"]
            assert kept[0].image_sha256 == sha256_hex(sample.members["jpg"])


def test_rows_hold_every_candidate_with_its_decision(tmp_path: Path, models: Models) -> None:
    result = run(write_web(tmp_path / "web"), models, tmp_path / "out", captions_per_image=3)
    rows = rows_of(result)
    assert Counter(row.source for row in rows) == {"web": 15, "synthetic": 45}
    for row in rows:
        assert row.itm_probability is not None or row.reason == "empty_text"
        assert row.kept == (row.reason == "")
        if row.reason == "below_threshold":
            assert row.itm_probability < 0.5
        if row.kept:
            assert row.itm_probability >= 0.5
            assert -1 <= row.itc_similarity <= 1
    assert len({row.text for row in rows if row.source == "synthetic"}) > 20
    assert not any(row.text.startswith("an image of") for row in rows if row.source == "synthetic")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_tars_open_in_plain_webdataset(tmp_path: Path, models: Models) -> None:
    result = run(write_web(tmp_path / "web"), models, tmp_path / "out", threshold=0.0)
    urls = sorted(str(path) for path in Path(result.dataset.uri, "shards").glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")
    samples = list(dataset)
    assert len(samples) == result.dataset.images == 15
    for image, text, fields in samples:
        assert image.size == (64, 48)
        assert text == fields["captions"][0]["text"]
    del dataset
    gc.collect()  # webdataset leaves its files to the collector


def test_the_same_bytes_again_and_elsewhere(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web")
    first = run(web, models, tmp_path / "one")
    second = run(web, models, tmp_path / "two", read_threads=1)
    assert first.dataset.digest == second.dataset.digest
    assert bytes_of(first) == bytes_of(second)
    assert run(web, models, tmp_path / "one").dataset == first.dataset


def test_every_bad_sample_is_counted_and_listed(tmp_path: Path, models: Models) -> None:
    good = good_sample(1)
    images = {key: data for key, (data, _) in bad_images().items()} | odd_images()
    samples = [(key, {**good, "jpg": data}) for key, data in images.items()]
    samples += [
        ("no-text", {"jpg": good["jpg"]}),
        ("empty-text", {**good, "txt": b" \n"}),
        ("long-text", {**good, "txt": b"word " * 20_000}),
        ("latin", {**good, "txt": b"caf\xe9"}),
        ("bad-json", {**good, "json": b"{"}),
        ("no-image", {"txt": b"words"}),
        ("twice", good),
        ("dotted.v2", good),
        ("twice", good),
    ]
    web = tmp_path / "web"
    web.mkdir()
    (web / "00000.tar").write_bytes(tar_bytes(samples))
    result = run(web, models, tmp_path / "out", threshold=0.0)
    counts = load_manifest(result.dataset.uri).totals
    assert counts.failed == {
        "duplicate_key": 1, "empty": 1, "markup": 1, "no_image": 1, "not_an_image": 1,
        "too_many_pixels": 1, "too_small": 1, "truncated": 1,
    }  # fmt: skip
    assert counts.samples == len(samples) == counts.kept + sum(counts.failed.values())
    told = {name: result.metrics[f"capfilt/{name}"] for name in ("failed", "failed_markup", "failed_duplicate_key")}
    assert told == {"failed": 8, "failed_markup": 1, "failed_duplicate_key": 1}
    for trouble in ("missing_text", "empty_text", "text_too_long", "text_not_utf8"):
        assert result.metrics[f"capfilt/web_{trouble}"] == 1
    record = read_commit(open_store(result.dataset.uri), "00000")
    assert {bad.key: bad.reason for bad in record.bad} == {key: reason for key, (_, reason) in bad_images().items()} | {
        "no-image": "no_image",
        "twice": "duplicate_key",
    }
    by_key = {(row.key, row.source): row for row in rows_of(result)}
    assert by_key["no-text", "web"].reason == "missing_text"
    assert by_key["empty-text", "web"].reason == "empty_text"
    assert by_key["long-text", "web"].reason == "text_too_long"
    assert by_key["latin", "web"].reason == "text_not_utf8"
    assert by_key["cut", "web"].reason == "truncated"
    assert by_key["latin", "web"].text == "caf\ufffd"
    assert all(by_key[key, "synthetic"].kept for key in ("no-text", "empty-text", "long-text", "latin", "bad-json"))
    made = {one.key: one.members for one in read_shard(shard_file(result.dataset.uri, "00000"))}
    for key, data in odd_images().items():
        assert made[key]["jpg"] == data, "bit-identical"


def cut_at(data: bytes, samples: int, extra: int) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return data[: tar.getmembers()[3 * samples].offset + extra]


@pytest.mark.parametrize("extra", [0, 100, 512, 700])
def test_a_cut_tar_gives_what_is_whole_and_counts_the_rest(tmp_path: Path, models: Models, extra: int) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=6)
    tar = web / "00000.tar"
    tar.write_bytes(cut_at(tar.read_bytes(), 4, extra))
    (web / "00000_stats.json").write_text(json.dumps({"successes": 6}))
    result = run(web, models, tmp_path / "out", threshold=0.0)
    counts = load_manifest(result.dataset.uri).totals
    whole = read_commit(open_store(result.dataset.uri), "00000").counts.kept
    assert whole in (3, 4)  # the sample before the cut may have lost members, so it is not trusted
    assert counts.failed == {"broken_shard": 6 - whole}
    assert counts.samples == 12


def test_hostile_members_are_refused(tmp_path: Path, models: Models) -> None:
    buffer = io.BytesIO()
    good = good_sample(1)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in ("../escape", "/absolute", "fine1", "fine2", "fine3", "fine4"):
            for extension, data in good.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    web = tmp_path / "web"
    web.mkdir()
    (web / "00000.tar").write_bytes(buffer.getvalue())
    result = run(web, models, tmp_path / "out", threshold=0.0)
    counts = load_manifest(result.dataset.uri).totals
    assert counts.failed == {"absolute_name": 1, "device": 1, "link": 1, "parent_name": 1}
    assert counts.kept == 4


def test_empty_and_all_bad_shards_commit_too(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=1)
    (web / "00001.tar").write_bytes(tar_bytes([]))
    (web / "00002.tar").write_bytes(tar_bytes([("bad", {"jpg": b"", "txt": b"words"})]))
    result = run(web, models, tmp_path / "out")
    manifest = load_manifest(result.dataset.uri)
    assert [shard.counts.samples for shard in manifest.shards] == [5, 0, 1]
    assert manifest.shards[2].counts.failed == {"empty": 1}
    assert list(read_shard(shard_file(result.dataset.uri, "00001"))) == []


def test_another_config_at_the_same_place_is_refused(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=1)
    place = {"store": open_store(str(tmp_path)), "name": "out", "out": open_store(str(tmp_path / "there"))}
    run_capfilt(str(web), *models, settings(), **place)
    with pytest.raises(ConfigError, match=r"config.threshold: 0.5 there, 0.6 asked for"):
        run_capfilt(str(web), *models, settings(threshold=0.6), **place)
    run_capfilt(str(web), *models, settings(read_threads=2, workers=1, batch_size=2), **place)


def test_a_start_that_failed_leaves_the_place_to_the_right_one(tmp_path: Path, models: Models) -> None:
    """Captioner and filter exchanged: told when they are loaded, and nothing was written down yet."""
    web = write_web(tmp_path / "web", shards=1)
    place = {"store": open_store(str(tmp_path)), "name": "out", "out": open_store(str(tmp_path / "there"))}
    with pytest.raises(ModelError):
        run_capfilt(str(web), models[1], models[0], settings(), **place)
    assert not (tmp_path / "there" / "plan.json").exists()
    assert run_capfilt(str(web), *models, settings(), **place).dataset.images


def test_a_dataset_does_not_go_where_its_input_is(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=1)
    for inside in (web, web / "re"):
        with pytest.raises(ConfigError, match="would lie inside the web data"):
            run_capfilt(str(web), *models, settings(), store=open_store(str(tmp_path)), name="out",
                        out=open_store(str(inside)))  # fmt: skip
    assert [path.name for path in web.iterdir()] == ["00000.tar"]
    beside = run_capfilt(str(web), *models, settings(), store=open_store(f"{web}-re"), name="out")
    assert load_manifest(beside.dataset.uri).totals.samples == 5


def test_the_same_under_another_name_and_folder_is_the_same_version(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=2)
    copied = shutil.copytree(web, tmp_path / "copy")
    first = run_capfilt(str(web), *models, settings(), store=open_store(str(tmp_path / "one")), name="a").dataset
    second = run_capfilt(str(copied), *models, settings(), store=open_store(str(tmp_path / "two")), name="b").dataset
    assert (first.digest, first.name) == (second.digest, "a") and second.name == "b"


SCORELESS = {"itm_probability": None, "itc_similarity": None}


def raise_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def ask_for_too_much() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("side", [48, 32])
@pytest.mark.parametrize("fail", [raise_out_of_memory, ask_for_too_much])
def test_out_of_memory_within_a_model_halves_the_batch_and_decides_the_same(
    tmp_path: Path,
    models: Models,
    side: int,
    fail: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the captioner's vision tower (48 pixels), then in the filter's (32): more than two images do not fit."""

    def limit(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, VisionTransformer) and inputs[0].shape[-1] == side:
            batches.append(len(inputs[0]))
            if len(inputs[0]) > 2:
                fail()

    monkeypatch.setattr("components.regeneration.models.Arithmetic", Doubled)
    web = write_web(tmp_path / "web", shards=2, samples=11)
    whole = run(web, models, tmp_path / "whole", batch_size=8, precision="fp32")
    batches: list[int] = []
    hook = register_module_forward_pre_hook(limit)
    try:
        halved = run(web, models, tmp_path / "halved", batch_size=8, precision="fp32")
    finally:
        hook.remove()
    assert Counter(batches) == {8: 2, 4: 4, 3: 2, 2: 10, 1: 2}
    assert "out of memory with a batch of 8: going on with 4" in caplog.text
    for small, large in zip(rows_of(halved), rows_of(whole), strict=True):
        assert replace(small, **SCORELESS) == replace(large, **SCORELESS)
        assert (small.itm_probability, small.itc_similarity) == pytest.approx(
            (large.itm_probability, large.itc_similarity), abs=SIXTH_DIGIT
        )  # another shape of the batch rounds otherwise: in fp32 the fifth digit may differ, and the version with it


def test_collapsed_captions_stop_the_run(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web")
    guard = GuardConfig(max_top_caption_share=0.01, min_captions=5)
    with pytest.raises(GateError, match="collapsed in shard 00000"):
        run(web, models, tmp_path / "out", guard=guard)
    (folder,) = (tmp_path / "out" / "datasets" / "out").iterdir()
    assert not (folder / "manifest.json").exists()
    assert not list(folder.glob("commits/*"))


@pytest.mark.parametrize("policy", ["replace", "best_of", "fallback"])
def test_policies_reach_the_output(tmp_path: Path, models: Models, policy: str) -> None:
    rows = rows_of(run(write_web(tmp_path / "web"), models, tmp_path / "out", policy=policy, threshold=0.3))
    kept = Counter(row.key for row in rows if row.kept)
    if policy == "replace":
        assert not any(row.kept for row in rows if row.source == "web")
    else:
        assert max(kept.values()) == 1
    assert kept


def test_a_coin_keeps_its_share_whatever_the_scores(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=40)
    result = run(web, models, tmp_path / "out", coin=0.3, batch_size=16)
    rows = rows_of(result)
    assert {row.reason for row in rows if not row.kept} <= {"coin", "duplicate", "empty_text"}
    assert 0.15 < np.mean([row.kept for row in rows]) < 0.45
    assert min(row.itm_probability for row in rows if row.kept and row.itm_probability is not None) < 0.5
    assert 0.5 < result.metrics["capfilt/noise_ratio_web"] < 0.9


def test_a_limit_takes_the_first_samples(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=3, samples=5)
    result = run(web, models, tmp_path / "out", limit=7)
    assert load_manifest(result.dataset.uri).totals.samples == 7
    assert result.metrics["capfilt/images_in"] == 7


def test_metrics_of_a_resumed_run_are_those_of_a_whole_one(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web")
    whole = run(web, models, tmp_path / "one")
    folder = Path(run(web, models, tmp_path / "two").dataset.uri)
    (folder / "manifest.json").unlink()
    commit_file(folder, "00001").unlink()
    resumed = run(web, models, tmp_path / "two")
    speed = "capfilt/images_per_second"
    assert {k: v for k, v in resumed.metrics.items() if k != speed} == {
        k: v for k, v in whole.metrics.items() if k != speed
    }
    assert resumed.dataset.digest == whole.dataset.digest
    for name in ("noise_ratio_web", "noise_ratio_synthetic", "distinct_1", "distinct_2", "mean_length", "kept_pairs"):
        assert f"capfilt/{name}" in whole.metrics


def test_a_shard_changed_between_two_starts_is_refused(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web")
    place = {"store": open_store(str(tmp_path)), "name": "out", "out": open_store(str(tmp_path / "there"))}
    run_capfilt(str(web), *models, settings(), **place)
    (tmp_path / "there" / "manifest.json").unlink()
    data = bytearray((web / "00002.tar").read_bytes())
    data[700] ^= 1
    (web / "00002.tar").write_bytes(data)
    with pytest.raises(ConfigError, match="begun with other settings"):
        run_capfilt(str(web), *models, settings(), **place)


def test_a_broken_commit_record_is_named(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=1)
    folder = Path(run(web, models, tmp_path / "out").dataset.uri)
    commit_file(folder, "00000").write_text("{}")
    with pytest.raises(DataError, match=r"00000-.*json is no commit record"):
        run(web, models, tmp_path / "out")


CHILD = """
import json, sys
from components.regeneration.config import CapfiltConfig
from components.regeneration.run import run_capfilt
from components.common.contracts import ModelRef
from components.common.storage import open_store
web, out, captioner, filter, config = sys.argv[1:]
run_capfilt(web, ModelRef.model_validate_json(captioner), ModelRef.model_validate_json(filter),
            CapfiltConfig.model_validate_json(config), store=open_store(out), name="out")
"""


def test_killed_at_any_moment_and_run_again_gives_the_same_dataset(tmp_path: Path, models: Models) -> None:
    web = write_web(tmp_path / "web", shards=8, samples=4)
    config = settings(batch_size=2)
    expected = run_capfilt(str(web), *models, config, store=open_store(str(tmp_path / "whole")), name="out").dataset
    out = tmp_path / "out"
    commits = out / "datasets" / "out" / expected.uri.rpartition("/")[2] / "commits"
    refs = [ref.model_dump_json() for ref in models]
    command = [sys.executable, "-c", CHILD, str(web), str(out), *refs, config.model_dump_json()]
    for wanted in (1, 4):
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})
        while child.poll() is None and len(list(commits.glob("*.json"))) < wanted:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait() in (-signal.SIGKILL, 0)
    assert commits.is_dir()
    again = run_capfilt(str(web), *models, config, store=open_store(str(out)), name="out").dataset
    assert again.digest == expected.digest
    shards = Path(again.uri) / "shards"
    assert {path.name: path.read_bytes() for path in shards.iterdir() if not path.name.startswith(".")} == {
        path.name: path.read_bytes() for path in (Path(expected.uri) / "shards").iterdir()
    }
