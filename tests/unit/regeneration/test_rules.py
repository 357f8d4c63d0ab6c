"""The small language of rules: what it says, and that nothing else gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import Text, decide, passes, rule_passes, weighed
from components.regeneration.rules import Rule

FACTS = {"itm": 0.6, "clip": 0.3, "clip_truncated": True, "words": 4.0, "source": "web"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("itm >= 0.5 and clip >= 0.1", True),
        ("itm >= 0.5 and clip > 0.3", False),
        ("itm > 0.9 or not clip_truncated", False),
        ("0.1 <= clip < itm", True),
        ("2 * itm - 0.2 == 1.0", True),
        ('source == "web" and words >= 3', True),
        ('(source != "web" or itm >= 0.7) or -clip < 0', True),
    ],
)
def test_rules_say_what_they_say(text: str, expected: bool) -> None:
    assert Rule(text)(FACTS) is expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "itm.real > 0",
        "itm[0] > 0",
        "(lambda: 1)() > 0",
        "[itm for itm in (1,)] == 1",
        "itm ** 9 > 0",
        "itm / 0 > 1",
        "f'{itm}' == 'a'",
        "(itm := 1) > 0",
        "itm if clip else itm",
        "itm is clip",
        "itm in clip",
        "itm and clip",
        "itm > True",
        "itm > None",
        "source > 'web'",
        "itm > 'web'",
        "not itm",
        "itm",
        "itm >",
        "",
        "itm > 0; clip > 0",
        "itm > 0\nclip > 0",
        "1j > 0",
        "*itm > 0",
        "itm > 0 " + "and itm > 0 " * 60,
        "(" * 400 + "itm > 0" + ")" * 80,
    ],
)
def test_nothing_else_is_a_rule(text: str) -> None:
    with pytest.raises(ValueError):
        Rule(text)


def test_a_config_says_which_rule_is_none() -> None:
    with pytest.raises(ValidationError, match="keep: 'itm' gives no decision"):
        CapfiltConfig(keep="itm")
    with pytest.raises(ValidationError, match="weigh: .*'open' has no place|weigh: "):
        CapfiltConfig(weigh="open('x')")
    with pytest.raises(ValidationError, match="coin and keep both say"):
        CapfiltConfig(keep="itm > 0", coin=0.5)
    assert CapfiltConfig(weigh="2 * itm").effective()["weigh"] == "2 * itm"
    assert not {"keep", "weigh", "score", "check_captions", "threshold_of"} & set(CapfiltConfig().effective())


@given(st.lists(st.tuples(st.sampled_from(["web", "synthetic"]), st.floats(0, 1)), max_size=6), st.floats(0, 1))
def test_a_threshold_is_a_rule(rows: list[tuple[str, float]], threshold: float) -> None:
    """Every named policy decides the same by `itm >= t` as by the threshold t."""
    texts = [Text(source, f"text {at}", value, 0.1) for at, (source, value) in enumerate(rows)]  # type: ignore[arg-type]
    rule = Rule(f"itm >= {threshold!r}" if "e" not in repr(threshold) else f"itm >= {threshold:.30f}")
    for policy in ("keep_both", "replace", "best_of", "fallback"):
        by_rule = decide(texts, policy, rule_passes(texts, rule))
        assert by_rule == decide(texts, policy, passes(texts, threshold)) or "e" in repr(threshold)


def test_a_weight_of_nothing_drops() -> None:
    texts = [Text("web", "a", 0.25, 0.1), Text("synthetic", "b", 0.0, 0.1), Text("synthetic", "", problem="empty")]
    decisions = decide(texts, "keep_both", [text.scored for text in texts])
    found = weighed(texts, decisions, Rule("4 * itm", float))
    assert [(one.kept, one.reason, one.weight) for one in found] == [
        (True, "kept", 1.0),
        (False, "weightless", 1.0),
        (False, "empty", 1.0),
    ]
