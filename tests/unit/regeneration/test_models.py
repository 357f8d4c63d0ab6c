"""Captioner and filter together: what cannot be a score stops the run."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch

from components.common.errors import ModelError
from components.data.scores import BLIP_COLUMNS, Reading
from components.data.shards import SampleIndex
from components.inference.captioner import Captioner
from components.inference.filter import Filter, Score
from components.inference.protocols import Judged, Written
from components.regeneration.config import CapfiltConfig
from components.regeneration.models import CapfiltModels
from components.regeneration.policy import Text
from components.regeneration.reading import Loaded


class Writer:
    size = 8

    def write(self, squares: Any, seeds: Any) -> list[list[Written]]:
        return [[Written("a dog", "stop", 2)] for _ in seeds]


class Judge:
    size = 8
    columns = BLIP_COLUMNS

    def __init__(self, score: Score, feature: float) -> None:
        self.score, self.feature = score, feature

    def judge_all(self, squares: Any, texts: list[list[str]]) -> Judged:
        rows = [[(Reading(0.9), Reading(0.1)) for _ in row] for row in texts]
        rows[-1][-1] = (Reading(self.score.probability), Reading(self.score.similarity))
        features = torch.ones(len(texts), 4)
        features[-1, 0] = self.feature
        return Judged(rows, features)


def models(score: Score, feature: float = 1.0) -> CapfiltModels:
    judge = cast(Filter, Judge(score, feature))
    return CapfiltModels(cast(Captioner, Writer()), judge, CapfiltConfig(), "stream", "s3://bucket/filter")


BATCH = [
    Loaded(SampleIndex(key, 0, {}), (Text("web", "words"),), key, (np.zeros((8, 8, 3), np.uint8),)) for key in "ab"
]


def test_finite_scores_pass() -> None:
    found = models(Score(0.2, -0.3)).process(BATCH)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("score", "feature"),
    [(Score(math.nan, 0.1), 1.0), (Score(0.5, math.inf), 1.0), (Score(0.5, 0.5), math.nan)],
    ids=["probability", "similarity", "vector"],
)
def test_a_filter_that_gives_no_numbers_stops_with_key_and_model(score: Score, feature: float) -> None:
    """It accepted nothing, and looked like a strict one."""
    with pytest.raises(ModelError, match=r"s3://bucket/filter: its scores of image b are not finite"):
        models(score, feature).process(BATCH)
