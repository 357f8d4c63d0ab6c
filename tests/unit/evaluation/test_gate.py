"""The promotion decision: only what is more than noise is promoted, and no gain pays for a loss."""

import math
from typing import Any

import pytest

from components.common.contracts import Comparison, Interval
from components.evaluation.config import WEIGHED, GateConfig
from components.evaluation.gate import faults, weigh
from components.evaluation.intervals import METRICS

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


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


REAL, NOISE = of(CIDER, 0.20, 0.05), of(RECALL, 0.01, 0.05)


@pytest.mark.parametrize(
    ("comparisons", "options", "promote", "told"),
    [
        ([REAL, NOISE], {}, True, "better beyond noise: CIDEr"),
        ([NOISE, of(CIDER, 0.30, 0.31)], {}, False, "better beyond noise: nothing"),
        ([of(CIDER, 0.0, 0.0)], {}, False, "better beyond noise: nothing"),
        ([REAL, of(RECALL, -0.01, 0.005)], {}, False, "retrieval recall is worse beyond noise"),
        ([of(CIDER, 2.0, 0.1), of(RECALL, -0.03, 0.05)], {}, False, "retrieval recall falls by more than 2.0%"),
        ([of(CIDER, 2.0, 0.1), of(RECALL, -0.03, 0.05)], {"max_loss": 0.05}, True, "better beyond noise: CIDEr"),
        (
            [REAL, of(RECALL, -0.01, 0.05)],
            {},
            True,
            "retrieval recall 1.0000 -> 0.9900 (-0.0100, -0.0600 to +0.0400: within",
        ),
        ([REAL, NOISE], {"sure_of_no_loss": True}, False, "retrieval recall may have fallen by more than 2.0%"),
        ([REAL, of(RECALL, 0.01, 0.02)], {"sure_of_no_loss": True}, True, "better beyond noise: CIDEr"),
        ([REAL], {"min_gain": 0.16}, False, "better beyond noise by more than 16.0%: nothing"),
        ([REAL], {"min_gain": 0.14}, True, "better beyond noise by more than 14.0%: CIDEr"),
        ([of(CIDER, 0.2, 0.05, before=2.0)], {"min_gain": 0.14}, False, "by more than 14.0%: nothing"),
        ([of(RECALL, 0.1, 0.05, before=0.0)], {}, True, "better beyond noise: retrieval recall"),
        ([], {}, False, "no metric was compared"),
        ([REAL, of(RECALL, math.nan, 0.1)], {}, False, "retrieval recall is not finite"),
    ],
)
def test_what_is_promoted(comparisons: list[Comparison], options: dict[str, Any], promote: bool, told: str) -> None:
    decision = weigh(comparisons, GateConfig(**options))
    assert decision.promote is promote
    assert told in "\n".join(decision.reasons)


@pytest.mark.parametrize(
    ("figures", "floors", "told"),
    [
        ({RECALL: 0.5, CIDER: 1.0}, {}, ()),
        ({RECALL: 0.5, CIDER: 1.0}, {CIDER: 1.0}, ()),
        ({RECALL: 0.5, CIDER: 1.0}, {CIDER: 1.1}, ("CIDEr is 1.0000, below its floor of 1.1000",)),
        ({RECALL: 0.5}, {}, ("CIDEr was not measured",)),
        ({RECALL: math.nan, CIDER: 1.0}, {}, ("retrieval recall is nan",)),
        ({RECALL: 0.5, CIDER: 1.0}, {"eval/caption/bleu_4": 0.1}, ("captions, BLEU-4 was not measured",)),
    ],
)
def test_what_can_be_no_champion_whatever_the_others_are(
    figures: dict[str, float], floors: dict[str, float], told: tuple[str, ...]
) -> None:
    assert faults(figures, GateConfig(floors=floors)) == told


def test_only_what_has_an_interval_decides_and_anything_measured_has_a_floor() -> None:
    assert set(WEIGHED) == {*METRICS, "eval/vqa/accuracy_official", "eval/vqa/accuracy_any"}
    with pytest.raises(ValueError, match="distinct_captions has no interval, so it cannot decide"):
        GateConfig(metrics=("eval/caption/distinct_captions",))
    GateConfig(floors={"eval/caption/distinct_captions": 0.2})
    with pytest.raises(ValueError, match="did you mean 'eval/caption/cider'"):
        GateConfig(metrics=("eval/caption/cidr",))
