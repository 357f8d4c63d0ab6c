"""Brace ranges and lists name the tars that webdataset expands them to, on folders and S3, or say what is wrong."""

import json
import logging
import shutil
from pathlib import Path

import braceexpand
import pytest

from components.common.errors import DataError
from components.common.storage import join_uri, open_store
from components.data.manifest import load_manifest
from components.data.pictures import tars_of
from components.data.web import import_web, list_tars
from components.data.web.listing import counted_samples, expected_samples
from components.data.web.named import is_named
from components.regeneration.plan import web_input
from tests.helpers.s3 import serve_s3
from tests.helpers.webshards import good_sample, tar_bytes, write_web


def uris(uri: str) -> list[str]:
    source, tars = list_tars(uri)
    return [join_uri(source.uri, tar.key) for tar in tars]


def write_tars(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes([(f"{number:04d}0", good_sample(number))]))
    return folder


@pytest.mark.parametrize(
    "pattern",
    [
        "w/{00000..00002}.tar",
        "w/{00002..00000}.tar",
        "w/0000{0..4..2}.tar",
        "w/{00001,00004}.tar",
        "{w/0000{0,1},v/{a..c..2}}.tar",
        "{w,v}/{00003,a}.tar",
    ],
)
def test_a_range_names_what_braceexpand_says(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tars(
        tmp_path,
        *(f"{sub}/{name}.tar" for sub in "wv" for name in ("00000", "00001", "00002", "00003", "00004", "a", "c")),
    )
    wanted = [str(tmp_path / name) for name in braceexpand.braceexpand(pattern)]
    assert len(wanted) > 1 and uris(str(tmp_path / pattern)) == wanted
    monkeypatch.chdir(tmp_path)
    assert uris(pattern) == wanted


def test_a_grown_range_keeps_the_names_and_its_tars_are_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web = write_web(tmp_path / "web", shards=4)
    store = open_store(str(tmp_path / "store"))
    first = import_web(f"{web}/{{00000..00001}}.tar", store=store, name="web")
    with caplog.at_level(logging.INFO):
        second = import_web(f"{web}/{{00000..00003}}.tar", store=store, name="web")
    assert "2 of 4 tars were known from" in caplog.text
    assert (first.images, second.images) == (10, 20)
    assert import_web(str(web), store=store, name="web") == second, "a range of all tars is the folder"


def test_what_was_made_of_a_range_or_list_finds_its_input_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = write_web(tmp_path / "web", shards=3)
    (web / "tars.txt").write_text("# two of three\n\n00002.tar\n  00000.tar\n")
    monkeypatch.chdir(web)
    for uri, wanted in (("0000{0,1}.tar", ["00000", "00001"]), ("tars.txt", ["00002", "00000"])):
        ref = import_web(uri, store=open_store(str(tmp_path / "store")), name="web")
        origin = load_manifest(ref.uri).origin
        monkeypatch.chdir(tmp_path)
        assert list(tars_of(origin)) == wanted == [entry.name for entry in load_manifest(ref.uri).shards]
        assert web_input(origin).uri == origin
        assert [shard.name for shard in web_input(origin).shards] == wanted
        monkeypatch.chdir(web)


def test_lists_hold_paths_uris_and_ranges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tars(tmp_path, "a/00000.tar", "a/00001.tar", "b/x y.tar", "b/z.tar")
    (tmp_path / "a" / "00000_stats.json").write_text(json.dumps({"successes": 7}))
    (tmp_path / "link.tar").symlink_to(tmp_path / "b" / "z.tar")
    lines = ["a/0000{0..1}.tar", f"file://{tmp_path}/b/x%20y.tar", str(tmp_path / "link.tar"), "a/00001.tar"]
    (tmp_path / "some.list").write_text("\ufeff" + "\r\n".join(lines))
    uri = str(tmp_path / "some.list")
    wanted = ["a/00000.tar", "a/00001.tar", "b/x y.tar", "link.tar"]
    assert uris(uri) == [str(tmp_path / name) for name in wanted]
    assert "some.list: line 4: " in caplog.text and "by some.list: line 1 already and counts once" in caplog.text
    source, tars = list_tars(uri)
    assert counted_samples(source, tars[0]) == 7 and not tars[1].counted
    assert expected_samples(*list_tars(uri)) == pytest.approx(28, rel=0.3)


def test_what_is_wrong_is_named_with_its_line(tmp_path: Path) -> None:
    write_tars(tmp_path, "a.tar")
    path = tmp_path / "tars.txt"

    def refused(*lines: str) -> str:
        path.write_text("\n".join(lines))
        with pytest.raises(DataError) as caught:
            list_tars(str(path))
        return str(caught.value)

    wrong = refused("a.tar", "a.tar.gz", "pipe:cat /etc/passwd", "https://x.org/a.tar", "{1..3.tar")
    for number, words in ((2, "is no .tar"), (3, "pipe:"), (4, "https://x.org"), (5, "braces do not match")):
        assert f"tars.txt: line {number}: " in wrong and words in wrong.splitlines()[number - 2]
    missing = refused("b.tar", "a.tar", "c{0..9}.tar")
    assert missing.startswith("11 of the 12 tars that are named are not there") and missing.endswith("and 6 more")
    assert f"tars.txt: line 1: there is no {tmp_path}/b.tar" in missing
    assert "names no tars" in refused("# nothing")
    assert "line 3: s3://bucket/x.tar does not lie in the same bucket" in refused(
        "a.tar", "/b.tar", "s3://bucket/x.tar"
    )
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        list_tars(str(path))
    with pytest.raises(DataError, match=r"there is no .*nowhere.txt"):
        list_tars(str(tmp_path / "nowhere.txt"))


def test_names_with_braces_that_are_there_are_no_ranges(tmp_path: Path) -> None:
    odd = write_web(tmp_path / "{0..3}", shards=1)
    assert not is_named(str(odd)) and uris(str(odd)) == [str(odd / "00000.tar")]
    folder = write_web(tmp_path / "x.txt", shards=1)
    assert not is_named(str(folder)) and len(uris(str(folder))) == 1


def test_a_range_may_be_longer_than_a_name(tmp_path: Path) -> None:
    names = [f"{number:030d}" for number in range(12)]
    write_tars(tmp_path, *(f"{name}.tar" for name in names))
    found = web_input(f"{tmp_path}/{{{','.join(names)}}}.tar")
    assert [shard.name for shard in found.shards] == names
    assert list(tars_of(found.uri)) == names


def test_ranges_and_lists_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        write_tars(tmp_path / "web", *(f"s-{number:05d}.tar" for number in range(12)), "other.tar")
        (tmp_path / "web" / "s-00003_stats.json").write_text(json.dumps({"successes": 1}))
        shutil.copytree(tmp_path / "web", server.folder / "capfilt-test" / "a" / "web")
        few, many = (f"{server.uri}/a/web/s-{{00000..{last}}}.tar" for last in ("00001", "00011"))
        assert uris(few) == list(braceexpand.braceexpand(few))
        assert uris(many) == list(braceexpand.braceexpand(many))
        assert [tar.key for tar in list_tars(many)[1] if tar.counted] == ["s-00003.tar"]
        with pytest.raises(DataError, match=r"1 of the 13 tars that are named are not there"):
            list_tars(many.replace("00011", "00012"))
        store = open_store(f"{server.uri}/store")
        ref = import_web(many, store=store, name="web")
        local = open_store(str(tmp_path / "local"))
        assert (
            ref.images == 12
            and import_web(many.replace(server.uri + "/a/web", str(tmp_path / "web")), store=local, name="web").images
            == 12
        )
        listed = "\n".join([f"{server.uri}/a/web/other.tar", "a/web/s-00000.tar"])
        open_store(server.uri).write("tars.txt", listed.encode())
        assert uris(f"{server.uri}/tars.txt") == [f"{server.uri}/a/web/{name}.tar" for name in ("other", "s-00000")]
        assert web_input(f"{server.uri}/tars.txt").uri == f"{server.uri}/tars.txt"
