"""A cascade over generated images with tiny, random BLIP models: what it spares, says of itself, and changes."""

from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from capfilt import api
from components.common.contracts import CapfiltResult
from components.common.errors import ConfigError, GateError
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import load_manifest
from components.data.versions.verify import verify
from components.inference.captioner import Captioner
from components.inference.filter import Filter
from components.model.blip import BlipFilter
from components.pages.browser.version import Version
from components.pages.browser.wording import fate
from components.regeneration.band import is_audited
from components.regeneration.config import CapfiltConfig
from components.regeneration.provenance import explain
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import bad_images, good_sample, tar_bytes, write_web

FAST: dict[str, Any] = {
    "decoding": {"max_length": 8},
    "precision": "fp32",
    "batch_size": 8,
    "read_threads": 1,
    "policy": "fallback",
    "threads": 1,
}
LOOSE = {"sample": 100, "tolerance": 0.1}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good shards and one of trouble."""
    folder = write_web(tmp_path_factory.mktemp("web"), shards=3, samples=40)
    bad = [(key, {**good_sample(7), "jpg": data}) for key, (data, _) in bad_images().items()]
    (folder / "00003.tar").write_bytes(tar_bytes([*bad, ("notext", {"jpg": good_sample(8)["jpg"]})]))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    captioner, filter = save_tiny_models(tmp_path_factory.mktemp("blip"))
    return {"captioner": captioner.uri, "filter": filter.uri}


@pytest.fixture(scope="module")
def plain(web: Path, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> CapfiltResult:
    return api.regenerate(web=web, **models, out=tmp_path_factory.mktemp("plain") / "o", **FAST)


@pytest.fixture(scope="module")
def bands(plain: CapfiltResult) -> dict[str, tuple[float, float]]:
    """Bands that leave about a third of the texts to ITM."""
    found = {}
    for source in ("web", "synthetic"):
        cosines = sorted(row.itc_similarity for row in rows(plain) if row.source == source and row.itc_similarity)
        found[source] = (cosines[len(cosines) // 3], cosines[2 * len(cosines) // 3])
    return found


def rows(result: CapfiltResult) -> list[Candidate]:
    manifest = load_manifest(result.dataset.uri)
    return [row for one in manifest.shards for row in stored_candidates(result.dataset.uri, one.parquet).rows()]


def by_image(result: CapfiltResult) -> dict[str, list[Candidate]]:
    return {key: list(group) for key, group in groupby(rows(result), key=lambda row: row.key)}


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Texts that ITM reads, images whose keys and values are made for it, and images that are captioned."""
    counts: Counter[str] = Counter()

    def count(owner: type, name: str, size: Callable[..., int]) -> None:
        whole = getattr(owner, name)

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[name] += size(*args)
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(BlipFilter, "match_logits", lambda ids, *_: len(ids))
    count(BlipFilter, "project_images", lambda tokens: len(tokens))
    count(Captioner, "write", lambda images, seeds: len(seeds))
    return counts


def test_what_is_spared_and_how_it_is_recorded(
    web: Path,
    models: dict[str, str],
    plain: CapfiltResult,
    bands: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = counted(monkeypatch)
    cascade = {**bands, "audit": 0.1, "tolerance": 0.49}
    made = api.regenerate(web=web, **models, out=tmp_path / "o", **FAST, cascade=cascade)
    config = CapfiltConfig(**FAST, cascade=cascade)
    whole, manifest = by_image(plain), load_manifest(made.dataset.uri)
    assert manifest.totals.samples == 127 == manifest.totals.kept + manifest.totals.dropped + 6
    assert verify(made.dataset.uri).problems == ()
    seen, spared = Counter[str](), Counter[str]()
    for key, texts in by_image(made).items():
        for row, full in zip(texts, whole[key], strict=True):
            low, high = bands[row.source]
            if is_audited(config, key, row.image_sha256):
                assert (row.text, row.kept) == (full.text, full.kept)
                assert row.itm_probability == pytest.approx(full.itm_probability, abs=2e-6)
                seen["itm"] += row.itm_probability is not None
                seen["captions"] += row.source == "synthetic"
            elif row.reason == "not_written":
                assert (row.text, row.itm_probability, row.itc_similarity) == ("", None, None)
                assert any(one.kept for one in texts if one.source == "web")
                spared["captions"] += 1
            elif row.itc_similarity is None:
                assert row.reason and not row.kept
            else:
                assert (row.text, row.itc_similarity) == (full.text, pytest.approx(full.itc_similarity, abs=2e-6))
                seen["captions"] += row.source == "synthetic"
                if low <= row.itc_similarity <= high:
                    assert row.itm_probability == pytest.approx(full.itm_probability, abs=2e-6)
                    assert row.kept == (row.itm_probability >= 0.5) or row.reason in ("duplicate", "not_needed")
                    seen["itm"] += 1
                else:
                    assert row.itm_probability is None
                    assert row.kept == (row.itc_similarity > high) or row.reason in ("duplicate", "not_needed")
                    assert row.reason == "below_band" or row.itc_similarity > high or row.reason == "duplicate"
                    spared["itm"] += 1
    assert min(seen["itm"], spared["itm"], seen["captions"], spared["captions"]) > 10
    figures = {name.removeprefix("capfilt/cascade_"): value for name, value in made.metrics.items()}
    assert figures["itm_passes"] == seen["itm"] == counts["match_logits"]
    assert figures["captions_written"] == seen["captions"] == counts["write"]
    assert figures["captions_saved"] == pytest.approx(spared["captions"] / 121)
    assert figures["itm_saved"] == pytest.approx(1 - seen["itm"] / (seen["itm"] + spared["itm"] + spared["captions"]))
    assert 0 <= figures["changed_low"] <= figures["changed"] <= figures["changed_high"] <= 1
    assert counts["project_images"] < 2 * 121

    kept = next(row for row in rows(made) if row.kept and row.itm_probability is None)
    told = explain(made.dataset.uri, kept.key)["candidates"]
    assert "ITC alone" in told[0]["cascade"] and told[0]["reason"] == "kept"
    assert "no caption was written" in told[1]["cascade"]
    version = Version(made.dataset.uri)
    words = {fate(version, row)[:40] for row in range(len(version))}
    assert not version.can_be_cut and version.threshold == 0.5
    for start in (
        "Kept: its cosine of",
        "Dropped, with a cosine of",
        "Dropped: no caption was written",
        "Kept: its match",
    ):
        assert any(one.startswith(start) for one in words), start


def test_without_a_cascade_the_work_is_what_it_was(
    web: Path, models: dict[str, str], plain: CapfiltResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every good image is captioned and encoded once, and every slot of texts goes through ITM at once."""
    counts = counted(monkeypatch)
    looks: Counter[str] = Counter()
    for name in ("look", "similarities", "probabilities"):
        monkeypatch.setattr(Filter, name, lambda *args, at=name: looks.update([at]))
    again = api.regenerate(web=web, **models, out=tmp_path / "o", **FAST)
    assert again.dataset.digest == plain.dataset.digest
    assert (counts["write"], counts["project_images"], counts["match_logits"]) == (
        121,
        121,
        2 * 120 + 1,
    )  # one image has no text
    assert not looks


def test_one_and_two_workers_and_a_second_start_write_the_same_bytes(
    web: Path, models: dict[str, str], tmp_path: Path
) -> None:
    made = [
        api.regenerate(web=web, **models, out=tmp_path / str(workers) / "o", workers=workers, cascade=LOOSE, **FAST)
        for workers in (1, 2)
    ]
    one, two = (files(tmp_path / name / "o") for name in "12")
    assert one == two and any(name.startswith("00003") for name in one)
    assert made[0].metrics["capfilt/cascade_itm_saved"] > 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "1" / "o").rglob("*") if path.is_file()}
    for lost in ("manifest.json", *(f"commits/{path.name}" for path in (tmp_path / "1/o/commits").glob("00001-*"))):
        (tmp_path / "1" / "o" / lost).unlink()
    again = api.regenerate(web=web, **models, out=tmp_path / "1" / "o", cascade=LOOSE, **FAST)
    assert again.dataset.digest == made[0].dataset.digest and files(tmp_path / "1" / "o") == one
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name.startswith("00000"))
    assert not list(tmp_path.glob("*/capfilt-*"))


def test_bands_that_change_too_much_stop_the_run(
    web: Path, models: dict[str, str], bands: dict[str, Any], tmp_path: Path
) -> None:
    wrong = {"web": (0.0, 0.0), "synthetic": (0.0, 0.0), "audit": 1.0}
    with pytest.raises(GateError, match=r"changes .* of the decisions, as \d+ audited images say, and 0.50% are"):
        api.regenerate(web=web, **models, out=tmp_path / "o", cascade=wrong, **FAST)


def test_what_was_left_out_is_not_asked_for_again(
    web: Path, models: dict[str, str], bands: dict[str, Any], tmp_path: Path
) -> None:
    cascade = {**bands, "audit": 0.0}
    made = api.regenerate(web=web, **models, out=tmp_path / "o", **FAST, cascade=cascade)
    uri = made.dataset.uri
    same = api.recut(uri, out=tmp_path / "same", policy="fallback", text="synthetic")
    assert [row.kept for row in rows(same)] == [row.kept for row in rows(made)]
    assert api.recut(same.dataset.uri, out=tmp_path / "twice", policy="fallback").dataset.pairs == made.dataset.pairs
    for wish, fault in (
        ({"threshold": 0.7, "policy": "fallback"}, "decided by ITC alone"),
        ({"keep": "itm > 0.2", "policy": "fallback"}, "decided by ITC alone"),
        ({"policy": "best_of"}, "decided by ITC alone"),
        ({"policy": "keep_both"}, "were never written"),
        ({"keep": "itc > 2", "policy": "fallback"}, "were never written"),
    ):
        with pytest.raises(ConfigError, match=fault):
            api.recut(uri, out=tmp_path / "never", **wish)
    assert not (tmp_path / "never" / "plan.json").exists()
    loose = api.recut(uri, out=tmp_path / "cosine", keep="itc > -1", policy="fallback")
    assert all(row.kept for row in rows(loose) if row.source == "web" and row.itc_similarity is not None)


def test_settings_that_decide_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match="coin decides otherwise"):
        CapfiltConfig(cascade={}, coin=0.5)
    with pytest.raises(ValueError, match="bands for web and for synthetic"):
        CapfiltConfig(cascade={"web": (0, 1)})
    with pytest.raises(ValueError, match="the lower one first"):
        CapfiltConfig(cascade={"web": (0.5, 0.1), "synthetic": (-1, 1)})


def test_too_small_a_sample_is_told(web: Path, models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few to be sure of 0.50% changed decisions: raise cascade.sample"):
        api.regenerate(web=web, **models, out=tmp_path / "o", cascade={"sample": 100}, **FAST)
