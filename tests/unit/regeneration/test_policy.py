import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.regeneration.policy import Decision, Text, choose_text, coin_passes, decide, passes

POLICIES = ("keep_both", "replace", "best_of", "best_each", "fallback")


def texts(web: float | None, *synthetic: float) -> list[Text]:
    made = [Text("synthetic", f"made {index}", value, 0.1) for index, value in enumerate(synthetic)]
    return ([] if web is None else [Text("web", "found", web, 0.1)]) + made


def reasons(candidates: list[Text], policy: str, threshold: float = 0.5) -> list[str]:
    return [decision.reason for decision in decide(candidates, policy, passes(candidates, threshold))]


@pytest.mark.parametrize(
    ("policy", "web", "synthetic", "expected"),
    [
        ("keep_both", 0.9, [0.8], ["kept", "kept"]),
        ("keep_both", 0.5, [0.4999], ["kept", "below_threshold"]),
        ("keep_both", 0.1, [0.2], ["below_threshold", "below_threshold"]),
        ("replace", 0.9, [0.8], ["replaced", "kept"]),
        ("replace", 0.9, [0.1], ["replaced", "below_threshold"]),
        ("best_of", 0.9, [0.8], ["kept", "not_best"]),
        ("best_of", 0.8, [0.9], ["not_best", "kept"]),
        ("best_of", 0.8, [0.9, 0.95], ["not_best", "not_best", "kept"]),
        ("best_of", 0.8, [0.8], ["kept", "not_best"]),
        ("best_of", 0.1, [0.2], ["below_threshold", "below_threshold"]),
        ("best_each", 0.9, [0.8, 0.95, 0.6], ["kept", "not_best", "kept", "not_best"]),
        ("best_each", 0.9, [0.1, 0.2], ["kept", "below_threshold", "below_threshold"]),
        ("best_each", 0.1, [0.6, 0.6], ["below_threshold", "kept", "not_best"]),
        ("best_each", None, [0.6, 0.1, 0.7], ["not_best", "below_threshold", "kept"]),
        ("fallback", 0.9, [0.95], ["kept", "not_needed"]),
        ("fallback", 0.9, [0.1], ["kept", "below_threshold"]),
        ("fallback", 0.1, [0.9, 0.8], ["below_threshold", "kept", "kept"]),
        ("fallback", None, [0.9], ["kept"]),
    ],
)
def test_policies(policy: str, web: float | None, synthetic: list[float], expected: list[str]) -> None:
    assert reasons(texts(web, *synthetic), policy) == expected


def test_duplicates_are_kept_once_whatever_their_case_and_spaces() -> None:
    candidates = [
        Text("web", "A  red Ball", 0.9, 0.1),
        Text("synthetic", "a red ball", 0.9, 0.1),
        Text("synthetic", "a blue ball", 0.9, 0.1),
    ]
    assert reasons(candidates, "keep_both") == ["kept", "duplicate", "kept"]


def test_a_web_text_that_is_replaced_does_not_shadow_its_synthetic_twin() -> None:
    candidates = [Text("web", "a red ball", 0.9, 0.1), Text("synthetic", "a red ball", 0.9, 0.1)]
    assert reasons(candidates, "replace") == ["replaced", "kept"]


def test_a_text_without_score_keeps_its_problem_as_reason() -> None:
    candidates = [Text("web", "", problem="empty_text"), Text("synthetic", "a ball", 0.9, 0.1)]
    for policy in POLICIES:
        assert decide(candidates, policy, passes(candidates, 0.5)) == [
            Decision(False, "empty_text"),
            Decision(True, "kept"),
        ]


@given(
    web=st.one_of(st.none(), st.floats(0, 1)),
    synthetic=st.lists(st.floats(0, 1), max_size=4),
    threshold=st.floats(0, 1),
)
def test_nothing_below_the_threshold_is_kept_and_policies_only_take_away(
    web: float | None, synthetic: list[float], threshold: float
) -> None:
    candidates = texts(web, *synthetic)
    both = decide(candidates, "keep_both", passes(candidates, threshold))
    for policy in POLICIES:
        decisions = decide(candidates, policy, passes(candidates, threshold))
        assert len(decisions) == len(candidates)
        for text, decision, paper in zip(candidates, decisions, both, strict=True):
            assert decision.kept == (decision.reason == "kept")
            assert not decision.kept or (text.probability or 0) >= threshold
            assert not decision.kept or paper.kept
        if policy == "best_of":
            assert sum(decision.kept for decision in decisions) == min(1, sum(paper.kept for paper in both))
        if policy == "best_each":
            for source in ("web", "synthetic"):
                of_source = [at for at, text in enumerate(candidates) if text.source == source and both[at].kept]
                kept = [at for at in of_source if decisions[at].kept]
                assert [candidates[at].probability for at in kept] == (
                    [max(candidates[at].probability or 0.0 for at in of_source)] if of_source else []
                )


def test_the_coin_ignores_scores_and_depends_on_the_seed_alone() -> None:
    good, bad = texts(1.0, 1.0), texts(0.0, 0.0)
    thrown = [coin_passes(good, 0.3, seed) for seed in range(2000)]
    assert thrown == [coin_passes(bad, 0.3, seed) for seed in range(2000)]
    assert thrown != [coin_passes(bad, 0.3, seed) for seed in range(2000, 4000)]
    share = sum(itertools.chain.from_iterable(thrown)) / 4000
    assert 0.27 < share < 0.33
    assert coin_passes([Text("web", "", problem="empty_text")], 1.0, 1) == [False]


@pytest.mark.parametrize(
    ("web", "synthetic", "expected"),
    [
        (0.6, [0.9, 0.7], {"web": "found", "synthetic": "made 0", "best": "made 0"}),
        (0.9, [0.7, 0.9], {"web": "found", "synthetic": "made 0", "best": "found"}),
        (None, [0.7, 0.9], {"web": "made 0", "synthetic": "made 0", "best": "made 1"}),
        (0.6, [], {"web": "found", "synthetic": "found", "best": "found"}),
    ],
)
def test_which_kept_caption_readers_of_txt_see(
    web: float | None, synthetic: list[float], expected: dict[str, str]
) -> None:
    kept = texts(web, *synthetic)
    assert {choice: choose_text(kept, choice, 1).text for choice in expected} == expected
    drawn = [choose_text(kept, "random", seed).text for seed in range(200)]
    assert set(drawn) == {text.text for text in kept}
    assert drawn == [choose_text(kept, "random", seed).text for seed in range(200)]
