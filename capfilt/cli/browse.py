"""`capfilt browse`: a dataset's candidates on a page."""

from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import command
from components.common.errors import ConfigError

_PORT = 8321


def browse(
    uris: Annotated[
        list[str], typer.Argument(help="A dataset's folder or prefix; or two to compare.", metavar="URI [URI]")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0: a free one.")] = _PORT,
    marks: Annotated[
        Path | None,
        typer.Option(help="File that marks are added to.", show_default="marks-NAME-VERSION.jsonl"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of the filter that made the vectors, if it has moved.", show_default=False),
    ] = None,
) -> None:
    """Look at a dataset: every candidate text, kept or not, with its image, scores and reason, until Ctrl-C.

    Filters, order and page are in the address. Another threshold shows what `dataset recut` would keep; two versions
    are compared text by text; texts are marked right or wrong by the keyboard.
    """
    with command(stopping="stopping the dataset browser") as out:
        if len(uris) > 2:
            raise ConfigError(f"browse shows one dataset, or compares two: {len(uris)} were given")
        from components.pages.browser.serving import browse as work

        def told(address: str, notes: Path) -> None:
            words = f"Browser  {address}\nMarks    {notes}\nCtrl-C ends it."
            out.result({"browser": address, "marks": str(notes)}, words)

        work(uris, port=port, marks=marks, model=model, told=told)
