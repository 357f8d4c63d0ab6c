"""Files of a dataset found by their shard: their names have their content's hash in them."""

from pathlib import Path

from components.data.manifest import load_manifest


def shard_file(root: Path | str, name: str, suffix: str = ".tar") -> Path:
    """The only file of a shard, sealed or not: its tar, or another by its suffix."""
    (found,) = Path(root, "shards").glob(f"{name}-{'[0-9a-f]' * 16}{suffix}")
    return found


def commit_file(root: Path | str, name: str) -> Path:
    """The only commit record of a shard."""
    (found,) = Path(root, "commits").glob(f"{name}-{'[0-9a-f]' * 16}.json")
    return found


def files_by_shard(root: Path | str) -> dict[str, dict[str, bytes]]:
    """Bytes of a sealed dataset's own files, by shard and kind, as the manifest names them."""
    found = {}
    for entry in load_manifest(str(root)).shards:
        files = {"tar": entry.tar, "parquet": entry.parquet, "vectors": entry.vectors, "images": entry.images}
        found[entry.name] = {
            kind: Path(root, file.uri).read_bytes() for kind, file in files.items() if file and not file.in_place
        }
    return found
