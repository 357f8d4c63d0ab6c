"""Human captions in both layouts, from a folder and from S3, and everything that can be wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.errors import ConfigError, DataError, StorageError
from components.common.storage import Store, open_store
from components.data.candidates import MAX_TEXT_BYTES, read_candidates
from components.data.coco import import_coco, parse_annotations
from components.data.manifest import file_uri, load_manifest, read_commit
from components.data.shards import read_shard
from components.data.versions.verify import verify
from components.data.views import load_eval_set
from tests.helpers.datasets import shard_file
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import bad_images, encoded, photo

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")


def write_images(folder: Path, count: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"p_{number}.jpg").write_bytes(encoded(photo(number)))
    return folder


def coco(count: int = 7, captions: int = 2) -> dict[str, list[dict[str, Any]]]:
    images = [{"id": 10 + i, "file_name": f"p_{i}.jpg", "width": 64, "height": 48} for i in range(count)]
    annotations = [
        {"id": at * 100 + i, "image_id": 10 + i, "caption": f"Caption {at} of {i}."}
        for at in range(captions)
        for i in range(count)
    ]
    return {"images": images, "annotations": annotations}


def write_json(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, str, Store]:
    """Images, a COCO file of them, and a store."""
    images = write_images(tmp_path / "images")
    return images, write_json(tmp_path / "captions.json", coco()), open_store(str(tmp_path / "store"))


def test_images_and_all_captions_arrive_unchanged(world: tuple[Path, str, Store]) -> None:
    images, annotations, store = world
    done: list[int] = []
    ref = import_coco(annotations, str(images), store=store, name="human", shard_size=3, progress=done.append)
    assert (ref.images, ref.pairs, sum(done)) == (7, 14, 7)
    manifest = load_manifest(ref.uri)
    assert [entry.counts.samples for entry in manifest.shards] == [3, 3, 1] and manifest.kind == "human"
    samples = [sample for entry in manifest.shards for sample in read_shard(file_uri(ref.uri, entry.tar))]
    assert [sample.key for sample in samples] == [f"p_{i}" for i in range(7)]
    assert all(s.members["jpg"] == (images / f"{s.key}.jpg").read_bytes() for s in samples)
    assert samples[2].members["txt"] == b"Caption 0 of 2."
    document = json.loads(samples[2].members["json"])
    assert document["image_id"] == 12 and document["file_name"] == "p_2.jpg"
    assert document["captions"] == [{"text": f"Caption {at} of 2.", "source": "human"} for at in range(2)]
    rows = read_candidates(shard_file(ref.uri, "00001", ".parquet"))
    assert [(row.key, row.text, row.source, row.kept) for row in rows][:2] == [
        ("p_3", "Caption 0 of 3.", "human", True),
        ("p_3", "Caption 1 of 3.", "human", True),
    ]
    assert verify(ref.uri).problems == ()
    assert [one.captions for one in load_eval_set(ref)][6] == ("Caption 0 of 6.", "Caption 1 of 6.")


def test_the_same_input_is_found_done_and_another_is_not(world: tuple[Path, str, Store]) -> None:
    images, annotations, store = world
    ref = import_coco(annotations, str(images), store=store, name="human")
    before = {path: path.stat().st_mtime_ns for path in Path(ref.uri).rglob("*") if path.is_file()}
    assert import_coco(annotations, str(images), store=store, name="human") == ref
    assert before == {path: path.stat().st_mtime_ns for path in Path(ref.uri).rglob("*") if path.is_file()}
    others = [
        import_coco(annotations, str(images), store=store, name="human", limit=3),
        import_coco(annotations, str(images), store=store, name="human", shard_size=2),
    ]
    (images / "p_1.jpg").write_bytes(encoded(photo(99, 100, 100)))
    others.append(import_coco(annotations, str(images), store=store, name="human"))
    Path(annotations).write_text(json.dumps(coco(captions=3)))
    others.append(import_coco(annotations, str(images), store=store, name="human"))
    assert len({ref.digest, *(one.digest for one in others)}) == 5 and others[0].images == 3


def test_an_interrupted_import_goes_on_and_ends_the_same(world: tuple[Path, str, Store], tmp_path: Path) -> None:
    images, annotations, store = world

    class KilledError(Exception):
        pass

    def kill_after_four(_: int, left: list[int] = [4]) -> None:  # noqa: B006
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    with pytest.raises(KilledError):
        import_coco(annotations, str(images), store=store, name="h", shard_size=3, progress=kill_after_four)
    committed = [info.key.rpartition("/")[2] for info in store.list() if "commits" in info.key]
    assert len(committed) == 1 and committed[0].startswith("00000-")
    done: list[int] = []
    ref = import_coco(annotations, str(images), store=store, name="h", shard_size=3, progress=done.append)
    assert done[0] == 3
    fresh = open_store(str(tmp_path / "fresh"))
    assert import_coco(annotations, str(images), store=fresh, name="h", shard_size=3).digest == ref.digest


def test_coco_and_both_karpathy_layouts_say_the_same() -> None:
    document = coco(3)
    by_image = [[a["caption"] for a in document["annotations"] if a["image_id"] == 10 + i] for i in range(3)]
    train = [
        {"caption": text, "image": f"p_{i}.jpg", "image_id": f"coco_{i}"} for i in range(3) for text in by_image[i]
    ]
    test = [{"image": f"p_{i}.jpg", "caption": by_image[i]} for i in range(3)]
    read = [parse_annotations(json.dumps(one).encode()).images for one in (document, train, test)]
    assert len({tuple((image.key, image.file_name, image.captions) for image in one) for one in read}) == 1
    assert [one[0].image_id for one in read] == [10, "coco_0", "p_0.jpg"]


def test_keys_are_safe_and_unique() -> None:
    def keys(*names: str) -> list[str]:
        return [
            one.key
            for one in parse_annotations(json.dumps([{"image": n, "caption": "x"} for n in names]).encode()).images
        ]

    assert keys("val2014/COCO_val2014_000000522418.jpg") == ["COCO_val2014_000000522418"]
    assert keys("a/x.v2.jpg", "a/y z.png") == ["x_v2", "y_z"]
    assert keys("a/1.jpg", "b/1.jpg") == ["a_1", "b_1"]
    one, two = keys("a/1.jpg", "a/1.png")
    assert one != two and one.startswith("a_1-") and two.startswith("a_1-")
    assert keys("a/1.png", "a/1.jpg") == [two, one], "a name's key does not depend on its place"


def test_names_that_differ_only_in_letters_beyond_ascii_are_two_images(tmp_path: Path) -> None:
    names = ["照片1.jpg", "図画1.jpg", "é.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(photo(number)))
    annotations = write_json(tmp_path / "c.json", [{"image": name, "caption": name} for name in names])
    ref = import_coco(annotations, str(tmp_path), store=open_store(str(tmp_path / "s")), name="h")
    found = load_eval_set(ref)
    assert [one.captions for one in found] == [(name,) for name in names]
    assert [one.image for one in found] == [(tmp_path / name).read_bytes() for name in names]
    assert found[2].key == "_", "a key that nobody else has is as it always was"


def test_one_file_is_one_image_however_often_it_is_listed() -> None:
    document = coco(3, captions=1)
    document["images"].append(document["images"][1])
    document["images"].append({"id": 99, "file_name": "p_2.jpg"})
    document["annotations"].append({"image_id": 99, "caption": "another of 2"})
    read = parse_annotations(json.dumps(document).encode()).images
    assert [(one.key, one.image_id, one.captions) for one in read] == [
        ("p_0", 10, ("Caption 0 of 0.",)),
        ("p_1", 11, ("Caption 0 of 1.",)),
        ("p_2", 12, ("Caption 0 of 2.", "another of 2")),
    ]
    document["images"].append({"id": 11, "file_name": "other.jpg"})
    with pytest.raises(DataError, match=r"image id 11 stands for two files, 'p_1.jpg' and 'other.jpg'"):
        parse_annotations(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "captions.json is not JSON: .*line 1"),
        (b'[{"image": "a.jpg",\n"caption": "caf\xe9"}]', "captions.json is not UTF-8: line 2: .*save it as UTF-8"),
        ("[1]", "row 0 lacks image or caption"),
        ('"x"', "neither COCO captions"),
        ('{"a": 1}', "neither COCO captions"),
        ('{"images": []}', "has images but no `annotations`"),
        ('{"images": [], "annotations": []}', "names no images"),
        ("[]", "names no images"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\] lacks id or file_name"),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}', r"annotations\[0\] lacks image_id or caption"),
        ('{"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}', "image 7, which has no entry in `images`"),
    ],
)
def test_wrong_annotations_are_refused_before_any_work(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        import_coco(str(path), str(write_images(tmp_path / "i")), store=open_store(str(tmp_path / "s")), name="h")
    assert not (tmp_path / "s").exists()


def test_entries_of_no_use_are_named_with_file_and_place(
    world: tuple[Path, str, Store], caplog: pytest.LogCaptureFixture
) -> None:
    images, annotations, store = world
    document: Any = coco()
    document["annotations"][3] = {"image_id": 13, "bbox": [1, 2]}
    document["annotations"][4]["image_id"] = 77
    document["annotations"][5]["caption"] = " "
    document["images"] += ["x", {"id": 20, "file_name": "gone.jpg"}]
    path = write_json(images.parent / "bad.json", document)
    ref = import_coco(path, str(images), store=store, name="human")
    record = read_commit(open_store(ref.uri), "00000")
    assert record is not None
    assert [(bad.key, bad.reason) for bad in record.bad] == [
        ("bad.json images[7]", "bad_row"),
        ("bad.json annotations[3]", "bad_row"),
        ("bad.json annotations[4]", "bad_row"),
        ("gone", "missing_image"),
    ]
    assert ref.images == 7 and load_manifest(ref.uri).totals.samples == 11
    assert record.bad[-1].detail == f"{path}: images[8]: {images}/gone.jpg does not exist"
    for told in (
        f"{path}: images[7] lacks id or file_name",
        f"{path}: annotations[3] lacks image_id or caption",
        f"{path}: annotations[4] is about image 77, which has no entry",
        f"{path}: images[5]: caption of p_5.jpg is ' ' (empty_text)",
        f"{path}: images[8]: {images}/gone.jpg does not exist (missing_image)",
    ):
        assert f"of no use: {told}" in caplog.text
    good = [{"image": f"p_{at}.jpg", "caption": "good"} for at in range(3)]
    rows = json.dumps([good[0], {"image": "p_1.jpg"}, 3, *good[1:], {"image": "", "caption": "of nothing"}])
    (images.parent / "rows.json").write_text(rows)
    assert import_coco(str(images.parent / "rows.json"), str(images), store=store, name="rows").images == 3
    assert "rows.json: row 1 lacks image or caption" in caplog.text and "row 2 lacks" in caplog.text
    assert "row 5 lacks image" in caplog.text


def raw_karpathy(*splits: str) -> dict[str, Any]:
    """As dataset_coco.json has it."""

    def entry(at: int, split: str) -> dict[str, Any]:
        sentences = [{"raw": f"Caption {one} of {at}.", "tokens": ["caption"], "imgid": at} for one in range(2)]
        names = {"filename": f"p_{at}.jpg", "filepath": "images", "cocoid": 100 + at, "imgid": at}
        return {**names, "split": split, "sentences": sentences, "sentids": [1, 2]}

    return {"dataset": "coco", "images": [entry(at, split) for at, split in enumerate(splits)]}


def test_the_splits_of_a_raw_karpathy_file(world: tuple[Path, str, Store], caplog: pytest.LogCaptureFixture) -> None:
    images, _, store = world
    document = raw_karpathy("train", "restval", "val", "test", "train")
    document["images"].append({"filename": 7})
    path = write_json(images.parent / "dataset_coco.json", document)

    def keys(splits: str) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
        ref = import_coco(f"{path}{splits}", str(images.parent), store=store, name="human")
        return ref.digest, [(one.key, one.captions) for one in load_eval_set(ref)]

    assert keys("#val")[1] == [("p_2", ("Caption 0 of 2.", "Caption 1 of 2."))]
    assert [key for key, _ in keys("#train+restval")[1]] == ["p_0", "p_1", "p_4"]
    assert keys("#test")[0] != keys("#val")[0]
    assert f"{path}: images[5] lacks filename or sentences" in caplog.text
    several = r"several splits, train \(2\), restval \(1\), val \(1\), test \(1\): say which .*coco.json#train\+restval"
    for splits, message in (("", several), ("#dev", "has no split 'dev': it has train"), ("#", "several splits")):
        with pytest.raises(DataError, match=message):
            keys(splits)
    alone = write_json(images.parent / "alone#1.json", raw_karpathy("train", "train"))
    assert import_coco(alone, str(images.parent), store=store, name="alone").pairs == 4
    blip = write_json(images.parent / "blip.json", [{"image": "images/p_0.jpg", "caption": "x"}])
    with pytest.raises(DataError, match="has no splits to choose from"):
        import_coco(f"{blip}#train", str(images.parent), store=store, name="blip")


def test_missing_places_are_refused_before_any_work(world: tuple[Path, str, Store], tmp_path: Path) -> None:
    images, annotations, store = world
    with pytest.raises(DataError, match="nowhere.json is no file"):
        import_coco(str(tmp_path / "nowhere.json"), str(images), store=store, name="h")
    with pytest.raises(DataError, match="no image folder .*nowhere"):
        import_coco(annotations, str(tmp_path / "nowhere"), store=store, name="h")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has none of the images that .*captions.json names \('p_0.jpg'"):
        import_coco(annotations, str(tmp_path / "empty"), store=store, name="h")
    with pytest.raises(StorageError, match="pipe:"):
        import_coco(annotations, "pipe:cat /etc/passwd", store=store, name="h")
    with pytest.raises(ConfigError, match="at least 1"):
        import_coco(annotations, str(images), store=store, name="h", limit=0)
    assert list(store.list()) == []


def test_a_folder_with_few_of_the_images_is_refused_before_any_work(world: tuple[Path, str, Store]) -> None:
    images, annotations, store = world
    for number in range(4):
        (images / f"p_{number}.jpg").unlink()
    with pytest.raises(DataError, match="has only 3 of 7 of the images"):
        import_coco(annotations, str(images), store=store, name="h")
    assert list(store.list()) == []


def test_bad_images_are_skipped_counted_and_listed(world: tuple[Path, str, Store]) -> None:
    images, annotations, store = world
    (images / "p_0.jpg").write_bytes(b"<!DOCTYPE html>")
    (images / "p_2.jpg").unlink()
    (images / "p_5.jpg").write_bytes(bad_images()["cut"][0])
    ref = import_coco(annotations, str(images), store=store, name="h")
    totals = load_manifest(ref.uri).totals
    assert (totals.samples, totals.kept) == (7, 4)
    assert totals.failed == {"markup": 1, "missing_image": 1, "truncated": 1}
    commit = read_commit(open_store(ref.uri), "00000")
    assert commit is not None and [(bad.key, bad.reason) for bad in commit.bad] == [
        ("p_0", "markup"),
        ("p_2", "missing_image"),
        ("p_5", "truncated"),
    ]
    assert "p_2.jpg does not exist" in commit.bad[1].detail


def test_more_than_half_bad_is_an_error(world: tuple[Path, str, Store]) -> None:
    images, annotations, store = world
    for number in range(4):
        (images / f"p_{number}.jpg").write_bytes(b"GIF?")
    with pytest.raises(DataError, match=r"4 of 7 samples cannot be used \(not_an_image: 4\)"):
        import_coco(annotations, str(images), store=store, name="h")


def test_file_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 2)
    (tmp_path / "secret.jpg").write_bytes(encoded(photo(1)))
    names = ["p_0.jpg", "p_1.jpg", "../secret.jpg", str(tmp_path / "secret.jpg")]
    annotations = write_json(tmp_path / "c.json", [{"image": name, "caption": "x"} for name in names])
    ref = import_coco(annotations, str(images), store=open_store(str(tmp_path / "s")), name="h")
    assert load_manifest(ref.uri).totals.failed == {"unsafe_name": 2}


def test_captions_that_are_none_are_dropped_with_their_reason(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 3)
    texts: list[Any] = ["good", "", None, 5, "x" * (MAX_TEXT_BYTES + 1), "\ud800"]
    rows = [{"image": "p_0.jpg", "caption": texts}, {"image": "p_1.jpg", "caption": []}]
    annotations = write_json(tmp_path / "c.json", [*rows, {"image": "p_2.jpg", "caption": "  ok\n"}])
    ref = import_coco(annotations, str(images), store=open_store(str(tmp_path / "s")), name="h")
    totals = load_manifest(ref.uri).totals
    assert (totals.kept, totals.dropped, totals.kept_pairs, totals.dropped_pairs) == (2, 1, 2, 6)
    rows_read = read_candidates(shard_file(ref.uri, "00000", ".parquet"))
    reasons = ["", "empty_text", "missing_text", "missing_text", "text_too_long", "text_not_utf8", "missing_text", ""]
    assert [row.reason for row in rows_read] == reasons and rows_read[-1].text == "ok"


def test_from_s3_and_to_s3(world: tuple[Path, str, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, annotations, store = world
    local = import_coco(annotations, str(images), store=store, name="h")
    (tmp_path / "server").mkdir()
    with serve_s3(tmp_path / "server") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("components.common.storage.s3_client._clients", {})
        bucket = open_store(server.uri)
        bucket.upload(Path(annotations), "in/captions.json")
        for path in images.iterdir():
            bucket.upload(path, f"in/images/{path.name}")
        ref = import_coco(f"{server.uri}/in/captions.json", f"{server.uri}/in/images", store=bucket, name="h")
        assert ref.digest == local.digest and ref.uri.startswith("s3://")
        assert [one.key for one in load_eval_set(ref, tmp_path / "cache")] == [f"p_{i}" for i in range(7)]
        assert import_coco(f"{server.uri}/in/captions.json", f"{server.uri}/in/images", store=bucket, name="h") == ref
        assert verify(ref.uri).problems == ()
        with pytest.raises(DataError, match="has none of the images"):
            import_coco(f"{server.uri}/in/captions.json", f"{server.uri}/elsewhere", store=bucket, name="h")


@shared
@pytest.mark.shared
def test_real_photos_in_both_layouts(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    refs = [
        import_coco(str(SHARED / f"human/{kind}_val.json"), str(SHARED / "human/images"), store=store, name=kind)
        for kind in ("captions", "karpathy")
    ]
    assert [(ref.images, ref.pairs) for ref in refs] == [(500, 2500)] * 2
    one, two = (list(load_eval_set(ref)) for ref in refs)
    assert one == two
