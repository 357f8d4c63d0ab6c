"""Datasets for people: what `dataset show | diff | explain | versions` print where `--json` prints a document."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from capfilt.cli.tables import facts, local_time, next_step, short, table
from components.common.locations import is_below
from components.common.storage import join_uri
from components.pages.browser.wording import reason_sentence, reason_words

if TYPE_CHECKING:
    from components.data.versions.listing import VersionListing

_VERSION = 12  # digits of a version that are shown
_DIGEST = re.compile("[0-9a-f]{40}")
_COUNTS = {
    "in": "samples read",
    "kept": "images with a kept text",
    "dropped": "images without one",
    "failed": "images that could not be used",
    "kept_pairs": "pairs",
    "dropped_pairs": "texts dropped",
}
_CUT = ("capfilt", "recut")  # kinds with scores to cut again


def shown(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A dataset: version, counts, parents, settings."""
    uri, kind = document["uri"], document["kind"]
    yield Text(f"{document['name']}  version {document['digest'][:_VERSION]}  ({kind})", style="bold")
    parents = {one["role"]: f"{one['digest'][:_VERSION]}  {one['uri']}" for one in document["parents"]}
    read_from = {"read from": document["origin"]}
    yield facts({"place": uri, "digest": document["digest"], **read_from, "shards": document["shards"], **parents})
    yield ""
    yield table(("what", "count"), _counted(document["counts"]), right=["count"])
    if settings := list(_flat(document["config"])):
        yield ""
        yield table(("setting", "value"), ((name, short(value)) for name, value in settings))
    yield ""
    recut = ("dataset", "recut", uri, "--threshold", "0.7", "--out", f"{document['name']}-0.7")
    yield next_step(("browse", uri), *([recut] if kind in _CUT else []), ("dataset", "verify", uri))


def compared(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Two versions: what was set otherwise, what that changed, and texts to look at."""
    a, b = document["a"], document["b"]
    for name, one in (("a", a), ("b", b)):
        yield Text(f"{name}  {one['name']}  version {one['digest'][:_VERSION]}  {one['uri']}")
    if document["same"]:
        yield "\nThey are one version: the same images, texts, decisions and settings."
        return
    yield ""
    rows = [(one["name"], _plain(one["there"]), _plain(one["wanted"])) for one in document["differences"]]
    yield table(("differs", "a", "b"), rows) if rows else "no setting and nothing it was made from differs"
    yield ""
    yield table(("what", "a", "b", "change"), _changes(a["counts"], b["counts"]), right=["a", "b", "change"])
    captions = document["captions"]
    yield (
        f"\n{captions['in_both']:,} kept texts in both, {captions['only_in_a']:,} only in a, "
        f"{captions['only_in_b']:,} only in b; {captions['decided_otherwise']:,} known to both and decided otherwise"
    )
    for name, other in (("only_in_a", "b"), ("only_in_b", "a")):
        if examples := document["examples"].get(name):
            yield ""
            cells = (
                (one["key"], one["source"], _score(one), one["text"], reason_words(one["there"])) for one in examples
            )
            title = f"{name.replace('_', ' ')}, the first {len(examples)}"
            yield table(("key", "from", "match", "text", f"in {other}"), cells, right=["match"], title=title)
    yield ""
    yield next_step(("browse", a["uri"], b["uri"]))


def explained(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A sample: its texts with scores and what became of each, then where it comes from."""
    dataset, candidates = document["dataset"], document["candidates"]
    kept = sum(one["kept"] for one in candidates)
    yield Text(f"{document['key']} in {dataset['name']}, version {dataset['digest'][:_VERSION]}", style="bold")
    for bad in document["failures"]:
        yield f"could not be used: {reason_words(bad['reason'])}{': ' if bad['detail'] else ''}{bad['detail']}"
    if candidates:
        yield f"{kept} of {len(candidates)} texts kept" + ("" if kept else ": the image is not in the dataset")
        yield ""
        others = sorted({name for one in candidates for name in one.get("scores", {})})
        cells = [_candidate(one, others, document["config"]) for one in candidates]
        columns = ("text", "from", "match", "cosine", *others, "what became of it")
        yield table(columns, cells, right=["match", "cosine", *others])
    yield ""
    source = document["input"]
    offsets = ", ".join(f"{offset:,}" for offset in source.get("offsets", ()))
    parents = {one["role"]: f"{one['digest'][:_VERSION]}  {one['uri']}" for one in document["parents"]}
    yield facts(
        {
            "shard": document["shard"]["tar"],
            "read from": source.get("tar") or source.get("origin"),
            "at byte": offsets,
            "place unknown": source.get("unknown"),
            "image sha256": document["image_sha256"],
            "seeds": ", ".join(map(str, document["seeds"])),
            **parents,
        }
    )
    yield ""
    yield next_step(("browse", dataset["uri"]))


def listed(found: "Sequence[VersionListing]", store: str) -> Iterator[RenderableType]:
    """The versions of a store, oldest first, by their places below its `datasets/`."""
    root = join_uri(store, "datasets")
    rows = [
        (
            one.uri[len(root) + 1 :] if is_below(root, one.uri) else one.uri,
            one.digest[:8] if one.digest else one.problem,
            one.kind,
            f"{one.images:,}" if one.digest else "–",
            f"{one.pairs:,}" if one.digest else "–",
            local_time(one.written)[5:16],
        )
        for one in found
    ]
    yield Text(f"{root}/", style="bold")
    yield table(("dataset", "version", "kind", "images", "pairs", "written"), rows, right=["images", "pairs"])
    yield ""
    whole = [one for one in found if one.digest]
    made = [one.uri for one in whole if one.kind in _CUT]
    compare = [("dataset", "diff", *made[-2:])] if len(made) > 1 else []
    yield next_step(*(("dataset", "show", one.uri) for one in whole[-1:]), *compare)


def _counted(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Counts by their names, failures with their reasons."""
    for key, name in _COUNTS.items():
        value = counts[key]
        if key != "failed":
            yield name, f"{value:,}"
            continue
        yield name, f"{sum(value.values()):,}"
        for reason, count in sorted(value.items()):
            yield f"  {reason_words(reason)}", f"{count:,}"


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for key, name in _COUNTS.items():
        before, after = (sum(one[key].values()) if key == "failed" else one[key] for one in (a, b))
        yield name, f"{before:,}", f"{after:,}", f"{after - before:+,}" if after != before else ""


def _plain(value: str) -> str:
    """A setting as a person writes it; a version by its first digits."""
    text = value.strip("'")
    return "–" if text in ("None", "nothing") else text[:_VERSION] if _DIGEST.match(text) else text


def _candidate(one: Mapping[str, Any], others: Sequence[str], config: Mapping[str, Any]) -> tuple[object, ...]:
    scores = one.get("scores", {})
    return (
        one["text"],
        one["source"],
        _score(one),
        _number(one["itc_similarity"]),
        *(_number(scores[name]["value"]) if name in scores else "–" for name in others),
        Text("kept", style="green") if one["kept"] else _why(one, config),
    )


def _why(one: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Why a text was dropped, in words."""
    if one["reason"] != "below_threshold":
        return f"dropped: {reason_sentence(one['reason'])}"
    if config.get("keep") is not None:
        return f"dropped: the rule {config['keep']} does not hold"
    of = "the weighed scores are" if config.get("weights") else f"{config.get('score') or 'match'} is"
    return f"dropped: {of} below the threshold of {config.get('threshold', 0):g}"


def _score(one: Mapping[str, Any]) -> str:
    return _number(one["itm_probability"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _flat(settings: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their full names; what is not in use is left out."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}.")
        elif value is not None:
            yield f"{group}{name}", value
