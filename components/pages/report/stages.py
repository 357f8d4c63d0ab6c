"""The time line of stages."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from components.common.contracts import StageReport


class StageBar(NamedTuple):
    """A stage on the time line, in per cent of the whole; of a cached one, the time it took when it was made."""

    name: str
    seconds: float
    cached: bool
    start: float
    width: float


def stage_bars(stages: Iterable[StageReport]) -> list[StageBar]:
    """The stages one after the other."""
    stages = list(stages)
    whole = math.fsum(stage.seconds for stage in stages) or 1.0
    bars, start = [], 0.0
    for stage in stages:
        share = stage.seconds / whole * 100
        bars.append(StageBar(stage.stage, stage.seconds, stage.cached, round(start, 2), round(share, 2)))
        start += share
    return bars
