"""A cascade: ITC first, ITM only where ITC leaves the decision open, captions only where the policy needs one.

BLIP gives ITC's cosine beside the image's features, for one cheap pass of the text. Where it is far below what texts
have that ITM accepts, or far above what it refuses, ITM is not asked: two cosines for web texts and two for synthetic
ones are the *bands* between which it is. Only `fallback` can do without a caption: where a web text passes.

That changes some decisions. How many is known only of images that are worked on in full as well: some are, drawn by
their keys (the *audit*), and of them it is counted what the cascade alone would have decided otherwise. Their own
decisions are those of the full pass.

Everything here is a pure function of texts and their scores.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby

from components.common.contracts import Interval
from components.common.errors import GateError
from components.common.seeding import key_seed
from components.common.shares import at_least, share_interval
from components.data.candidates import Candidate
from components.regeneration.config import CapfiltConfig, CascadeConfig
from components.regeneration.policy import (
    BELOW_BAND,
    BELOW_THRESHOLD,
    NOT_WRITTEN,
    Decision,
    Text,
    decide,
)
from components.regeneration.texts import text_of

_SURE = 0.001  # a run is looked at after every shard: that it stops by chance must be rare each time


def cascade_of(config: CapfiltConfig) -> CascadeConfig:
    """The cascade of settings that have one."""
    if config.cascade is None:
        raise ValueError("these settings have no cascade")
    return config.cascade


Bands = tuple[tuple[float, float], tuple[float, float]]
"""Of web and of synthetic texts."""


def with_bands(config: CapfiltConfig, bands: Bands) -> CapfiltConfig:
    """The config with these bands."""
    cascade = CascadeConfig.model_validate(cascade_of(config).model_dump() | {"web": bands[0], "synthetic": bands[1]})
    return config.model_copy(update={"cascade": cascade})


def is_audited(config: CapfiltConfig, key: str, image_sha256: str) -> bool:
    """Whether an image is worked on in full: by its key and bytes alone."""
    return key_seed("audit", config.seed, key, image_sha256) < cascade_of(config).audit * 2.0**64


def ranks(config: CapfiltConfig) -> bool:
    """Whether texts that pass are compared by their scores: then none is accepted without one."""
    return config.policy in ("best_of", "best_each") or config.text == "best"


def is_open(text: Text, config: CapfiltConfig) -> bool:
    """Whether ITM has to say what becomes of a text with a cosine."""
    if text.problem is not None or text.similarity is None or _is_replaced(text, config):
        return False
    low, high = cascade_of(config).band(text.source)
    return low <= text.similarity and (ranks(config) or text.similarity <= high)


def _is_replaced(text: Text, config: CapfiltConfig) -> bool:
    return config.policy == "replace" and text.source == "web"


def needs_caption(web: Sequence[Text], config: CapfiltConfig) -> bool:
    """Whether an image with these web texts, decided as far as they need be, wants a caption."""
    return config.policy != "fallback" or not any(
        text.problem is None and ok for text, ok in zip(web, band_passes(web, config), strict=True)
    )


def band_passes(texts: Sequence[Text], config: CapfiltConfig) -> list[bool]:
    """Which texts pass: by the threshold where ITM was asked, else by the side of the band that they lie on."""
    return [_passes(text, config) for text in texts]


def _passes(text: Text, config: CapfiltConfig) -> bool:
    if text.probability is not None:
        return text.probability >= config.threshold
    return text.similarity is not None and text.similarity > cascade_of(config).band(text.source)[1]


def told(texts: Sequence[Text], decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions, those that ITM had no part in with a reason of their own."""
    return [
        one._replace(reason=BELOW_BAND) if one.reason == BELOW_THRESHOLD and text.probability is None else one
        for text, one in zip(texts, decisions, strict=True)
    ]


def kept_by(texts: Sequence[Text], config: CapfiltConfig) -> list[bool]:
    """Which texts of an image stay."""
    return [one.kept for one in decide(texts, config.policy, band_passes(texts, config))]


def in_cascade(texts: Sequence[Text], config: CapfiltConfig) -> list[Text]:
    """What a cascade would have known of texts that were all scored, web texts first."""
    seen = [text if is_open(text, config) else text._replace(probability=None) for text in texts]
    if needs_caption([text for text in seen if text.source == "web"], config):
        return seen
    return [_not_written(text) if text.source == "synthetic" else text for text in seen]


def _not_written(text: Text) -> Text:
    return text._replace(probability=None, similarity=None, problem=text.problem or NOT_WRITTEN)


def changed(texts: Sequence[Text], config: CapfiltConfig) -> float:
    """The share of an image's decisions that a cascade makes otherwise than a full pass, of texts that were scored."""
    if all(_is_alike(text, config) for text in texts):
        return 0.0
    scored = [text.probability is not None for text in texts]
    whole, sparing = kept_by(texts, config), kept_by(in_cascade(texts, config), config)
    others = sum(a != b for a, b, known in zip(whole, sparing, scored, strict=True) if known)
    return others / max(1, sum(scored))


def _is_alike(text: Text, config: CapfiltConfig) -> bool:
    """Whether a text passes a cascade if it passes a full pass; where all of an image's do, nothing changes."""
    if text.probability is None or is_open(text, config) or _is_replaced(text, config):
        return True
    return _passes(text, config) == _passes(text._replace(probability=None), config)


# ----------------------------------------------------------------------------------------------------- what it saved


@dataclass(frozen=True)
class CascadeStats:
    """What a cascade left out, and what that changed where it was looked at.

    `changed` is a sum over the audited images, each with the share of its decisions that would be others.
    """

    texts: int = 0
    itm: int = 0
    captions: int = 0
    written: int = 0
    audited: int = 0
    changed: float = 0.0

    def __add__(self, other: "CascadeStats") -> "CascadeStats":
        return CascadeStats(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    @property
    def interval(self) -> Interval:
        """Where the share of changed decisions lies, with 95 % certainty."""
        return share_interval(self.changed, self.audited)

    def figures(self) -> dict[str, float]:
        """Flat names and values: passes, captions and their shares that were saved, and what that changed."""
        found = {
            "itm_passes": float(self.itm),
            "itm_saved": 1 - self.itm / self.texts if self.texts else 0.0,
            "captions_written": float(self.written),
            "captions_saved": 1 - self.written / self.captions if self.captions else 0.0,
            "audited": float(self.audited),
        }
        if self.audited:
            ends = {"changed_low": self.interval.low, "changed_high": self.interval.high}
            found |= {"changed": self.changed / self.audited, **ends}
        return {f"cascade_{name}": value for name, value in found.items()}


def cascade_stats(rows: Iterable[Candidate], config: CapfiltConfig) -> CascadeStats:
    """Count the rows of a shard, an image's being neighbours.

    A text counts that could be scored, and a caption that was not written as one text and one caption: a full pass
    would have scored it.
    """
    total = CascadeStats()
    for (key, digest), group in groupby(rows, key=lambda row: (row.key, row.image_sha256)):
        texts = [text_of(row) for row in group]
        if any(text.similarity is not None for text in texts):
            total += _of_image(texts, config, audited=is_audited(config, key, digest))
    return total


def _of_image(texts: Sequence[Text], config: CapfiltConfig, *, audited: bool) -> CascadeStats:
    kinds = Counter(text.problem for text in texts if text.source == "synthetic")
    missing = kinds[NOT_WRITTEN]
    scored = sum(text.similarity is not None for text in texts)
    return CascadeStats(
        texts=scored + missing,
        itm=sum(text.probability is not None for text in texts),
        captions=kinds.total(),
        written=kinds.total() - missing,
        audited=int(audited),
        changed=changed(texts, config) if audited else 0.0,
    )


def check_tolerance(stats: CascadeStats, config: CapfiltConfig, where: str) -> None:
    """Stop where a cascade clearly changes more than is tolerated.

    Raises:
        GateError: with what was counted, and what to do.
    """
    cascade = cascade_of(config)
    if at_least(stats.changed, stats.audited, _SURE) <= cascade.tolerance:
        return
    raise GateError(
        f"the cascade of {where} changes {stats.changed / stats.audited:.2%} of the decisions, as {stats.audited} "
        f"audited images say, and {cascade.tolerance:.2%} are tolerated: the bands are too narrow for these data. "
        "Widen cascade.web and cascade.synthetic, leave them out to have them found, or do without the cascade; a "
        "larger cascade.tolerance lets it pass"
    )
