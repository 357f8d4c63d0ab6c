"""The columns decide as policy.py does, text by text: on made-up images full of ties, repeats and odd letters."""

from typing import get_args

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from components.regeneration.policy import Policy, Text, decide, passes
from components.regeneration.whatif import WhatIf

WORDS = [
    "a dog",
    "A  dog",
    "a dog ",
    "İ",
    "i̇",
    "ΣΑΣ",
    "σας",
    "a\x1cdog",
    "a\u00a0dog",
    "cat",
    "CAT",
    "straße",
    "STRASSE",
    "",
]
SCORES = [None, 0.0, 0.25, 0.5, 0.5000000001, 0.75, 1.0]
texts = st.tuples(st.sampled_from(["web", "synthetic"]), st.sampled_from(WORDS), st.sampled_from(SCORES))
images = st.lists(st.lists(texts, min_size=1, max_size=6), max_size=8)


@given(images, st.sampled_from([0.0, 0.25, 0.5, 0.7500000001, 1.0]))
@settings(max_examples=200, deadline=None)
def test_masks_are_the_decisions_of_each_image(
    made: list[list[tuple[str, str, float | None]]], threshold: float
) -> None:
    rows = [
        Text(source, words, score, score, None if score is not None else "empty_text")
        for image in made
        for source, words, score in image
    ]
    sizes = [len(image) for image in made]
    columns = WhatIf(
        np.repeat(np.arange(len(made), dtype=np.int32), sizes),
        np.array([row.source == "synthetic" for row in rows], bool),
        np.array([np.nan if row.probability is None else row.probability for row in rows], np.float64),
        pa.array([row.text for row in rows], pa.large_string()),
    )
    for policy in get_args(Policy):
        wanted, start = [], 0
        for size in sizes:
            image = rows[start : start + size]
            wanted += [one.kept for one in decide(image, policy, passes(image, threshold))]
            start += size
        assert columns.kept(threshold, policy).tolist() == wanted, policy


def test_no_candidates_at_all() -> None:
    nothing = WhatIf(np.empty(0, np.int32), np.empty(0, bool), np.empty(0), pa.array([], pa.large_string()))
    assert all(len(nothing.kept(0.5, policy)) == 0 for policy in get_args(Policy))
