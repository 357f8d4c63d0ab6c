"""`capfilt search` and `capfilt index`: images found by words or by another image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json, Model
from components.common.errors import ConfigError
from components.common.programs import command_line

if TYPE_CHECKING:
    from capfilt.searching import Hit

_SHOWN = 60  # characters of a caption


def search(
    uri: Annotated[str, typer.Argument(help="A dataset made by CapFilt, or a folder that was indexed.")],
    words: Annotated[str | None, typer.Argument(help="What to look for.", show_default=False)] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image file to find similar images of.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of the filter that made the vectors, if it has moved.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Images to find.")] = 10,
    rerank: Annotated[
        int, typer.Option(min=0, help="Ask the ITM head about so many nearest images, and order them by its answer.")
    ] = 0,
    captions: Annotated[
        bool, typer.Option(help="Images whose captions say the words come further to the front.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Find images by words or by an image, among all that CapFilt saw, kept or not; every vector is compared."""
    with command(as_json=as_json) as out:
        if (words is None) == (image is None):
            raise ConfigError('search by words or by an image: give "words", or --image FILE')
        if rerank and words is None:
            raise ConfigError("--rerank asks whether words fit an image: give words, not --image")
        from capfilt.api import search as work

        hits = work(uri, words, image=image, model=model, top=top, rerank=rerank, captions=captions)
        out.result(hits, _table(hits))


def index(
    folder: Annotated[str, typer.Argument(help="Folder of images or tars, or a dataset.")],
    model: Model,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the model at a time.")] = 64,
    as_json: Json = False,
) -> None:
    """Make the vectors that `capfilt search` needs; a dataset's own are then not looked at."""
    with command(as_json=as_json) as out:
        from capfilt.api import index as work
        from components.common.progress import Progress

        with Progress(None, "images", "index") as progress:
            count = work(folder, model, batch_size=batch_size, progress=progress.advance)
        document = {"uri": folder, "images": count}
        out.result(document, f"{count:,} images indexed\nnext: {command_line('search', folder, 'a red bus')}")


def _table(hits: "list[Hit]") -> str:
    """A row per image for people: cosine, match where it was asked, key, and the caption that tells most."""
    judged = any(hit["itm_probability"] is not None for hit in hits)
    width = max([len("key"), *(len(hit["key"]) for hit in hits)])
    lines = [f"cosine  {'match   ' if judged else ''}{'key':{width}}  caption"]
    for hit in hits:
        match = "" if not judged else f"{_number(hit['itm_probability']):6}  "
        lines.append(f"{hit['similarity']:+.3f}  {match}{hit['key']:{width}}  {_caption(hit)}".rstrip())
    return "\n".join(lines if hits else ["no image"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _caption(hit: "Hit") -> str:
    """The first that says the words and was kept, that says them, that was kept, or that there is."""
    if not hit["captions"]:
        return ""
    chosen = max(hit["captions"], key=lambda one: (one["says"], one["kept"]))
    text = " ".join(chosen["text"].split())
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    return text if chosen["kept"] else f"{text} (dropped)"
