"""In what configs differ."""

from components.pages.settings import differing


def test_only_what_differs_and_decides_is_told():
    there = {"name": "a", "store": "./a", "seed": 1, "optim": {"lr": 0.1, "freeze": ["vision"]}, "old": None}
    here = {"name": "b", "store": "./b", "seed": 1, "optim": {"lr": 0.2, "freeze": ["vision"]}, "text": "web"}
    assert differing(there, here) == (("old", "null", "–"), ("optim.lr", "0.1", "0.2"), ("text", "–", "web"))
    assert differing(there, there) == ()
