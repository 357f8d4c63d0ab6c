"""What can be decided again about a dataset that a cascade made, where scores and captions are missing."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from components.common.errors import ConfigError
from components.data.candidates import CandidateTable, stored_candidates
from components.data.manifest import Manifest
from components.data.scores import ITM
from components.regeneration.band import is_open, ranks
from components.regeneration.config import CapfiltConfig
from components.regeneration.policy import NOT_WRITTEN, Text
from components.regeneration.rules import Rule
from components.regeneration.shard import accepts
from components.regeneration.texts import text_of

_REMEDY = "make it again without --cascade, or with these settings"


def inherited_cascade(
    manifest: Manifest, threshold: float | None, score: str | None, keep: str | None, weigh: str | None
) -> dict[str, Any]:
    """The cascade that a dataset was made by, where its threshold of ITM decides again: its bands hold for no other."""
    found = manifest.config.get("cascade")
    same = (0.5 if threshold is None else threshold) == manifest.config.get("threshold")
    if found is None or not same or keep is not None or weigh is not None or score not in (None, ITM):
        return {}
    return {"cascade": found}


def check_known(config: CapfiltConfig, uri: str, manifest: Manifest) -> None:
    """Refuse settings that ask for what a cascade left out.

    Args:
        config: settings of a recut.
        uri: the dataset that is cut.
        manifest: its own.

    Raises:
        ConfigError: ITM would have to decide on texts that it never saw, or captions are needed that nobody wrote.
    """
    unseen = unwritten = 0
    for entry in manifest.shards:
        table = stored_candidates(uri, entry.parquet)
        for _, group in groupby(table.rows() if _lacks_any(table) else (), key=lambda row: (row.key, row.image_sha256)):
            texts = [text_of(row) for row in group]
            unseen += sum(_needs_itm(text, config) for text in texts)
            unwritten += not unseen and _needs_captions(texts, config)
    if unseen:
        raise ConfigError(
            f"{uri}: {unseen} texts were decided by ITC alone (a cascade), and these settings ask for their ITM: keep "
            f"the threshold that it was made with ({manifest.config.get('threshold')}), write a rule without itm, or "
            f"{_REMEDY}"
        )
    if unwritten:
        raise ConfigError(
            f"{uri}: captions of {unwritten} images were never written (a cascade), and these settings need them: keep "
            f"the policy fallback with the threshold that it was made with, or {_REMEDY}"
        )


def _lacks_any(table: CandidateTable) -> bool:
    """Whether a cascade left anything out; most tables are whole, and need not be looked at row by row."""
    import pyarrow.compute as pc

    columns = table.columns
    seen = pc.or_(pc.is_valid(columns["itc_similarity"]), pc.equal(columns["reason"], NOT_WRITTEN))
    return bool(pc.any(pc.and_(pc.is_null(columns["itm_probability"]), seen)).as_py())


def _needs_itm(text: Text, config: CapfiltConfig) -> bool:
    if text.similarity is None or text.probability is not None:
        return False
    if config.cascade is not None:
        return is_open(text, config)
    rules = [Rule(one, kind) for one, kind in ((config.keep, bool), (config.weigh, float)) if one is not None]
    asked = {name for rule in rules for name in rule.names} if rules else {config.score or ITM}
    return ITM in asked or (ranks(config) and config.score in (None, ITM))


def _needs_captions(texts: Sequence[Text], config: CapfiltConfig) -> bool:
    if not any(text.problem == NOT_WRITTEN for text in texts):
        return False
    web = [text for text in texts if text.source == "web"]
    passed = accepts(config)(web)
    return config.policy != "fallback" or not any(
        ok and text.problem is None for text, ok in zip(web, passed, strict=True)
    )
