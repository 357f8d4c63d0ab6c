"""img2dataset shards used in place: good ones, every kind of trouble, S3, and changes behind our back."""

import json
import os
import shutil
from pathlib import Path

import pytest

from components.common.errors import ConfigError, DataError, StorageError
from components.common.storage import Store, open_store, sha256_file, sha256_hex
from components.data.candidates import read_candidates
from components.data.manifest import file_uri, load_manifest, read_commit
from components.data.versions.verify import verify
from components.data.views import load_eval_set
from components.data.web import import_web, list_tars
from components.data.web.listing import expected_samples
from tests.helpers.datasets import commit_file, shard_file
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import bad_images, good_sample, odd_images, tar_bytes, write_web

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def write(folder: Path, name: str, samples: list[tuple[str, dict[str, bytes]]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(tar_bytes(samples))
    return folder


def test_shards_are_used_in_place(tmp_path: Path, store: Store) -> None:
    web = write_web(tmp_path / "web")
    (web / "00000.parquet").write_bytes(b"img2dataset's own, not needed")
    done: list[int] = []
    ref = import_web(str(web), store=store, name="web", progress=done.append)
    assert (ref.images, ref.pairs, sum(done)) == (15, 15, 15)
    manifest = load_manifest(ref.uri)
    tars = sorted(web.glob("*.tar"))
    assert [entry.name for entry in manifest.shards] == ["00000", "00001", "00002"]
    assert [entry.tar.uri for entry in manifest.shards] == [str(tar) for tar in tars]
    assert [entry.tar.sha256 for entry in manifest.shards] == [sha256_file(tar) for tar in tars]
    assert not list(Path(ref.uri).rglob("*.tar"))
    rows = read_candidates(shard_file(ref.uri, "00001", ".parquet"))
    assert (rows[0].key, rows[0].source, rows[0].text) == ("000010000", "web", "an image numbered 100")
    assert rows[0].image_sha256 == sha256_hex(good_sample(100)["jpg"]) and rows[0].itm_probability is None
    assert verify(ref.uri).problems == ()
    assert load_eval_set(ref)[5].image == good_sample(100)["jpg"]


def test_how_many_samples_will_come(tmp_path: Path) -> None:
    web = str(write_web(tmp_path / "web", shards=3, samples=5))
    assert expected_samples(*list_tars(web)) is None
    assert expected_samples(*list_tars(web), limit=7) == 7
    (tmp_path / "web" / "00000_stats.json").write_text(json.dumps({"successes": 5}))
    assert expected_samples(*list_tars(web)) == pytest.approx(15, rel=0.2)
    assert expected_samples(*list_tars(web), limit=7) == 7


@pytest.mark.parametrize("name", ["a/../b", "b c", "", "..", "-x"])
def test_a_name_that_leaves_its_folder_is_refused(name: str, tmp_path: Path, store: Store) -> None:
    with pytest.raises(ConfigError, match="no name for a dataset"):
        import_web(str(write_web(tmp_path / "web")), store=store, name=name)
    assert list(store.list()) == []


def test_found_done_the_same_elsewhere_and_with_any_number_of_threads(tmp_path: Path, store: Store) -> None:
    web = write_web(tmp_path / "web")
    ref = import_web(str(web), store=store, name="web", threads=1)
    assert import_web(str(web), store=store, name="web") == ref
    shutil.copytree(web, tmp_path / "copy")
    again = import_web(str(tmp_path / "copy"), store=open_store(str(tmp_path / "other")), name="web", threads=4)
    assert again.digest == ref.digest and again.uri != ref.uri
    one = import_web(str(web / "00001.tar"), store=store, name="one")
    assert (one.images, load_manifest(one.uri).origin) == (5, str(web))


@pytest.mark.parametrize(("limit", "shards"), [(1, 1), (5, 1), (7, 2), (99, 3)])
def test_limit_counts_samples(tmp_path: Path, store: Store, limit: int, shards: int) -> None:
    ref = import_web(str(write_web(tmp_path / "web")), store=store, name="web", limit=limit)
    manifest = load_manifest(ref.uri)
    assert (ref.images, len(manifest.shards)) == (min(limit, 15), shards)
    assert len(load_eval_set(ref)) == ref.images and verify(ref.uri).problems == ()


def test_nothing_to_import_is_an_error_with_its_remedy(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError, match="is no folder; give the folder with img2dataset"):
        import_web(str(tmp_path / "nowhere"), store=store, name="web")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no .tar: give the folder that img2dataset wrote"):
        import_web(str(tmp_path / "empty"), store=store, name="web")
    with pytest.raises(DataError, match="x.tar does not exist"):
        import_web(str(tmp_path / "x.tar"), store=store, name="web")
    with pytest.raises(StorageError, match="pipe:"):
        import_web("pipe:cat 00000.tar", store=store, name="web")
    with pytest.raises(ConfigError, match="at least 1"):
        import_web(str(write_web(tmp_path / "inner")), store=store, name="web", limit=0)
    with pytest.raises(DataError, match="none of its 1 tars can be read: .*void/00000.tar is an empty tar"):
        import_web(str(write(tmp_path / "void", "00000.tar", [])), store=store, name="web")
    assert not [info for info in store.list() if info.key.endswith("manifest.json")]


def test_pictures_good_odd_and_bad(tmp_path: Path, store: Store) -> None:
    samples = [(f"good{i}", good_sample(i)) for i in range(4)]
    samples += [(key, {"jpg": data, "txt": b"odd"}) for key, data in odd_images().items()]
    samples += [(key, {"jpg": data, "txt": b"bad"}) for key, (data, _) in bad_images().items()]
    samples += [("none", {"txt": b"no image"}), ("p.1", {"jpg": b"1"}), ("p.2", {"jpg": b"2"})]
    ref = import_web(str(write(tmp_path / "web", "00000.tar", samples)), store=store, name="web")
    commit = read_commit(open_store(ref.uri), "00000")
    assert commit is not None and ref.images == 4 + len(odd_images())
    expected = {key: reason for key, (_, reason) in bad_images().items()} | {
        "none": "no_image",
        "p": "several_images",
    }
    assert {bad.key: bad.reason for bad in commit.bad} == expected
    assert "keys must not contain dots" in commit.bad[-1].detail and "text" in commit.bad[2].key
    assert commit.counts.samples == commit.counts.kept + sum(commit.counts.failed.values())


def test_a_bad_text_drops_the_caption_and_keeps_the_picture_for_capfilt(tmp_path: Path, store: Store) -> None:
    jpg = good_sample(1)["jpg"]
    texts = {"a": b"good", "b": b"caf\xe9", "c": b"", "d": b"x" * 100_000}
    samples = [(key, {"jpg": jpg, "txt": text}) for key, text in texts.items()] + [("e", {"jpg": jpg})]
    ref = import_web(str(write(tmp_path / "web", "00000.tar", samples)), store=store, name="web")
    totals = load_manifest(ref.uri).totals
    assert (totals.kept, totals.dropped, totals.failed, totals.kept_pairs, totals.dropped_pairs) == (1, 4, {}, 1, 4)
    rows = read_candidates(shard_file(ref.uri, "00000", ".parquet"))
    reasons = ["", "text_not_utf8", "empty_text", "text_too_long", "missing_text"]
    assert [(row.key, row.reason, row.kept) for row in rows] == list(
        zip("abcde", reasons, [True, False, False, False, False], strict=True)
    )
    assert [row.text for row in rows] == ["good", "caf\ufffd", "", "x" * 200, ""], "the beginning of what was found"
    assert all(row.image_sha256 == sha256_hex(jpg) for row in rows)


def test_what_is_of_no_use_is_told_by_tar_and_member(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [
        ("a", {"jpg": b"<html>", "txt": b"x"}),
        ("b", {"jpg": good_sample(1)["jpg"], "txt": b""}),
        ("c", good_sample(2)),
    ]
    more = [(f"d{at}", {"txt": b"no image"}) for at in range(12)]
    good = [(f"e{at}", good_sample(at)) for at in range(14)]
    web = write(tmp_path / "web", "00000.tar", [*bad, bad[-1], *more, *good])
    ref = import_web(str(web), store=store, name="web")
    told = [one.message for one in caplog.records if "of no use" in one.message]
    assert told[0].startswith(f"of no use: {web}/00000.tar: a: markup: ") and told[0].endswith(" (markup)")
    assert told[1] == f"of no use: {web}/00000.tar: b: text is '' (empty_text)"
    assert f"{web}/00000.tar: c: at byte" in told[2] and told[2].endswith("(duplicate_key)")
    assert len(told) == 11 and "`capfilt dataset failed` lists all" in told[-1]
    record = read_commit(open_store(ref.uri), "00000")
    assert record is not None and len(record.bad) == 14


def test_duplicates_within_and_across_shards(tmp_path: Path, store: Store) -> None:
    write(tmp_path / "web", "00000.tar", [(key, good_sample(i)) for i, key in enumerate("abca")])
    write(tmp_path / "web", "00001.tar", [(key, good_sample(9 + i)) for i, key in enumerate("bde")])
    ref = import_web(str(tmp_path / "web"), store=store, name="web")
    commits = [read_commit(open_store(ref.uri), name) for name in ("00000", "00001")]
    assert [[(bad.key, bad.reason) for bad in commit.bad] for commit in commits if commit] == [
        [("a", "duplicate_key")],
        [("b", "duplicate_key")],
    ]
    assert [one.key for one in load_eval_set(ref)] == list("abcde")
    assert load_eval_set(ref)[0].image == good_sample(0)["jpg"]
    # after an interruption the first shard's keys are still known
    shutil.rmtree(tmp_path / "store/datasets/web")
    other = import_web(str(tmp_path / "web"), store=store, name="web")
    for path in (commit_file(other.uri, "00001"), Path(other.uri, "manifest.json")):
        path.unlink()
    assert import_web(str(tmp_path / "web"), store=store, name="web").digest == other.digest == ref.digest


def test_a_cut_tar_gives_its_whole_samples_and_counts_the_rest(tmp_path: Path, store: Store) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=5)
    tar = (web / "00001.tar").read_bytes()
    at = tar.index(b"000010003.jpg") // 512 * 512
    (web / "00001.tar").write_bytes(tar[:at])
    ref = import_web(str(web), store=store, name="web")
    commit = read_commit(open_store(ref.uri), "00001")
    assert commit is not None and (commit.counts.kept, commit.counts.failed) == (2, {"broken_shard": 1})
    assert f"broken at byte {at}" in commit.bad[0].detail and commit.bad[0].key == f"00001.tar@{at}"
    assert len(load_eval_set(ref)) == 7 and verify(ref.uri).problems == ()
    (web / "00001_stats.json").write_text(json.dumps({"count": 6, "successes": 5}))
    again = import_web(str(web), store=open_store(str(tmp_path / "again")), name="web")
    assert load_manifest(again.uri).totals.failed == {"broken_shard": 3}


def test_shards_that_are_web_pages_are_refused(tmp_path: Path, store: Store) -> None:
    web = write_web(tmp_path / "web", shards=1, samples=1)
    for name in ("00001.tar", "00002.tar"):
        (web / name).write_bytes(b"<!DOCTYPE html>" + b" " * 1000)
    with pytest.raises(DataError, match=r"2 of 3 samples cannot be used \(broken_shard: 2\)"):
        import_web(str(web), store=store, name="web")


def test_a_tar_that_changes_behind_us_is_noticed(tmp_path: Path, store: Store) -> None:
    web = write_web(tmp_path / "web")
    ref = import_web(str(web), store=store, name="web")
    path = web / "00001.tar"
    data = path.read_bytes()
    os.utime(path, (1, 1))  # touched but the same
    assert import_web(str(web), store=store, name="web") == ref
    middle = data.index(b"\xff\xd8\xff") + 300
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(DataError, match="00001.tar changed since it was imported"):
        import_web(str(web), store=store, name="web")
    with pytest.raises(DataError, match="image '000010000' changed since it was imported"):
        load_eval_set(ref)
    path.write_bytes(data[:-512])
    with pytest.raises(DataError, match="when imported: it changed"):
        load_eval_set(ref)
    assert import_web(str(web), store=store, name="web").digest != ref.digest
    path.unlink()
    with pytest.raises(DataError, match="is gone"):
        load_eval_set(ref)


def test_any_tar_name_will_do_and_subfolders_too(tmp_path: Path, store: Store) -> None:
    write(tmp_path / "web", "cc12m-train-0001.tar", [("a", good_sample(1))])
    write(tmp_path / "web", "part 1.v2.tar", [("b", good_sample(2))])
    write(tmp_path / "web/more", "cc12m-train-0001.tar", [("c", good_sample(3))])
    ref = import_web(str(tmp_path / "web"), store=store, name="web")
    names = [entry.name for entry in load_manifest(ref.uri).shards]
    assert [name[: len(name) - 8] for name in names] == ["cc12m-tr", "more-cc12m-train-0001-", "part-1-v2-"]
    write(tmp_path / "web", "a.tar", [("d", good_sample(4))])
    more = import_web(str(tmp_path / "web"), store=store, name="web")
    assert [entry.name for entry in load_manifest(more.uri).shards] == ["a", *names], "one more renames none"
    assert [one.key for one in load_eval_set(more)] == list("dacb")


def test_a_key_counts_for_its_first_sample_whatever_became_of_it(tmp_path: Path, store: Store) -> None:
    """A bad image in an earlier shard, a bad one in the same shard: and the same after an interruption."""
    good, bad = good_sample(1), good_sample(2) | {"jpg": b"no image"}
    write(tmp_path / "web", "00000.tar", [("a", bad), ("b", bad), ("c", good), ("x", good), ("y", good)])
    write(tmp_path / "web", "00001.tar", [("a", good), ("c", good), ("z", good)])
    write(tmp_path / "web", "00002.tar", [("b", good), ("w", good), ("v", good)])
    ref = import_web(str(tmp_path / "web"), store=store, name="web")
    assert [entry.counts.failed for entry in load_manifest(ref.uri).shards] == [
        {"not_an_image": 2},
        {"duplicate_key": 2},
        {"duplicate_key": 1},
    ]
    for name in ("commits/00001.json", "commits/00002.json", "manifest.json"):
        open_store(ref.uri).delete(name)
    assert import_web(str(tmp_path / "web"), store=store, name="web").digest == ref.digest


def test_on_s3(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    web = write_web(tmp_path / "web")
    local = import_web(str(web), store=store, name="web")
    (tmp_path / "server").mkdir()
    with serve_s3(tmp_path / "server") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("components.common.storage.s3_client._clients", {})
        bucket = open_store(server.uri)
        for path in web.iterdir():
            bucket.upload(path, f"web/{path.name}")
        ref = import_web(f"{server.uri}/web", store=bucket, name="web")
        assert ref.digest == local.digest
        tar = load_manifest(ref.uri).shards[2].tar
        assert tar.uri == "../../../web/00002.tar" and file_uri(ref.uri, tar) == f"{server.uri}/web/00002.tar"
        assert import_web(f"{server.uri}/web/", store=bucket, name="web") == ref
        assert len(load_eval_set(ref, tmp_path / "cache")) == 15
        assert len([path for path in (tmp_path / "cache").iterdir() if len(path.name) == 64]) == 3
        with pytest.raises(DataError, match="holds no .tar"):
            import_web(f"{server.uri}/elsewhere", store=bucket, name="web")


@shared
@pytest.mark.shared
def test_real_shards(tmp_path: Path, store: Store) -> None:
    ref = import_web(str(SHARED / "web"), store=store, name="web")
    totals = load_manifest(ref.uri).totals
    assert totals.samples == 6060 == totals.kept + totals.dropped + sum(totals.failed.values())
    assert ref.images == 6060
