"""A dataset for other programs: the list of its tars, as webdataset and open_clip take it, or plainly named copies."""

import json
from pathlib import Path

from components.common.errors import ConfigError
from components.common.storage import open_store, split_uri
from components.data.manifest import file_uri, load_manifest


def shard_urls(uri: str) -> list[str]:
    """Paths or `s3://` URIs of a dataset's tars, in order."""
    return [file_uri(uri, entry.tar) for entry in load_manifest(uri).shards]


def export_shards(uri: str, folder: Path) -> list[Path]:
    """Copy a dataset's tars into a folder as `00000.tar`, `00001.tar` …, with `sizes.json` as open_clip reads it.

    Raises:
        ConfigError: there are tars in the folder already.
    """
    shards = load_manifest(uri).shards
    folder.mkdir(parents=True, exist_ok=True)
    if there := next(folder.glob("*.tar"), None):
        raise ConfigError(f"{there} is there already: export into an empty folder, so that tars are of one dataset")
    made, sizes = [], {}
    for index, entry in enumerate(shards):
        path = folder / f"{index:05d}.tar"
        place, key = split_uri(file_uri(uri, entry.tar))
        open_store(str(folder)).copy(open_store(place), key, path.name)
        sizes[path.name] = entry.counts.kept
        made.append(path)
    (folder / "sizes.json").write_text(json.dumps(sizes, indent=1))
    return made
