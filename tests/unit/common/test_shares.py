import pytest
from scipy.stats import beta

from components.common.shares import at_least, at_most, share_interval


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 598), (1, 10), (2, 1500), (250, 500), (499, 500), (7, 7)])
def test_intervals_are_those_of_clopper_and_pearson(hits: int, trials: int) -> None:
    low = beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    found = share_interval(hits, trials)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_a_part_of_a_hit_counts_for_a_whole_one_where_that_is_the_safer() -> None:
    assert at_most(1.5, 100) == at_most(2, 100)
    assert at_least(1.5, 100) == at_least(1, 100)


def test_of_nothing_nothing_is_known() -> None:
    assert (share_interval(0, 0).low, share_interval(0, 0).high) == (0.0, 1.0)
