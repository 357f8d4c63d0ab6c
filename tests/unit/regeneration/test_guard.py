import pytest

from components.common.errors import GateError
from components.regeneration.guard import CaptionStats, CaptionTotals, GuardConfig, caption_stats, check_collapse


def test_statistics_by_hand() -> None:
    stats = caption_stats(["a red ball", "a red ball", "a cat"])
    assert (stats.captions, stats.words, stats.different_words) == (3, 8, 4)
    assert (stats.pairs, stats.different_pairs) == (5, 3)
    assert stats.top == (("a red ball", 2), ("a cat", 1))
    assert stats.distinct_1 == 0.5
    assert stats.distinct_2 == 0.6
    assert stats.top_share == pytest.approx(2 / 3)
    assert stats.mean_words == pytest.approx(8 / 3)


def test_no_captions_are_no_collapse() -> None:
    stats = caption_stats([])
    assert (stats.distinct_1, stats.distinct_2, stats.top_share, stats.mean_words) == (0, 0, 0, 0)
    check_collapse(stats, GuardConfig(min_captions=1), "shard 0")


def test_shards_add_up_in_any_order() -> None:
    parts = [caption_stats(["a b", "a b"]), caption_stats(["c d", "a b"]), caption_stats([])]
    total = added(parts)
    assert total == added(parts[::-1])
    assert total.captions == 4
    assert total.top[0] == ("a b", 3)
    assert added([]) == CaptionStats()


def added(parts: list[CaptionStats], remembered: int = 1000) -> CaptionStats:
    totals = CaptionTotals(remembered)
    for part in parts:
        totals.add(part)
    return totals.stats()


def test_a_frequent_caption_is_found_among_more_rare_ones_than_are_remembered() -> None:
    parts = [caption_stats([f"rare {shard} {n}" for n in range(20)] + ["often"] * 2) for shard in range(50)]
    total = added(parts, remembered=100)
    assert total.top == (("often", 100),)
    assert total.captions == 50 * 22


@pytest.mark.parametrize(
    ("limits", "captions", "expected"),
    [
        ({"max_top_caption_share": 0.5}, ["a cat"] * 6 + ["b"] * 4, "60% of 10 captions are 'a cat'"),
        ({"min_distinct_2": 0.5}, ["a big cat"] * 5 + ["a big dog"] * 5, "distinct word pairs 0.150"),
        ({"min_mean_words": 2, "max_top_caption_share": 1}, ["cat"] * 10, "mean length 1.0"),
    ],
)
def test_collapse_stops_with_the_figures(limits: dict[str, float], captions: list[str], expected: str) -> None:
    stats = caption_stats(captions)
    with pytest.raises(GateError, match=expected) as caught:
        check_collapse(stats, GuardConfig(min_captions=10, **limits), "shard 00003")
    assert "shard 00003" in str(caught.value)
    check_collapse(stats, GuardConfig(min_captions=11, **limits), "shard 00003")


def test_varied_captions_pass() -> None:
    check_collapse(caption_stats(f"an image number {n}" for n in range(200)), GuardConfig(), "shard 0")
