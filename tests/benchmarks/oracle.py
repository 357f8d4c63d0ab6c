"""`capfilt`, but CapFilt keeps exactly the texts that are true of their pictures: the sample world's truth as filter.

    python -m tests.benchmarks.oracle STORE run CONFIG --set store=STORE --set capfilt.calibrated=null
        --set capfilt.coin=1.0

A control of the study (loop_study.py): how much a filter without fault would bring. `capfilt.coin=1.0` gives its stages
names of their own; whoever decided is not in the record, so such a store is for the study alone.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from components.data.sampleworld import judge_caption
from components.evaluation.dataset import MATCH, Truth, load_truth
from components.regeneration import local
from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import COIN, Text, decide
from components.regeneration.reading import Loaded
from components.regeneration.shard import JudgedSample


def main() -> None:
    """Put the truth in the filter's place and run the command line."""
    from capfilt.cli.main import main as capfilt

    store = Path(sys.argv.pop(1))

    @cache
    def truth() -> dict[str, Truth]:
        tables = sorted(store.glob("sampleworld/*/truth/truth.parquet"))  # of the same web pictures
        return {key: one for table in tables for key, one in load_truth(str(table)).items()}

    def judge(loaded: Loaded, texts: Sequence[Text], config: CapfiltConfig, stream: str = "") -> JudgedSample:
        known = truth()[loaded.sample.key]
        passed = [text.scored and is_true(text, known) for text in texts]
        return JudgedSample(loaded, tuple(texts), tuple(decide(texts, config.policy, passed, rejection=COIN)))

    local.judge = judge  # type: ignore[attr-defined]
    capfilt()


def is_true(text: Text, known: Truth) -> bool:
    """Whether a text is true of its picture: a web text by its kind, a caption by what the scene holds."""
    if text.source == "web":
        return known.kind == MATCH
    return known.scene is not None and judge_caption(known.scene, text.text).true


if __name__ == "__main__":
    main()
