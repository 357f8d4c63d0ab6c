"""`capfilt report`: the page of a bootstrap, or of a dataset that CapFilt made, again from what its store keeps."""

from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import Output, command
from capfilt.cli.options import Json
from components.common.programs import command_line


def report(
    store: Annotated[
        str,
        typer.Argument(
            help="Where a bootstrap has worked, or a dataset that CapFilt made: a folder or s3://bucket/prefix."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Only bootstraps of this name.", show_default=False)] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(help="Only the bootstrap whose id begins like this.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the page to this file; by default into the store.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1000, help="Web images to show.")] = 24,
    truth: Annotated[
        str | None,
        typer.Option(help="Of a dataset: a table with columns key and kind, to show mistakes.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log lines.")] = False,
) -> None:
    """Write the page of the newest bootstrap in a store again, and print its table; or the page of a dataset."""
    with command(as_json=as_json, verbose=verbose) as shown:
        from components.common.storage import open_store
        from components.data.manifest import MANIFEST_KEY

        place = open_store(store)
        if place.exists(MANIFEST_KEY):
            _of_dataset(place.uri, out, images, truth, shown)
        else:
            _of_bootstrap(place.uri, name, bootstrap, out, images, shown)


def _of_dataset(uri: str, out: Path | None, images: int, truth: str | None, shown: Output) -> None:
    from components.data.manifest import load_manifest
    from components.pages.results import store_dataset_page

    where = store_dataset_page(load_manifest(uri).ref(uri), out, truth_uri=truth, images=images)
    shown.result({"report": where}, f"report: {where}")


def _of_bootstrap(
    uri: str, name: str | None, bootstrap: str | None, out: Path | None, images: int, shown: Output
) -> None:
    from components.common.storage import open_store
    from components.pages.results import find_result, store_page
    from components.pages.table import print_result

    result = find_result(open_store(uri), name, bootstrap)
    result = result.model_copy(update={"report": store_page(result, out, images=images)})
    if shown.as_json:
        shown.result(result.model_dump(mode="json"))
    else:
        print_result(result, command_line("ui", uri))
