"""`capfilt dataset import-files` and `capfilt dataset failed`: images with texts beside them; what was of no use."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from capfilt.cli.console import command
from capfilt.cli.datasets import Limit, StoreUri, run_import
from capfilt.cli.options import Json
from components.common.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_files(
    folder: Annotated[str, typer.Argument(help="Folder or S3 prefix of images with .txt or .json beside them.")],
    store: StoreUri,
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "web",
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Import a folder of images and texts, such as img2dataset's of --output_format files, as web data.

    Interrupted, the same command goes on with the next shard.
    """
    with command(as_json=as_json) as out:
        from components.data.web import import_files as work

        run_import(out, work, "images", folder, store=store, name=name, shard_size=shard_size, limit=limit)


def failed(uri: Annotated[str, typer.Argument(help="A dataset's folder or prefix.")], as_json: Json = False) -> None:
    """Every sample that could not be used: its shard, key, reason, and what was found."""
    with command(as_json=as_json) as out:
        rows = list(_failed(uri))
        lines = [f"{row['shard']}  {row['key']}  {row['reason']}  {row['detail']}".rstrip() for row in rows]
        out.result(rows, "\n".join(lines or ["no sample failed"]))


def _failed(uri: str) -> "Iterator[dict[str, Any]]":
    from components.common.storage import normalise_uri
    from components.data.commits import commit_of
    from components.data.manifest import load_manifest

    root = open_store(normalise_uri(uri))
    for entry in load_manifest(root.uri).shards:
        record = commit_of(root, entry) if entry.counts.failed else None
        for bad in record.bad if record is not None else ():
            yield {"shard": entry.name, **bad.model_dump(mode="json")}
