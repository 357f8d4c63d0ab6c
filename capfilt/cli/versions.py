"""`capfilt dataset versions`: which datasets a store holds."""

from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json


def versions(
    store: Annotated[str, typer.Argument(help="Root of a run's store: a folder or s3://bucket/prefix.")],
    name: Annotated[
        str | None, typer.Option(help="Only the dataset of this name, e.g. web-capfilt-1.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """The dataset versions of a store, oldest first; those begun and not finished among them."""
    with command(as_json=as_json) as out:
        from capfilt.cli.dataset_tables import listed
        from capfilt.cli.tables import rendered
        from components.common.storage import normalise_uri
        from components.data.versions.listing import list_versions

        found = list_versions(store, name)
        document = [one.model_dump(mode="json") for one in found]
        out.result(document, lambda: rendered(*listed(found, normalise_uri(store))))
