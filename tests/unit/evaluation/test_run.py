"""A round measured for real: sample-world test images, tiny random models, a folder store."""

import gc
import json
import weakref

import pytest
import torch

from components.common.errors import DataError, ModelError
from components.common.progress import Progress
from components.common.resampling import IntervalConfig
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.data.coco import import_coco
from components.data.loader import load_eval_set
from components.data.sampleworld import SampleWorldConfig, generate_sample_world
from components.evaluation.captions import caption_metrics
from components.evaluation.config import MEASURED, EvaluationConfig
from components.evaluation.intervals import METRICS, compare, measured
from components.evaluation.run import measure_retrieval, run_base_evaluation, run_evaluation
from components.evaluation.vqa import ANY, OFFICIAL
from components.model.blip import BlipCaptioner, BlipFilter
from components.model.checkpoints.publishing import publish_model
from components.model.checkpoints.weights import load_filter, save_model
from components.model.tokenizer import BlipTokenizer
from tests.helpers.tiny_models import CORPUS, tiny_config

IMAGES = 14
ASKED = {OFFICIAL, ANY}  # measured of the model that answers questions


class Recorder(Tracker):
    def __init__(self):
        self.metrics, self.datasets = {}, []

    def log_metrics(self, metrics, step=0):
        self.metrics[step] = dict(metrics)

    def log_dataset(self, ref, context):
        self.datasets.append((ref.digest, context))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    world = generate_sample_world(
        SampleWorldConfig(human_train=1, human_val=1, human_test=IMAGES, web=1, image_size=32), folder / "world"
    )
    store = open_store(str(folder / "store"))
    test = import_coco(str(world.captions_test), str(world.images), store=store, name="human-test", shard_size=5)
    tokenizer = BlipTokenizer.train(CORPUS, 200)
    refs = []
    for role, kind, size in (("captioner", BlipCaptioner, 32), ("filter", BlipFilter, 48)):
        torch.manual_seed(0)
        model = kind(tiny_config(size).for_tokenizer(tokenizer))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(8)
        save_model(model, tokenizer, folder / role)
        refs.append(publish_model(folder / role, store.child("models", role), role))
    return store, test, refs[0], refs[1]


def measure(bench, tmp_path, tracker=None, **config):
    store, test, captioner, filter = bench
    return run_evaluation(
        captioner,
        filter,
        test,
        EvaluationConfig(**config),
        round=1,
        store=store,
        tracker=tracker or Tracker(),
        work_dir=tmp_path,
    )


def test_everything_is_measured_logged_and_kept(bench, tmp_path):
    tracker = Recorder()
    report = measure(bench, tmp_path, tracker)
    names = {f"eval/retrieval/{way}_recall_at_{k}" for way in ("text", "image") for k in (1, 5, 10)}
    names |= {"eval/retrieval/mean_recall", "eval/retrieval/itc_mean_recall"}
    names |= {f"eval/caption/bleu_{n}" for n in (1, 2, 3, 4)}
    names |= {"eval/caption/cider", "eval/caption/rouge_l", "eval/caption/distinct_captions"}
    assert set(report.metrics) == names == set(MEASURED) - ASKED
    assert tracker.metrics == {1: report.metrics}
    assert tracker.datasets == [(bench[1].digest, "test")]
    details = json.loads(open_store(report.uri.rpartition("/")[0]).read(report.uri.rpartition("/")[2]))
    images = details["images"]
    assert len(images) == IMAGES
    assert all(len(one["references"]) == 5 == len(one["image_ranks"]) for one in images)
    again = caption_metrics(
        {one["key"]: one["references"] for one in images}, {one["key"]: one["caption"] for one in images}
    )
    assert report.metrics["eval/caption/cider"] == pytest.approx(again["CIDEr"])
    found = [one["text_rank"] is not None and one["text_rank"] < 5 for one in images]
    assert report.metrics["eval/retrieval/text_recall_at_5"] == pytest.approx(sum(found) / IMAGES)


def test_measured_again_it_is_the_same_whatever_the_batches(bench, tmp_path):
    first = measure(bench, tmp_path)
    assert measure(bench, tmp_path) == first
    small = measure(
        bench, tmp_path, caption_batch=3, retrieval={"image_batch": 2, "pair_batch": 3, "resident_images": 4}
    )
    assert small.metrics == pytest.approx(first.metrics, abs=1e-6)


def test_bf16_and_limit_and_position_zero(bench, tmp_path):
    few = measure(bench, tmp_path, limit=4, precision="bf16")
    assert few.metrics["eval/retrieval/text_recall_at_10"] > 0
    cls = measure(bench, tmp_path, position_zero="cls").metrics
    enc = measure(bench, tmp_path, position_zero="enc").metrics
    assert cls["eval/retrieval/itc_mean_recall"] == enc["eval/retrieval/itc_mean_recall"]
    assert cls != enc


def test_retrieval_alone(bench):
    store, test, _, filter = bench
    done = []
    found = measure_retrieval(load_filter(filter.uri), load_eval_set(test), EvaluationConfig(), done.append)
    assert 0 <= found.metrics["mean_recall"] <= 1
    assert sum(done) == IMAGES


def test_memory_that_runs_out_halves_batches_and_changes_nothing(bench, tmp_path, monkeypatch):
    """Captioner and filter take more than so many rows only by running out of memory."""
    expected = measure(bench, tmp_path)
    refused = []

    def scarce(kind, name, rows, most):
        whole = getattr(kind, name)

        def call(self, *arguments):
            if rows(*arguments) > most:
                refused.append(name)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    scarce(BlipCaptioner, "encode_images", len, 3)
    scarce(BlipFilter, "image_features", len, 5)
    scarce(BlipFilter, "text_features", lambda ids, mask: len(ids), 9)
    scarce(BlipFilter, "match_logits", lambda ids, mask, kv: len(ids), 7)
    got = measure(bench, tmp_path)
    assert {"encode_images", "image_features", "text_features", "match_logits"} == set(refused)
    assert got.metrics == pytest.approx(expected.metrics, abs=1e-9)


def test_keys_and_values_that_wait_are_let_go_when_memory_runs_out(bench, monkeypatch):
    """What only saves a second pass must not be what the first one fails of."""
    store, test, _, filter = bench
    samples, loaded = load_eval_set(test), load_filter(filter.uri)
    config = EvaluationConfig(retrieval={"image_batch": 2})
    expected = measure_retrieval(loaded, samples, config, lambda images: None)
    whole, alive = BlipFilter.image_features, []

    def scarce(self, pixels):
        gc.collect()
        if sum(reference() is not None for reference in alive) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        keys_values, features = whole(self, pixels)
        alive.append(weakref.ref(keys_values))
        return keys_values, features

    monkeypatch.setattr(BlipFilter, "image_features", scarce)
    assert measure_retrieval(loaded, samples, config, lambda images: None).metrics == expected.metrics
    assert len(alive) > IMAGES // 2 + 1


def test_progress_is_told(bench, tmp_path):
    store, test, captioner, filter = bench
    bar = Progress(None, "images", "test", bar=False)
    run_evaluation(
        captioner,
        filter,
        test,
        EvaluationConfig(),
        round=0,
        store=store,
        tracker=Tracker(),
        work_dir=tmp_path,
        progress=bar,
    )
    assert bar.done == 2 * IMAGES


def test_other_versions_are_refused(bench, tmp_path):
    store, test, captioner, filter = bench
    with pytest.raises(ModelError, match="version"):
        measure((store, test, captioner.model_copy(update={"digest": "0" * 64}), filter), tmp_path)
    with pytest.raises(DataError, match="version"):
        measure((store, test.model_copy(update={"digest": "0" * 64}), captioner, filter), tmp_path)


def test_sampling_is_refused_where_rounds_are_compared():
    with pytest.raises(ValueError, match="beam"):
        EvaluationConfig(decoding={"method": "nucleus"})


def test_the_details_suffice_for_intervals_of_what_was_measured(bench, tmp_path):
    report = measure(bench, tmp_path)
    details = json.loads(open_store(report.uri.rsplit("/", 1)[0]).read(report.uri.rsplit("/", 1)[1]))
    found = compare(measured(details), measured(details), IntervalConfig(resamples=100))
    assert {name: one.after for name, one in found.items()} == pytest.approx(
        {name: report.metrics[name] for name in METRICS}, abs=1e-6
    )
    assert set(MEASURED) - ASKED - set(METRICS) == {"eval/caption/distinct_captions", "eval/retrieval/itc_mean_recall"}


def test_a_base_models_retrieval_is_that_of_the_same_weights_as_a_filter(bench, tmp_path):
    """The tiny filter's folder loads as either; a real base model's as well (tests/integration/test_bootstrap.py)."""
    store, test, _, filter = bench
    tracker = Recorder()
    report = run_base_evaluation(
        filter, test, EvaluationConfig(), round=1, store=store, tracker=tracker, work_dir=tmp_path
    )
    whole = measure(bench, tmp_path).metrics
    assert report.metrics == {
        name.replace("eval/retrieval/", "base/"): value for name, value in whole.items() if "/retrieval/" in name
    }
    assert tracker.metrics == {1: report.metrics}
    details = measured(json.loads(open_store(report.uri.rpartition("/")[0]).read(report.uri.rpartition("/")[2])))
    assert len(details.images) == IMAGES
    assert set(details.names) == set(report.metrics) - {"base/itc_mean_recall"}
