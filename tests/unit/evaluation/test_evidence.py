"""Only what is more than noise is promoted, and no gain pays for a loss."""

import math
from typing import Any

import pytest

from components.evaluation.evidence import EvidenceConfig, weigh
from components.evaluation.intervals import Comparison, Interval


def of(metric: str, difference: float, half: float, before: float = 1.0) -> Comparison:
    """A metric that changes by `difference`, give or take `half`."""
    low, high = difference - half, difference + half
    return Comparison(
        metric=metric,
        before=before,
        after=before + difference,
        difference=difference,
        interval=Interval(low=low, high=high),
        verdict="clear" if low > 0 or high < 0 else "within noise",
    )


REAL, NOISE = of("cider", 0.20, 0.05), of("recall", 0.01, 0.05)


@pytest.mark.parametrize(
    ("comparisons", "options", "promote", "told"),
    [
        ([REAL, NOISE], {}, True, "better beyond noise: cider"),
        ([NOISE, of("cider", 0.30, 0.31)], {}, False, "better beyond noise: nothing"),
        ([of("cider", 0.0, 0.0)], {}, False, "better beyond noise: nothing"),
        ([REAL, of("recall", -0.01, 0.005)], {}, False, "recall is worse beyond noise"),
        ([of("cider", 2.0, 0.1), of("recall", -0.03, 0.05)], {}, False, "recall falls by more than 2.0%"),
        ([of("cider", 2.0, 0.1), of("recall", -0.03, 0.05)], {"max_loss": 0.05}, True, "better beyond noise: cider"),
        ([REAL, of("recall", -0.01, 0.05)], {}, True, "recall 1.0000 -> 0.9900 (-0.0100, -0.0600 to +0.0400: within"),
        ([REAL, NOISE], {"sure_of_no_loss": True}, False, "recall may have fallen by more than 2.0%"),
        ([REAL, of("recall", 0.01, 0.02)], {"sure_of_no_loss": True}, True, "better beyond noise: cider"),
        ([REAL], {"min_gain": 0.16}, False, "better beyond noise by more than 16.0%: nothing"),
        ([REAL], {"min_gain": 0.14}, True, "better beyond noise by more than 14.0%: cider"),
        ([of("cider", 0.2, 0.05, before=2.0)], {"min_gain": 0.14}, False, "by more than 14.0%: nothing"),
        ([of("recall", 0.1, 0.05, before=0.0)], {}, True, "better beyond noise: recall"),
        ([], {}, False, "no metric was compared"),
        ([REAL, of("recall", math.nan, 0.1)], {}, False, "recall is not finite"),
    ],
)
def test_what_is_promoted(comparisons: list[Comparison], options: dict[str, Any], promote: bool, told: str) -> None:
    decision = weigh(comparisons, EvidenceConfig(**options))
    assert decision.promote is promote
    assert told in "\n".join(decision.reasons)
