"""The promotion decision."""

import pytest

from components.evaluation.config import GateConfig
from components.evaluation.gate import decide

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


def metrics(recall, cider):
    return {RECALL: recall, CIDER: cider}


@pytest.mark.parametrize(
    ("new", "old", "config", "promote"),
    [
        (metrics(0.5, 1.0), None, {}, True),
        (metrics(0.5, 1.0), metrics(0.4, 0.9), {}, True),
        (metrics(0.4, 0.9), metrics(0.5, 1.0), {}, False),
        (metrics(0.5, 1.0), metrics(0.5, 1.0), {}, False),  # a draw changes nothing
        (metrics(0.6, 0.97), metrics(0.5, 1.0), {}, False),  # cider falls by 3 %, 2 % are allowed
        (metrics(0.6, 0.97), metrics(0.5, 1.0), {"max_loss": 0.05}, True),
        (metrics(0.505, 1.0), metrics(0.5, 1.0), {"min_gain": 0.01}, False),
        (metrics(0.5, 1.0), metrics(0.4, 0.9), {"floors": {CIDER: 1.1}}, False),
        (metrics(0.5, 1.0), None, {"floors": {CIDER: 1.1}}, False),
        (metrics(float("nan"), 1.0), metrics(0.4, 0.9), {}, False),
        (metrics(0.5, 1.0), metrics(0, 0), {}, True),
        ({RECALL: 0.9}, metrics(0.4, 0.9), {}, False),  # something was not measured
        (metrics(0.5, 1.0), {RECALL: 0.4}, {}, True),  # the champion lacks a metric: compared by the rest
        (metrics(0.5, 1.0), {}, {}, False),
    ],
)
def test_decisions(new, old, config, promote):
    decision = decide(new, old, GateConfig(**config))
    assert decision.promote is promote
    assert decision.reasons


def test_reasons_are_readable():
    reasons = decide(metrics(0.6, 0.5), metrics(0.5, 1.0), GateConfig()).reasons
    assert reasons[0] == "retrieval recall 0.5000 -> 0.6000 (+20.0%)"
    assert "CIDEr falls by more than 2.0%" in reasons
