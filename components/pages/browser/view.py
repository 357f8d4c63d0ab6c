"""What is looked at, as the address says it: filters, order and page; and the candidates that answer to it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt

from components.common.errors import ConfigError
from components.data.search import Floats
from components.pages.browser.version import MAIN_SCORE, Ints, Mask, Version
from components.regeneration.policy import Policy

PAGE_SIZE = 48
SORTS = ("order", "random", "found", "near", "disagree", "short", "long")
"""Orders that need no score; a score's are `low:NAME` and `high:NAME`."""
Kept = Literal["", "yes", "no"]
Change = Literal["", "gained", "lost"]


@dataclass(frozen=True)
class View:
    """The state of the grid. Every field but its default is in the address, so that a look can be shared.

    Attributes:
        source: only texts of this source.
        kept: only kept ones, or only others.
        reason: only those dropped for this reason.
        text: words that must occur, in any order and case.
        words: least and most words of the text.
        scores: least and most of each score.
        near: largest distance of the match probability from the threshold.
        disagree: least difference of the scores' ranks, 0 to 1.
        find: words that the images shall be like.
        like: an image's number that the images shall be like.
        at: another threshold, to see what it would keep.
        policy: another policy, for `at`.
        change: only what `at` would keep and is dropped now (`gained`), or the other way round (`lost`).
        sort: order of the candidates.
        page: page of the result, from 1.
    """

    source: str = ""
    kept: Kept = ""
    reason: str = ""
    text: str = ""
    words: tuple[int | None, int | None] = (None, None)
    scores: tuple[tuple[str, float | None, float | None], ...] = ()
    near: float | None = None
    disagree: float | None = None
    find: str = ""
    like: int | None = None
    at: float | None = None
    policy: str = ""
    change: Change = ""
    sort: str = ""
    page: int = 1

    @classmethod
    def parse(cls, query: Mapping[str, str], scores: Sequence[str]) -> "View":
        """The view of an address; empty parameters are those of a form's empty fields.

        Raises:
            ConfigError: a parameter is wrong; names it.
        """
        given = {name: value.strip() for name, value in query.items() if value.strip()}
        reader = _Reader(given)
        view = cls(
            source=reader.text("source"),
            kept=reader.choice("kept", get_args(Kept)),  # type: ignore[arg-type]
            reason=reader.text("reason"),
            text=reader.text("text"),
            words=(reader.whole("words-min"), reader.whole("words-max")),
            scores=tuple(
                (name, low, high)
                for name in scores
                for low, high in [(reader.number(f"{name}-min"), reader.number(f"{name}-max"))]
                if low is not None or high is not None
            ),
            near=reader.number("near"),
            disagree=reader.number("disagree"),
            find=reader.text("find"),
            like=reader.whole("like"),
            at=reader.number("at"),
            policy=reader.choice("policy", ("", *get_args(Policy))),
            change=reader.choice("change", get_args(Change)),  # type: ignore[arg-type]
            sort=reader.choice("sort", ("", *sorts(scores))),
            page=max(reader.whole("page") or 1, 1),
        )
        reader.refuse_others()
        return view

    def query(self) -> dict[str, str]:
        """The parameters of its address, those at their default left out."""
        pairs: dict[str, object] = {"find": self.find, "like": self.like, "text": self.text, "source": self.source}
        pairs |= {"kept": self.kept, "reason": self.reason, "words-min": self.words[0], "words-max": self.words[1]}
        for name, low, high in self.scores:
            pairs |= {f"{name}-min": low, f"{name}-max": high}
        pairs |= {"near": self.near, "disagree": self.disagree, "at": self.at, "policy": self.policy}
        pairs |= {"change": self.change, "sort": self.sort, "page": self.page if self.page > 1 else None}
        return {name: _plain(value) for name, value in pairs.items() if value not in ("", None)}

    def link(self, **changes: object) -> str:
        """Address of this view with some things changed, from its first page on."""
        other = replace(self, **{"page": 1, **changes})  # type: ignore[arg-type]
        return f"/?{urlencode(other.query())}"

    @property
    def order(self) -> str:
        """The order in effect: what is searched for comes first where nothing else is asked."""
        return self.sort or ("found" if self.find or self.like is not None else "order")

    @property
    def chosen(self) -> "View":
        """What decides which candidates are shown and in which order, for a cache."""
        return replace(self, page=1)


def sorts(scores: Sequence[str]) -> list[str]:
    """All orders of a dataset with these scores."""
    return [*SORTS, *(f"{way}:{name}" for name in scores for way in ("low", "high"))]


def _plain(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@dataclass
class _Reader:
    """Takes parameters one by one, and knows which were left."""

    given: Mapping[str, str]
    asked: set[str] = field(default_factory=set)

    def text(self, name: str) -> str:
        self.asked.add(name)
        return self.given.get(name, "")

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.text(name)
        if value not in choices:
            raise ConfigError(f"{name}={value}: use {', '.join(one for one in choices if one)}")
        return value

    def number(self, name: str) -> float | None:
        value = self.text(name)
        try:
            found = float(value) if value else None
        except ValueError:
            found = math.nan
        if found is not None and not math.isfinite(found):
            raise ConfigError(f"{name}={value}: this is no number")
        return found

    def whole(self, name: str) -> int | None:
        found = self.number(name)
        if found is not None and (found != int(found) or not 0 <= found < 1 << 31):
            raise ConfigError(f"{name}={self.given[name]}: this is no whole number from 0 on")
        return None if found is None else int(found)

    def refuse_others(self) -> None:
        if others := sorted(set(self.given) - self.asked):
            raise ConfigError(f"unknown parameters {', '.join(others)}: start from the first page, /")


def choose(version: Version, view: View, place: Floats | None) -> Ints:
    """The candidates of a view in its order.

    Args:
        version: the dataset.
        view: what is asked for.
        place: for a search, each image's place `[M]`, the best the largest, NaN where an image has no vector.
    """
    mask = _mask(version, view)
    if place is not None:
        mask &= ~np.isnan(place)[version.image]
    rows: Ints = np.flatnonzero(mask).astype(np.int32)
    by = _order(version, view, place)
    if by is None:
        return rows
    values = by[rows]
    return rows[np.argsort(values, kind="stable")]


def _mask(version: Version, view: View) -> Mask:
    mask: Mask = np.ones(len(version), bool)
    if view.source:
        mask &= version.source.mask(view.source)
    if view.kept:
        mask &= version.kept if view.kept == "yes" else ~version.kept
    if view.reason:
        mask &= version.reason.mask(view.reason)
    for name, low, high in view.scores:
        mask &= _within(version.scores[name], low, high)
    if view.words != (None, None):
        mask &= _within(version.words, *view.words)
    if view.near is not None:
        mask &= _distance(version, view) <= view.near
    if view.disagree is not None:
        mask &= version.disagreement >= view.disagree
    if view.change:
        mask &= changed(version, view)
    for word in view.text.split():
        mask &= _holds(version, word)
    return mask


def _within(column: npt.NDArray[Any], low: float | None, high: float | None) -> Mask:
    mask: Mask = np.ones(len(column), bool)
    if low is not None:
        mask &= column >= low
    if high is not None:
        mask &= column <= high
    return mask


def _holds(version: Version, word: str) -> Mask:
    """Candidates whose text has a word in it, or whose image's key it is."""
    import pyarrow.compute as pc

    mask: Mask = pc.match_substring(version.text, word, ignore_case=True).to_numpy(zero_copy_only=False)
    keys = pc.equal(version.image_key, word).to_numpy(zero_copy_only=False)
    found: Mask = mask | keys[version.image]
    return found


def _distance(version: Version, view: View) -> npt.NDArray[np.float64]:
    """How far the match probability is from the threshold in question; NaN without either."""
    threshold = view.at if view.at is not None else version.threshold
    if threshold is None or MAIN_SCORE not in version.scores:
        return np.full(len(version), np.nan)
    distance: npt.NDArray[np.float64] = np.abs(version.scores[MAIN_SCORE] - threshold)
    return distance


def kept_at(version: Version, view: View) -> Mask:
    """What the view's threshold and policy would keep; what is kept now where it asks for neither, or nothing can be.

    Raises:
        ConfigError: the threshold is no probability.
    """
    if not version.can_be_cut or (view.at is None and not view.policy):
        return version.kept
    threshold = view.at if view.at is not None else version.threshold
    if threshold is None:
        raise ConfigError("a coin decided here, so there is no threshold: choose one")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"at={threshold:g}: a threshold is a probability, 0 to 1")
    return version.what_if.kept(threshold, policy_of(version, view))


def policy_of(version: Version, view: View) -> Policy:
    """The policy in question."""
    found: Policy = view.policy or version.manifest.config.get("policy", "keep_both")  # type: ignore[assignment]
    return found


def changed(version: Version, view: View) -> Mask:
    """Candidates that the view's threshold and policy decide otherwise than the version, in the direction asked for."""
    then = kept_at(version, view)
    if view.change == "gained":
        return then & ~version.kept
    return version.kept & ~then if view.change == "lost" else then ^ version.kept


def _order(version: Version, view: View, place: Floats | None) -> npt.NDArray[np.generic] | None:
    """Numbers to sort the candidates by, the smallest first and those without one last; None: as they lie."""
    way, _, name = view.order.partition(":")
    if way in ("low", "high"):
        column = version.scores[name]
        return column if way == "low" else -column
    if way == "found":
        return None if place is None else -place[version.image]
    if way == "near":
        return _distance(version, view)
    numbers: dict[str, npt.NDArray[np.generic]] = {}
    if way == "random":
        numbers[way] = version.shuffled
    elif way == "disagree":
        numbers[way] = -version.disagreement
    elif way in ("short", "long"):
        numbers[way] = version.words if way == "short" else -version.words
    return numbers.get(way)
