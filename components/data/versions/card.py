"""A dataset's card: what it was made from and how, with counts and limits, in the words of its manifest.

A card is read by strangers: models go by their names and digests, never by where they lay, and whatever looks like a
secret is taken out. What nobody has said, such as a licence, is called unknown rather than left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from components.common.errors import ConfigError, StorageError
from components.common.redact import redact
from components.common.seeding import digest_of
from components.common.storage import open_store
from components.data.manifest import Manifest
from components.data.records import Counts, FileRecord, Parent

UNKNOWN = "unknown: ask"
_HUB = re.compile(r".*/models--(?P<owner>[^/]+)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{7,40})/?")
_SERVER = re.compile(r"https?://.*#(?P<model>.+)")
_HEAD = re.compile(r"\A---\s*\n(?P<head>.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MODELS = ("captioner", "filter")
_LIST = 20  # terms of a list that a card shows as they are


class Source(NamedTuple):
    """Something a dataset was made from, for strangers."""

    role: str
    name: str
    digest: str
    licence: str


class Card(NamedTuple):
    """What a card and the Croissant document say alike."""

    licence: str
    """As the hub spells it; empty: nobody said."""
    sources: tuple[Source, ...]
    settings: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, manifest: Manifest, *, license: str, licenses: Mapping[str, str]) -> "Card":  # noqa: A002
        """What the manifest tells; licences of models from their own cards, unless they are given by role.

        Raises:
            ConfigError: a licence is given for what the dataset was not made from.
        """
        roles = [parent.role for parent in manifest.parents]
        if unknown := sorted(set(licenses) - set(roles)):
            raise ConfigError(f"{unknown[0]} is nothing that this dataset was made from: that is {', '.join(roles)}")
        sources = [
            Source(one.role, public_name(one), one.digest, licenses.get(one.role) or _licence_of(one))
            for one in manifest.parents
        ]
        return cls(license, tuple(sources), tuple(_settings(manifest.config)))


def public_name(parent: Parent) -> str:
    """What a parent is called, without where it lay: a hub's name and revision, a server's model, the last folder."""
    if hub := _HUB.fullmatch(parent.uri):
        return f"{hub['owner']}/{hub['name']} at {hub['revision'][:12]}"
    if server := _SERVER.fullmatch(parent.uri):
        return server["model"]
    parts = [part for part in parent.uri.rstrip("/").split("/") if part]
    if len(parts) > 2 and parts[-3] == "datasets":
        return parts[-2]
    return parts[-1] if parts else parent.role


def _licence_of(parent: Parent) -> str:
    """What a model's own card says of its licence."""
    if parent.role not in _MODELS and not parent.role.startswith("scorer:") or "#" in parent.uri or not parent.uri:
        return UNKNOWN
    try:
        match = _HEAD.match(open_store(parent.uri).read("README.md").decode("utf-8-sig", "replace"))
        head = yaml.safe_load(match["head"]) if match else None
    except (StorageError, ConfigError, yaml.YAMLError):  # it has moved, or has no card
        return UNKNOWN
    if not isinstance(head, dict):
        return UNKNOWN
    found = head.get("license_name") if head.get("license") == "other" else head.get("license")
    names = [str(one) for one in (found if isinstance(found, list) else [found]) if one]
    return ", ".join(names) or UNKNOWN


def _settings(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A manifest's settings as flat names and values; long lists by their number and digest."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{name}.")
        elif isinstance(value, list) and len(value) > _LIST:
            yield f"{above}{name}", f"{len(value)} entries, sha256 {digest_of(value)[:16]}"
        elif value is not None:
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def features(split: str, ending: str, scores: Sequence[str], samples: int, size: int) -> dict[str, Any]:
    """`dataset_info` of a card's head: the types of all fields, so that nobody has to guess them from five samples."""

    def column(name: str, kind: str) -> dict[str, Any]:
        return {"name": name, "dtype": kind}

    texts = [column(name, "string") for name in ("key", "uid", "url", "image_sha256", "format", "text")]
    lists = [("captions", "string"), ("sources", "string"), ("weights", "float64")]
    fields: list[dict[str, Any]] = [*texts, *({"name": name, "list": kind} for name, kind in lists)]
    if scores:
        fields.append({"name": "scores", "struct": [{"name": name, "list": "float64"} for name in scores]})
    columns = [column(ending, "image"), {"name": "json", "struct": fields}, column("txt", "string")]
    return {
        "features": [*columns, column("__key__", "string"), column("__url__", "string")],
        "splits": [{"name": split, "num_bytes": size, "num_examples": samples}],
        "download_size": size,
        "dataset_size": size,
    }


def card_text(
    manifest: Manifest, card: Card, tars: Sequence[FileRecord], split: str, ending: str, scores: Sequence[str]
) -> str:
    """The README.md.

    Args:
        manifest: of the version.
        card: what is known of its sources.
        tars: the files.
        split: name of the split.
        ending: of the images.
        scores: names of the scores.
    """
    samples = manifest.totals.kept
    head = {
        "pretty_name": manifest.name,
        "license": card.licence or "unknown",
        "task_categories": ["image-to-text"],
        "size_categories": [next((name for limit, name in _SIZES if samples < limit), "n>10M")],
        "tags": ["webdataset", "capfilt"],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.tar"}]}],
        "dataset_info": features(split, ending, scores, samples, sum(tar.bytes for tar in tars)),
    }
    body = "\n\n".join([
        f"# {manifest.name}",
        _about(manifest, samples),
        "## Made from\n\n" + _sources(card),
        "## Settings\n\n" + _table(("setting", "value"), card.settings),
        "## Counts\n\n" + _counts(manifest.totals),
        "## In the files\n\n" + _fields(split, ending, scores),
        "## Limits\n\n" + _limits(manifest, card),
        "## Reading it\n\n" + _reading(split, ending, len(tars)),
    ])  # fmt: skip
    return redact(f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{body}\n")


def _about(manifest: Manifest, samples: int) -> str:
    what = {
        "capfilt": "Captions written by a model and texts from the web, kept where a filter found them to fit",
        "recut": "Captions written by a model and texts from the web, chosen by scores that were stored before",
        "scored": "Captions written by a model and texts from the web, with scores of further programs",
        "selected": "A part of another dataset, chosen by a list",
        "human": "Captions written by people",
        "web": "Images and texts from the web as they were found",
    }.get(manifest.kind, f"A {manifest.kind} dataset")
    pairs = manifest.totals.kept_pairs
    return f"{what}: {samples:,} images, {pairs:,} pairs. Version `{manifest.digest}` ({manifest.kind})."


def _sources(card: Card) -> str:
    if not card.sources:
        return "Nothing that has a version of its own."
    rows = [(one.role, one.name, one.digest, one.licence) for one in card.sources]
    return _table(("role", "name", "digest", "licence"), rows)


def _counts(counts: Counts) -> str:
    rows = [
        ("images in", counts.samples),
        ("images kept", counts.kept),
        ("images without a kept caption", counts.dropped),
        *((f"images that failed: {reason}", count) for reason, count in counts.failed.items()),
        ("captions kept", counts.kept_pairs),
        ("captions considered and not kept", counts.dropped_pairs),
    ]
    return _table(("what", "how many"), [(name, f"{count:,}") for name, count in rows])


def _fields(split: str, ending: str, scores: Sequence[str]) -> str:
    rows = [
        (
            f"`{ending}`",
            "the image, byte for byte as it was found; `json.format` is its format, whatever its ending says",
        ),
        ("`txt`", "one caption of the image"),
        ("`json.key`, `json.uid`, `json.url`", "its key; its uid and address where the input had them, else empty"),
        ("`json.image_sha256`", "sha256 of the image's bytes"),
        ("`json.captions`", "all kept captions"),
        ("`json.sources`", "where each is from: `web`, `synthetic`, `human` or `question`"),
        ("`json.weights`", "how often a training shall meet each pair in relation to others"),
        *((f"`json.scores.{name}`", f"what the scorer `{name}` said of each caption") for name in scores),
    ]
    return f"Split `{split}`.\n\n" + _table(("field", "what it is"), rows)


def _limits(manifest: Manifest, card: Card) -> str:
    told = [
        "Images and texts from the web belong to those who made them; the licence of each is not recorded here.",
        "Nobody has looked for people, private data or harmful content unless it is said above.",
    ]
    if any(one.role == "captioner" for one in card.sources):
        told.append("Synthetic captions say what a model saw, mistakes included; no person has checked them all.")
        told.append(
            "Scores are those of the scorers named above and compare with no others; a caption above the threshold may "
            "still be wrong."
        )
    if any(one.licence == UNKNOWN for one in card.sources):
        told.append(f"Where a licence is `{UNKNOWN}`, its terms may bind what was made with it: ask before using it.")
    if not card.licence:
        told.append("Nobody has said under which licence this dataset is given.")
    if manifest.totals.failed:
        told.append("Images that could not be read are counted above and are not among the files.")
    return "\n".join(f"- {one}" for one in told)


def _reading(split: str, ending: str, tars: int) -> str:
    shards = f"data/{split}-{{00000..{tars - 1:05d}}}-of-{tars:05d}.tar"
    return f"""```python
from datasets import load_dataset

samples = load_dataset(".", split="{split}")  # in this folder
```

```python
import webdataset

samples = webdataset.WebDataset("{shards}", shardshuffle=False).decode("pilrgb").to_tuple("{ending}", "txt")
```"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A text in a table: on one line, and no more of it than fits."""
    flat = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return flat if len(flat) <= 200 else f"{flat[:199]}…"
