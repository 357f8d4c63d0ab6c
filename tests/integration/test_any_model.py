"""CapFilt with captioners and scorers of other families than BLIP, over generated images."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capfilt import api
from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError, ModelError
from components.data.candidates import CandidateTable, stored_candidates
from components.data.manifest import Manifest, load_manifest
from components.data.scores import Column
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.tiny_transformers import CAPTIONERS, SCORERS
from tests.helpers.webshards import write_web

FAST: dict[str, Any] = {"decoding": {"max_length": 8}, "precision": "fp32", "batch_size": 5, "read_threads": 1}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_web(tmp_path_factory.mktemp("web"), shards=2, samples=12)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    captioner, filter = save_tiny_models(tmp_path_factory.mktemp("blip"))
    return captioner.uri, filter.uri


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    root = tmp_path_factory.mktemp("models")

    def saved(role: str, name: str) -> Path:
        folder = root / f"{role}-{name}"
        if not folder.is_dir():
            (CAPTIONERS if role == "captioner" else SCORERS)[name](folder)
        return folder

    return saved


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tables(result: CapfiltResult) -> tuple[Manifest, list[CandidateTable]]:
    manifest = load_manifest(result.dataset.uri)
    return manifest, [stored_candidates(result.dataset.uri, one.parquet) for one in manifest.shards]


def test_every_part_may_be_of_another_family(
    web: Path, blip: tuple[str, str], models: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """A captioner of another family, BLIP's filter, and two scorers beside it, in a rule."""
    settings = {**FAST, "keep": "itm >= 0 and clip > -1", "weigh": "1 + clip", "check_captions": False}
    made = api.regenerate(
        web=web,
        captioner=models("captioner", "git"),
        filter=blip[1],
        out=tmp_path / "out",
        scorers={"clip": models("scorer", "clip"), "sig": models("scorer", "siglip")},
        **settings,
    )
    manifest, found = tables(made)
    counts = manifest.totals
    assert counts.samples == 24 == counts.kept + counts.dropped + sum(counts.failed.values())
    rows = [row for table in found for row in table.rows()]
    assert {table.scores for table in found} == {(Column("clip", "cosine"), Column("sig", "probability"))}
    scored = [row for row in rows if row.others]
    assert len(scored) >= 24 and all(row.itm_probability is not None for row in scored)
    kept = [row for row in rows if row.kept]
    assert len(kept) == made.dataset.pairs and all(row.weight == round(1 + row.others["clip"].value, 6) for row in kept)
    assert manifest.config["decoding"]["method"] == "greedy" and manifest.config["decoding"]["prompt"] == ""
    assert {parent.role for parent in manifest.parents} == {"web", "captioner", "filter", "scorer:clip", "scorer:sig"}
    engines = json.loads((tmp_path / "out" / "plan.json").read_text())["engines"]
    assert engines["captioner"]["family"] == "git" and engines["scorer:sig"]["transformers"]

    again = api.recut(made.dataset.uri, out=tmp_path / "cut", keep="sig >= 0.5 or clip > 0.5 and words < 99")
    recut_rows = [row for table in tables(again)[1] for row in table.rows()]
    assert [row.others for row in recut_rows] == [row.others for row in rows]
    for row in recut_rows:
        accepted = bool(row.others) and (row.others["sig"].value >= 0.5 or row.others["clip"].value > 0.5)
        assert row.kept == accepted or row.reason == "duplicate"
    assert any(row.kept for row in recut_rows) and not all(row.kept for row in recut_rows)
    with pytest.raises(ConfigError, match="keep asks for dfn, and there are clip, clip_truncated, itc, itm, sig"):
        api.recut(made.dataset.uri, out=tmp_path / "other", keep="dfn > 0")
    with pytest.raises(ConfigError, match="sig was found for scorer 00000000, and here it is"):
        api.recut(made.dataset.uri, out=tmp_path / "other", keep="sig > 0", threshold_of={"sig": "0" * 8})


def pairs() -> list[Any]:
    """Every captioner, and every scorer with one of them; one pair is quick, the others are for those who have time."""
    captioners, scorers = ["blip", *sorted(CAPTIONERS)], ["siglip", "siglip2", "blip", "blip-2", "clip"]
    first = captioners.index("git")
    dealt = [(name, scorers[(at - first) % len(scorers)]) for at, name in enumerate(captioners)]
    return [pytest.param(*pair, marks=[] if pair[0] == "git" else pytest.mark.slow) for pair in dealt]


def one_and_two_workers(web: Path, captioner: Path | str, filter: Path | str, out: Path) -> Manifest:
    """The same bytes by one process and by two, and nothing lost."""
    settings = {**FAST, "decoding": {"method": "nucleus", "max_length": 8}, "captions_per_image": 2, "threshold": 0.4}
    settings["guard"] = {"max_top_caption_share": 1.0}  # random models say little
    for workers in (1, 2):
        place = out / str(workers) / "made"
        made = api.regenerate(web=web, captioner=captioner, filter=filter, out=place, workers=workers, **settings)
    one, two = (files(out / name / "made") for name in "12")
    assert one == two and len(one) > 6
    manifest, found = tables(made)
    counts, keys = manifest.totals, {row.key for table in found for row in table.rows()}
    assert counts.samples == counts.kept + counts.dropped + sum(counts.failed.values())
    assert len(keys) <= counts.samples and counts.samples - len(keys) <= sum(counts.failed.values())
    texts = [row for table in found for row in table.rows() if row.source == "synthetic"]
    assert len(texts) == 2 * (counts.kept + counts.dropped)
    return manifest


@pytest.fixture
def parts(blip: tuple[str, str], models: Callable[[str, str], Path]) -> Callable[[str, str], tuple[Any, Any]]:
    def found(captioner: str, scorer: str) -> tuple[Any, Any]:
        first = blip[0] if captioner == "blip" else models("captioner", captioner)
        return first, blip[1] if scorer == "blip" else models("scorer", scorer)

    return found


@pytest.mark.parametrize(("captioner", "scorer"), pairs())
def test_one_and_two_workers_write_the_same_bytes(
    captioner: str, scorer: str, web: Path, parts: Callable[[str, str], tuple[Any, Any]], tmp_path: Path
) -> None:
    assert one_and_two_workers(web, *parts(captioner, scorer), tmp_path).totals.samples == 24


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(("captioner", "scorer"), pairs())
def test_real_web_data(
    captioner: str,
    scorer: str,
    shared_data: Path,
    parts: Callable[[str, str], tuple[Any, Any]],
    tmp_path: Path,
) -> None:
    """The first 100 samples of three real shards."""
    web = tmp_path / "web"
    web.mkdir()
    for name in ("00000", "00002", "00004"):
        _first_samples(shared_data / "web" / f"{name}.tar", web / f"{name}.tar", 100)
    manifest = one_and_two_workers(web, *parts(captioner, scorer), tmp_path)
    assert manifest.totals.samples == 300
    print(f"{captioner}, {scorer}: {manifest.totals}")


def _first_samples(source: Path, target: Path, count: int) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        keys: set[str] = set()
        for member in old:
            if (key := member.name.partition(".")[0]) not in keys and len(keys) == count:
                return
            keys.add(key)
            new.addfile(member, old.extractfile(member))


def test_what_is_not_ok_is_recorded_and_never_kept(
    web: Path, blip: tuple[str, str], models: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Random models never end by themselves: their captions are cut, and only web texts are left."""
    made = api.regenerate(web=web, captioner=models("captioner", "git"), filter=blip[1], out=tmp_path / "o", **FAST)
    _, found = tables(made)
    captions = [row for table in found for row in table.rows() if row.source == "synthetic"]
    bad = [row for row in captions if row.outcome != "ok"]
    assert len(bad) >= 6 and {row.outcome for row in bad} & {"cut", "repeated"}
    assert all(not row.kept and row.rule and row.reason == row.outcome and row.itm_probability is None for row in bad)
    assert sum(made.metrics.get(f"capfilt/caption_{name}", 0) for name in ("cut", "repeated", "empty")) == len(bad)


def test_thresholds_belong_to_one_scorer(
    web: Path, blip: tuple[str, str], models: Callable[[str, str], Path], tmp_path: Path
) -> None:
    parts = {"web": web, "captioner": blip[0], "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match="0.5 is meant for BLIP's match probability, and clip is another"):
        api.regenerate(**parts, filter=models("scorer", "clip"), **FAST)
    with pytest.raises(ConfigError, match="the threshold of itm was found for scorer abcdef01, and here it is"):
        api.regenerate(**parts, filter=blip[1], threshold_of={"itm": "abcdef01"}, **FAST)
    with pytest.raises(ConfigError, match="two scorers give the score itc"):
        api.regenerate(**parts, filter=blip[1], scorers={"again": blip[1]}, **FAST)
    with pytest.raises(ConfigError, match="keep asks for siglip"):
        api.regenerate(**parts, filter=blip[1], keep="siglip > 0.1", **FAST)
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_any_filter_is_calibrated(
    name: str, blip: tuple[str, str], models: Callable[[str, str], Path], tmp_path: Path, web: Path
) -> None:
    """Human captions of some images, and the threshold that follows for this filter."""
    from tests.helpers.webshards import encoded, photo

    images, annotations = [], []
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(photo(number)))
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "caption": f"an image numbered {number} with a red dog"})
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    made = api.regenerate(
        web=web,
        captioner=blip[0],
        filter=models("scorer", name),
        out=tmp_path / "out",
        calibration=(tmp_path / "captions.json", tmp_path),
        target_precision=0.501,
        limit=2,
        **FAST,
    )
    used = load_manifest(made.dataset.uri).config
    assert used["threshold"] == made.metrics["calibration/threshold"] and "score" in used


def test_unknown_families_are_refused_with_those_that_are_known(tmp_path: Path, web: Path, blip: Any) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text('{"model_type": "moondream1", "auto_map": {"AutoModel": "run.Me"}}')
    (strange / "run.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="'moondream1', which is no captioner that is known.* blip, blip-2, florence2"):
        api.regenerate(web=web, captioner=strange, filter=blip[1], out=tmp_path / "out", **FAST)
    with pytest.raises(ModelError, match="'moondream1', which is no scorer that is known.* blip, blip-2, clip"):
        api.regenerate(web=web, captioner=blip[0], filter=strange, out=tmp_path / "out", **FAST)
