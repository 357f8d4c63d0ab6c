import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.common.contracts import DatasetRef, ModelRef
from components.common.errors import DataError
from components.common.storage import s3_client
from components.regeneration.config import CapfiltConfig
from components.regeneration.plan import Plan, web_input
from tests.helpers.s3 import BUCKET, serve_s3
from tests.helpers.webshards import good_sample, tar_bytes, write_web

CAPTIONER = ModelRef(role="captioner", uri="/models/c", digest="c" * 64)
FILTER = ModelRef(role="filter", uri="/models/f", digest="f" * 64)


def fingerprint(folder: Path, **settings: object) -> str:
    return Plan(web_input(str(folder)), CAPTIONER, FILTER, CapfiltConfig(**settings)).fingerprint


def test_a_copy_elsewhere_is_the_same_input(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web")
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(copied / "00001.tar", (1, 1))
    assert fingerprint(folder) == fingerprint(copied)


def test_the_fingerprint_depends_on_what_changes_the_output_alone(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web")
    base = fingerprint(folder)
    for same in (
        {"workers": 4},
        {"batch_size": 7},
        {"read_threads": 9},
        {"engine": "ray"},
        {"retries": 9},
        {"threads": 1},
    ):
        assert fingerprint(folder, **same) == base, same
    others = [
        {"threshold": 0.6},
        {"policy": "replace"},
        {"decoding": {"top_p": 0.8}},
        {"seed": 1},
        {"captions_per_image": 2},
        {"coin": 0.5},
        {"position_zero": "cls"},
        {"image_size": 64},
    ]
    changed = [fingerprint(folder, **settings) for settings in others]
    assert len({base, *changed}) == len(others) + 1
    (folder / "00000.tar").write_bytes((folder / "00001.tar").read_bytes())
    assert fingerprint(folder) != base


def test_names_are_the_tars_own_and_one_tar_is_an_input_too(tmp_path: Path) -> None:
    write_web(tmp_path / "web", shards=2)
    assert [shard.name for shard in web_input(str(tmp_path / "web")).shards] == ["00000", "00001"]
    one = web_input(str(tmp_path / "web" / "00001.tar"))
    assert [shard.name for shard in one.shards] == ["00001"]
    assert web_input(one.uri) == one, "what a dataset was made from is found again by its URI"
    write_web(tmp_path / "nested" / "a", shards=1)
    write_web(tmp_path / "nested" / "b", shards=1)
    names = [shard.name for shard in web_input(str(tmp_path / "nested")).shards]
    assert [name[:8] for name in names] == ["a-00000-", "b-00000-"]


def test_keys_of_an_earlier_shard_are_marked_the_same_in_every_process(tmp_path: Path) -> None:
    for number, keys in enumerate(("abc", "bxa", "yxc")):
        samples = [(key, good_sample(number)) for key in keys]
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(samples))
    assert [sorted(shard.repeated) for shard in web_input(str(tmp_path)).shards] == [[], ["a", "b"], ["c", "x"]]
    assert [sorted(shard.repeated) for shard in web_input(str(tmp_path), 5).shards] == [[], ["b"]]


def test_keys_in_tars_on_s3_are_known_by_the_tables_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3_client, "_clients", {})
        folder = server.folder / BUCKET / "web"
        folder.mkdir()
        for number, keys in enumerate(("abc", "bxa", "yxc", "ab", "xy")):
            (folder / f"{number}.tar").write_bytes(tar_bytes([(key, good_sample(number)) for key in keys]))
            states = ["success"] * len(keys) + ["failed_to_download"]  # z is in no tar
            pq.write_table(pa.table({"key": [*keys, "z"], "status": states}), folder / f"{number}.parquet")
        (folder / "3.parquet").write_bytes(b"none of img2dataset")
        (folder / "4_stats.json").write_text('{"successes": 3}')  # the table has two
        there, here = web_input(f"{server.uri}/web").shards, web_input(str(folder)).shards
        assert [sorted(shard.repeated) for shard in there] == [[], ["a", "b"], ["c", "x"], [], []]
        assert [shard.repeated for shard in here][:3] == [shard.repeated for shard in there][:3]
        assert "web/3.parquet is no table of img2dataset" in caplog.text


def test_statistics_beside_a_tar_tell_how_many_samples_it_should_have(tmp_path: Path) -> None:
    write_web(tmp_path, shards=3)
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 9, "successes": 7}))
    (tmp_path / "00001_stats.json").write_text("not json")
    found = web_input(str(tmp_path))
    assert [shard.expected for shard in found.shards] == [7, None, None]
    assert found.samples is None  # and so no time left can be told
    for shard in ("00000", "00001", "00002"):
        (tmp_path / f"{shard}_stats.json").write_text(json.dumps({"successes": 5}))
    assert web_input(str(tmp_path)).samples == 15
    assert web_input(str(tmp_path), 7).samples == 7


@pytest.mark.parametrize(("limit", "expected"), [(1, [1]), (5, [None]), (7, [None, 2]), (99, [None, None, None])])
def test_a_limit_takes_samples_from_the_front(tmp_path: Path, limit: int, expected: list[int | None]) -> None:
    folder = write_web(tmp_path / "web", shards=3, samples=5)
    assert [shard.take for shard in web_input(str(folder), limit).shards] == expected


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no .tar"):
        web_input(str(tmp_path))
    with pytest.raises(DataError, match="is no folder"):
        web_input(str(tmp_path / "missing"))
    (tmp_path / "00000.tar").write_bytes(b"\x1f\x8b\x08" + bytes(3000))
    with pytest.raises(
        DataError, match="none of its 1 tars can be read: .*00000.tar is broken at byte 0: it is gzip data"
    ):
        web_input(str(tmp_path))


def test_another_version_than_the_expected_is_refused(tmp_path: Path) -> None:
    folder = write_web(tmp_path / "web")
    with pytest.raises(DataError, match="not the expected"):
        web_input(DatasetRef(name="web", uri=str(folder), digest="0" * 64, images=1, pairs=1))
