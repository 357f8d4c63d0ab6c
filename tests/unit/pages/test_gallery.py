"""Examples for the page: varied, repeatable, with pictures of texts that were all dropped."""

import base64
import hashlib
import io
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.common.storage import open_store
from components.data.candidates import Candidate
from components.data.manifest import Provenance, dataset_store, plan_dataset, seal_dataset
from components.data.publish import ShardBuilder
from components.data.sampleworld.drawing import draw_scene, encode_jpeg
from components.data.sampleworld.scene import Scene, Thing, sample_scene
from components.evaluation.dataset import Truth, load_truth
from components.pages.gallery import example, pick_examples, same_examples, side_of, thumbnail
from components.pages.passing import describe_capfilt
from components.pages.results import store_dataset_page

IMAGES = 24


def seal(store, name, shards, config):
    target = dataset_store(store, name, "f" * 64)
    fingerprint = plan_dataset(target, {"kind": "capfilt", "name": name})
    records = []
    for shard, samples in shards.items():
        with ShardBuilder(target, shard) as builder:
            for key, rows, jpeg in samples:
                builder.add(key, rows, {"jpg": jpeg} if jpeg else {"txt": b"gone"})
            records.append(builder.commit())
    return seal_dataset(target, Provenance(name, "capfilt", config, fingerprint), records)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    store = open_store(str(folder))
    rng = random.Random(0)
    web, out = {"00000": [], "00001": []}, {"00000": [], "00001": []}
    truth = []
    for number in range(IMAGES):
        key, shard = f"{number:09d}", f"0000{number % 2}"
        scene = sample_scene(rng)
        jpeg = encode_jpeg(draw_scene(scene, 300, rng), 90)
        digest = hashlib.sha256(jpeg).hexdigest()
        keeps = (number % 8 == 0, number % 4 == 0)
        rows = [
            Candidate(
                key,
                digest,
                source,
                f"{source} {number}",
                0.9 if kept else 0.1,
                0.2,
                kept,
                "" if kept else "below_threshold",
            )
            for source, kept in zip(("web", "synthetic"), keeps, strict=True)
        ]
        web[shard].append((key, [Candidate(key, digest, "web", f"web {number}", None, None, True)], jpeg))
        out[shard].append((key, rows, jpeg if any(keeps) else None))
        truth.append({"key": key, "kind": ["match", "junk", "alt-text"][number % 3], "scene": scene.to_json()})
    pq.write_table(pa.Table.from_pylist(truth), folder / "truth.parquet")
    config = {"threshold": 0.4, "coin": None}
    return seal(store, "web", web, {}), seal(store, "web-capfilt-1", out, config), str(folder / "truth.parquet")


def test_outcomes_and_kinds_take_turns(data):
    web, out, truth = data
    examples = pick_examples(out, web, count=9, truth=load_truth(truth))
    assert len(examples) == len({one.key for one in examples}) == 9
    outcomes = Counter(tuple(text.kept for text in one.texts) for one in examples)
    assert outcomes == {(False, False): 3, (False, True): 3, (True, True): 3}
    assert {one.kind for one in examples} == {"match", "junk", "alt-text"}
    assert examples == pick_examples(out, web, count=9, truth=load_truth(truth))
    assert examples != pick_examples(out, web, count=9, truth=load_truth(truth), seed=1)


def test_truth_is_told_of_each_text(data):
    web, out, truth = data
    for one in pick_examples(out, web, truth=load_truth(truth)):
        assert one.texts[0].true is (one.kind == "match")
        assert one.texts[1].true is False  # "synthetic 3" names no thing
    assert all(text.true is None for one in pick_examples(out, web) for text in one.texts)


def test_facts_are_counted_where_a_text_states_some(data):
    web, out, _ = data
    scene = Scene((Thing("circle", "red", "large", "plain", 1 / 6, 0.5, 0.15),), "teal", "plain")
    rows = [Candidate("0", "0" * 64, "web", text, 0.9, 0.2, True, "") for text in ("a red star", "web 3")]
    (stating, silent) = example("0", "", rows, Truth("half-right", scene), None).texts
    assert (stating.facts, silent.facts) == ((1, 2), None)
    assert all(text.facts is None for one in pick_examples(out, web) for text in one.texts)


def test_without_the_input_only_kept_pictures_are_shown(data):
    _, out, _ = data
    examples = pick_examples(out, count=100)
    assert len(examples) == 6
    assert all(any(text.kept for text in one.texts) for one in examples)


def test_report_of_a_pass(data):
    web, out, truth = data
    report = describe_capfilt(out, web, made_by=0, metrics={"truth/filter_auc": 0.9}, truth_uri=truth, examples=3)
    assert report.threshold == 0.4
    assert report.metrics["capfilt/noise_ratio_web"] == pytest.approx(21 / 24)
    assert report.metrics["truth/filter_auc"] == 0.9
    assert report.dropped == {"below_threshold": 21 + 18}
    assert len(report.examples) == 3
    web_texts, written = report.texts
    assert (web_texts.texts, web_texts.kept, written.kept, report.pairs) == (24, 3, 6, 9)
    assert web_texts.lengths == {2: (3, 21)} and web_texts.distinct == 24
    assert [at for at, counts in enumerate(web_texts.scores) if any(counts)] == [4, 36]
    assert report.images_in == 24


def test_the_same_images_are_shown_of_another_pass(data):
    web, out, truth = data
    pinned = pick_examples(out, web, count=5)
    assert same_examples(out, pinned) == pinned
    again = describe_capfilt(out, web, made_by=1, pinned=pinned).examples
    assert [one.key for one in again] == [one.key for one in pinned]


def test_what_the_filter_got_wrong_is_shown_the_worst_first(data):
    """Web texts of kind `match` are right, all others and all written ones ("synthetic 3" names no thing) wrong."""
    web, out, truth = data
    report = describe_capfilt(out, web, made_by=0, truth_uri=truth)
    right = [number for number in range(IMAGES) if number % 3 == 0]
    kept_wrong = [number for number in range(IMAGES) if number % 8 == 0 and number not in right]
    refused = [number for number in right if number % 8]
    assert report.mistakes == (len(kept_wrong) + IMAGES // 4, len(refused))
    assert {one.key for one in report.wrongly_refused} == {f"{number:09d}" for number in refused}
    assert all(len(one.texts) == 1 and one.texts[0].true is False for one in report.wrongly_kept)
    assert [one.texts[0].source for one in report.wrongly_kept][:4] == ["synthetic", "web"] * 2
    assert describe_capfilt(out, web, made_by=0).mistakes is None


def test_the_page_of_a_dataset_alone(data, tmp_path):
    _, out, truth = data
    where = store_dataset_page(out, tmp_path / "deep" / "page.html", truth_uri=truth)
    page = (tmp_path / "deep" / "page.html").read_text()
    assert where == str(tmp_path / "deep" / "page.html")
    assert (
        "<h1>Kept 3 of 24 web texts (12.5 %) and 6 of 24 written captions (25.0 %): 9 pairs over 6 of 24 images."
        in page
    )
    assert f"capfilt dataset explain {out.uri} " in page and 'id="mistakes"' in page
    assert store_dataset_page(out) == f"{out.uri}/report.html"


def test_thumbnails_are_small():
    buffer = io.BytesIO()
    Image.effect_noise((900, 300), 80).convert("CMYK").save(buffer, "JPEG")
    uri = thumbnail(buffer.getvalue())
    kind, _, body = uri.partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as small:
        assert small.size == (224, 75)
        assert small.format == "WEBP"


def test_the_most_images_have_the_smallest_thumbnails():
    assert [side_of(count)[0] for count in (24, 300, 1000)] == [224, 112, 96]
