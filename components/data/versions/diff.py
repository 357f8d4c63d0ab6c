"""How two dataset versions differ: settings, counts, and captions with examples."""

from collections import Counter
from typing import Any

from components.data.candidates import Candidate
from components.data.manifest import Manifest, differences, load_manifest, plan_differences
from components.data.records import ShardEntry
from components.data.versions.verify import shard_rows

_EXAMPLES = 10
_DECIDING = ("calibrated", "coin", "keep", "score", "text", "weigh", "weights")
"""Settings of a choice among stored scores that a recut leaves out where they are not in use."""


def diff(a: str, b: str) -> dict[str, Any]:
    """Compare two datasets, shard by shard of the same name.

    Args:
        a: the first, e.g. the older version.
        b: the second.

    Returns:
        `same` (one version), both digests, `config` and `parents` (what differs; `differences`: both in parts),
        `counts` of both, `captions` (how many kept ones are in both, only in a, only in b; how many were decided
        otherwise) and `examples` of each. Of a recut, which writes no captions, the settings that wrote them are those
        of the dataset that it was cut from, and no difference.
    """
    one, two = load_manifest(a), load_manifest(b)
    settings, parents = _settings(one, two), (_parents(one, two), _parents(two, one))
    shards = {entry.name: entry for entry in two.shards}
    changes = _Changes()
    for entry in one.shards:
        changes.add(_rows(a, entry), _rows(b, shards.pop(entry.name, None)))
    for entry in shards.values():
        changes.add([], _rows(b, entry))
    return {
        "same": one.digest == two.digest,
        "a": _about(a, one),
        "b": _about(b, two),
        "config": plan_differences(*settings),
        "parents": plan_differences(*parents),
        "differences": [found._asdict() for pair in (settings, parents) for found in differences(*pair)],
        "captions": {name: changes.counts[name] for name in ("in_both", "only_in_a", "only_in_b", "decided_otherwise")},
        "examples": changes.examples,
    }


def _about(uri: str, manifest: Manifest) -> dict[str, Any]:
    counts = manifest.totals.model_dump(mode="json", by_alias=True)
    return {"uri": uri, "name": manifest.name, "digest": manifest.digest, "counts": counts}


def _settings(one: Manifest, two: Manifest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that can be compared: of a recut and another, what both say, and what decides."""
    a, b = one.config, two.config
    if "recut" not in (one.kind, two.kind):
        return a, b
    names = (a.keys() & b.keys()) | (set(_DECIDING) & (a.keys() | b.keys()))
    return {name: a.get(name) for name in names}, {name: b.get(name) for name in names}


def _parents(manifest: Manifest, other: Manifest) -> dict[str, str]:
    """What it was made from, by role, but for the other one."""
    return {parent.role: parent.digest for parent in manifest.parents if parent.digest != other.digest}


def _rows(uri: str, entry: ShardEntry | None) -> list[Candidate]:
    return [] if entry is None else shard_rows(uri, entry)


class _Changes:
    """Kept captions compared by key and text; a caption known to both and kept by one was decided otherwise."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, Any]]] = {}

    def add(self, a: list[Candidate], b: list[Candidate]) -> None:
        """Compare the rows of one shard."""
        first, second = _by_caption(a), _by_caption(b)
        for caption in {**first, **second}:
            x, y = first.get(caption), second.get(caption)
            in_a, in_b = x is not None and x.kept, y is not None and y.kept
            if in_a and in_b:
                self.counts["in_both"] += 1
            elif in_a:
                self._count("only_in_a", x, y)
            elif in_b:
                self._count("only_in_b", y, x)

    def _count(self, name: str, here: Candidate | None, there: Candidate | None) -> None:
        self.counts[name] += 1
        self.counts["decided_otherwise"] += there is not None
        shown = self.examples.setdefault(name, [])
        if here is not None and len(shown) < _EXAMPLES:
            other = "not a candidate" if there is None else there.reason
            shown.append(
                {
                    "key": here.key,
                    "source": here.source,
                    "text": here.text,
                    "itm_probability": here.itm_probability,
                    "there": other,
                }
            )


def _by_caption(rows: list[Candidate]) -> dict[tuple[str, str, str], Candidate]:
    found: dict[tuple[str, str, str], Candidate] = {}
    for row in rows:
        caption = (row.key, row.source, row.text)
        if caption not in found or row.kept:
            found[caption] = row
    return found
