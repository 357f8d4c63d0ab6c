"""Purity, yield and the chosen threshold against sums written out by hand, text by text."""

import random
from fractions import Fraction

import pytest

from components.regeneration.purity import GRID, PurityCurve


def counted(right: list[float], wrong: list[float], threshold: float, bad: Fraction) -> tuple[Fraction, Fraction]:
    """Purity and yield in exact fractions, by counting a crowd of texts one by one."""
    passed = Fraction(sum(score >= threshold for score in right), len(right))
    leaked = Fraction(1 + sum(score >= threshold for score in wrong), 1 + len(wrong))
    return (1 - bad) * passed / ((1 - bad) * passed + bad * leaked), passed


def scores(rng: random.Random, count: int, ties: bool) -> list[float]:
    return [rng.randrange(6) / 5 if ties else rng.random() for _ in range(count)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("bad", [Fraction(1, 2), Fraction(1, 5), Fraction(9, 10)])
def test_figures_are_those_of_counting(ties: bool, bad: Fraction) -> None:
    rng = random.Random(f"{ties} {bad}")
    for _ in range(30):
        right, wrong = scores(rng, rng.randint(1, 20), ties), scores(rng, rng.randint(1, 30), ties)
        curve = PurityCurve(right, wrong, float(bad))
        for threshold in [0.0, 0.2, 0.5, *right, *wrong, 1.0]:
            point = curve.at(threshold)
            assert (point.purity, point.yield_share) == pytest.approx(
                tuple(map(float, counted(right, wrong, threshold, bad)))
            )
            assert point.threshold == threshold


@pytest.mark.parametrize("ties", [False, True])
def test_the_least_threshold_of_all_that_reach_the_target(ties: bool) -> None:
    rng = random.Random(f"least {ties}")
    found = 0
    for _ in range(200):
        right = [min(1.0, score + rng.choice([0.0, 0.2])) for score in scores(rng, rng.randint(1, 12), ties)]
        wrong = scores(rng, rng.randint(1, 12), ties)
        target = rng.choice([0.55, 0.6, 0.75, 0.9])
        curve, half = PurityCurve(right, wrong), Fraction(1, 2)
        everything = sorted({0.0, *right, *wrong})
        reaching = [one for one in everything if float(counted(right, wrong, one, half)[0]) >= target]
        chosen = curve.least(target)
        if reaching:
            assert chosen is not None
            assert chosen.threshold == reaching[0]
            assert chosen.purity >= target - 1e-12
            found += 1
        else:
            assert chosen is None
            assert curve.purest().purity < target
        best = max(everything, key=lambda one: (counted(right, wrong, one, half)[0], -one))
        assert curve.purest().threshold == best
    assert 20 < found < 180, "both judged must occur for this test to mean anything"


def test_a_filter_that_says_the_same_of_all_has_no_purity_to_give() -> None:
    curve = PurityCurve([0.7] * 10, [0.7] * 40, 0.3)
    assert [curve.at(at).purity for at in (0.0, 0.7)] == pytest.approx([0.7, 0.7])
    assert curve.at(0.71) == curve.at(1.0).model_copy(update={"threshold": 0.71})
    assert curve.at(0.71).yield_share == curve.at(0.71).purity == 0
    assert curve.least(0.71) is None
    assert curve.purest().threshold == 0


def test_a_perfect_filter_keeps_all_and_few_wrong_texts_cannot_prove_it_pure() -> None:
    right, wrong = [0.9, 0.8], [0.1] * 99
    chosen = PurityCurve(right, wrong).least(0.95)
    assert chosen is not None
    assert (chosen.threshold, chosen.yield_share) == (0.8, 1.0)
    assert chosen.purity == pytest.approx(100 / 101)
    assert PurityCurve(right, wrong[:9]).least(0.95) is None


def test_one_lucky_text_at_the_top_proves_nothing() -> None:
    """The naive precision of the highest score is 1 whenever it is a right text's, however bad the filter."""
    rng = random.Random(3)
    right, wrong = [rng.random() for _ in range(200)], [rng.random() for _ in range(200)]
    assert PurityCurve([*right, 1.0], wrong).least(0.9) is None


def test_more_wrong_texts_before_mean_less_purity_after() -> None:
    right, wrong = [0.2, 0.6, 0.9], [0.1, 0.3, 0.7]
    purities = [PurityCurve(right, wrong, bad).at(0.5).purity for bad in (0.1, 0.5, 0.9)]
    assert purities == sorted(purities, reverse=True)


def test_the_grid_ascends_from_0_to_1() -> None:
    assert list(GRID) == sorted(set(GRID))
    assert (GRID[0], GRID[-1]) == (0.0, 1.0)
    assert 0.5 in GRID
