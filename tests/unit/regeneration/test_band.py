"""A cascade's decisions against those of a full pass, on texts and scores that are made up."""

import numpy as np
import pytest

from components.common.errors import ConfigError, GateError
from components.data.candidates import Candidate
from components.regeneration.band import (
    CascadeStats,
    cascade_stats,
    changed,
    check_tolerance,
    in_cascade,
    is_audited,
    kept_by,
    with_bands,
)
from components.regeneration.config import CapfiltConfig
from components.regeneration.finding import find_bands
from components.regeneration.policy import Policy, Text

POLICIES: tuple[Policy, ...] = ("keep_both", "replace", "best_of", "best_each", "fallback")


def settings(policy: Policy = "keep_both", **cascade: object) -> CapfiltConfig:
    return CapfiltConfig(policy=policy, cascade={"web": (0.3, 0.7), "synthetic": (0.2, 0.8), **cascade})


def made_up(count: int, noise: float, seed: int = 0) -> list[list[Text]]:
    """Images with a web text and a caption, whose probabilities go with their cosines but for noise."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(count):
        cosines = rng.uniform(0, 1, 2)
        said = np.clip(cosines + rng.normal(0, noise, 2), 0, 1)
        texts = [("web", f"web {number}"), ("synthetic", f"caption {number}")]
        images.append(
            [Text(source, text, float(p), float(s)) for (source, text), p, s in zip(texts, said, cosines, strict=True)]
        )
    return images


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_changed_is_what_the_two_keep_otherwise(policy: Policy) -> None:
    config = settings(policy)
    shares = []
    for texts in made_up(400, 0.3):
        whole, sparing = kept_by(texts, config), kept_by(in_cascade(texts, config), config)
        shares.append(sum(a != b for a, b in zip(whole, sparing, strict=True)) / 2)
        assert changed(texts, config) == shares[-1]
    assert 0 < sum(shares) < 100


def test_captions_are_left_out_where_a_web_text_passes_and_only_by_fallback() -> None:
    sure, open_ = Text("web", "a", 0.9, 0.9), Text("web", "a", 0.9, 0.5)
    caption = Text("synthetic", "b", 0.9, 0.5)
    for web, probability in ((sure, None), (open_, 0.9)):
        seen = in_cascade([web, caption], settings("fallback"))
        assert (seen[0].probability, seen[1].problem) == (probability, "not_written")
    refused = in_cascade([Text("web", "a", 0.9, 0.1), caption], settings("fallback"))
    assert refused[1] == caption
    assert in_cascade([sure, caption], settings("keep_both"))[1] == caption
    assert in_cascade([sure, caption], settings("best_of"))[0].probability == 0.9  # it is compared


def test_a_band_is_found_that_keeps_its_promise() -> None:
    """Tested on 1,000 images, and held against 6,000 others."""
    config = CapfiltConfig(policy="fallback", cascade={"tolerance": 0.01})
    found = find_bands(made_up(1500, 0.1), config)
    assert found.changed <= found.changed_at_most <= 0.01
    assert (found.sample, found.tested) == (1500, 1000)
    assert found.itm_saved > 0.4 and found.captions_saved > 0.4
    banded = with_bands(config, (found.web, found.synthetic))
    assert sum(changed(texts, banded) for texts in made_up(6000, 0.1, seed=1)) / 6000 < 0.01


def test_too_few_images_give_no_band() -> None:
    with pytest.raises(ConfigError, match="300 usable images are too few to be sure of 0.50%"):
        find_bands(made_up(300, 0.1), CapfiltConfig(cascade={}))


def test_images_are_audited_by_their_keys() -> None:
    config = settings(audit=0.25)
    audited = [is_audited(config, str(key), "digest") for key in range(2000)]
    assert 0.22 < np.mean(audited) < 0.28
    assert not any(is_audited(settings(audit=0.0), str(key), "digest") for key in range(100))
    assert all(is_audited(settings(audit=1.0), str(key), "digest") for key in range(100))


def test_rows_tell_what_was_spared() -> None:
    rows = [
        Candidate("1", "d", "web", "a", None, 0.9, True),
        Candidate("1", "d", "synthetic", "", None, None, False, "not_written"),
        Candidate("2", "d", "web", "", None, None, False, "empty_text"),
        Candidate("2", "d", "synthetic", "b", 0.6, 0.5, True),
        Candidate("3", "", "web", "c", None, None, False, "truncated"),
    ]
    found = cascade_stats(rows, settings("fallback", audit=0.0))
    assert found == CascadeStats(texts=3, itm=1, captions=2, written=1)
    assert found.figures()["cascade_captions_saved"] == 0.5
    assert "cascade_changed" not in found.figures()
    assert (found + found).figures()["cascade_itm_saved"] == pytest.approx(2 / 3)


def test_a_run_stops_only_where_it_is_clear() -> None:
    config = settings(tolerance=0.005)
    check_tolerance(CascadeStats(audited=100, changed=2), config, "here")
    check_tolerance(CascadeStats(), config, "here")
    with pytest.raises(GateError, match=r"changes 5.00% of the decisions, as 400 audited images say, and 0.50% are"):
        check_tolerance(CascadeStats(audited=400, changed=20), config, "here")
