"""`capfilt report`: the table and the page of a bootstrap that ended, made again from what its store keeps."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json
from components.common.programs import command_line


def report(
    store: Annotated[str, typer.Argument(help="Where a bootstrap has worked: a folder or s3://bucket/prefix.")],
    name: Annotated[str | None, typer.Option(help="Only bootstraps of this name.", show_default=False)] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(help="Only the bootstrap whose id begins like this.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the page to this file; by default into the store.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More log lines.")] = False,
) -> None:
    """Print the table of the newest bootstrap in a store again, and write its page again."""
    with command(as_json=as_json, verbose=verbose) as shown:
        from components.common.scratch import ScratchFolder
        from components.common.storage import join_uri, open_store
        from components.pages.results import find_result, report_key, write_page
        from components.pages.table import print_result

        place = open_store(store)
        result = find_result(place, name, bootstrap)
        with ScratchFolder("report") as folder:
            page = folder / "report.html"
            write_page(result, page)
            if out is None:
                place.upload(page, report_key(result))
            else:
                out.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(page, out)
        where = str(out) if out is not None else join_uri(place.uri, report_key(result))
        result = result.model_copy(update={"report": where})
        if shown.as_json:
            shown.result(result.model_dump(mode="json"))
        else:
            print_result(result, command_line("ui", store))
