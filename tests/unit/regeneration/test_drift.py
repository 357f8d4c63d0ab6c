"""What is told, and how loudly, when a filter judges otherwise than the one of the round before."""

import pytest

from components.common.contracts import Calibration, PurityPoint
from components.regeneration.drift import find_drift


def calibration(purity: float, yields: float, threshold: float = 0.5) -> Calibration:
    """Purity and yield up to 0.9 as given, above it something else."""
    curve = [PurityPoint(threshold=at, purity=purity, yield_share=yields) for at in (0.0, 0.5, 0.8)]
    high = PurityPoint(threshold=0.9, purity=0.99, yield_share=0.2)
    chosen = PurityPoint(threshold=threshold, purity=purity, yield_share=yields)
    return Calibration(
        filter="f", human="h", chosen=chosen, target=None, reached=True, curve=(*curve, high), images=9, positives=9,
        negatives=9, bad_share=0.5,
    )  # fmt: skip


def test_the_first_round_has_nothing_to_drift_from() -> None:
    assert find_drift(None, calibration(0.8, 0.9), 0.05) is None


@pytest.mark.parametrize(("purity", "yields"), [(0.80, 0.90), (0.84, 0.90), (0.80, 0.86)])
def test_small_changes_are_not_told(purity: float, yields: float) -> None:
    assert find_drift(calibration(0.8, 0.9), calibration(purity, yields), 0.05) is None


@pytest.mark.parametrize(
    ("purity", "yields", "worse", "words"),
    [
        (0.70, 0.90, True, "lets more wrong texts through"),
        (0.70, 0.99, True, "lets more wrong texts through"),
        (0.90, 0.70, True, "stricter and loses right texts"),
        (0.88, 0.96, False, "become better"),
        (0.80, 0.97, False, "become better"),
    ],
)
def test_what_it_means(purity: float, yields: float, worse: bool, words: str) -> None:
    drift = find_drift(calibration(0.8, 0.9), calibration(purity, yields), 0.05)
    assert drift is not None
    assert drift.worse is worse
    assert words in drift.text
    assert f"purity went from 80.0 % to {purity * 100:.1f} %" in drift.text
    assert f"yield went from 90.0 % to {yields * 100:.1f} %" in drift.text


def test_a_threshold_that_moved_along_hides_nothing() -> None:
    """Both filters are judged at the old threshold, between two kept points too."""
    before, after = calibration(0.8, 0.9, threshold=0.83), calibration(0.6, 0.9, threshold=0.99)
    drift = find_drift(before, after, 0.05)
    assert drift is not None
    assert "from 80.0 % to 60.0 %" in drift.text
