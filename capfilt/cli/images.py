"""`capfilt caption` and `capfilt match`: models on single images."""

from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import CAPTIONING, Given, Json, Model, Option, Shown
from components.regeneration.config import CapfiltConfig

CAPTION = Shown(CapfiltConfig, *CAPTIONING, "image_size")
MATCH = Shown(CapfiltConfig, "position_zero", Option("precision", "--dtype"), "image_size")

Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE")]


@CAPTION
def caption(images: Images, model: Model, given: Given[CapfiltConfig], as_json: Json = False) -> None:
    """Write captions for images."""
    with command(as_json=as_json) as out:
        config = given.config()
        from capfilt.api import caption as work

        with given.in_options():
            rows = work(model, images, config=config)
        out.result(rows, "\n".join(f"{row['image']}: {text}" for row in rows for text in row["captions"]))


@MATCH
def match(
    images: Images,
    model: Model,
    text: Annotated[list[str], typer.Option(help="A text; may be repeated.")],
    given: Given[CapfiltConfig],
    as_json: Json = False,
) -> None:
    """How well texts fit images: probability of a match (ITM) and cosine (ITC)."""
    with command(as_json=as_json) as out:
        config = given.config()
        from capfilt.api import score

        with given.in_options():
            rows = score(model, images, text, config=config)
        lines = [
            f"{row['itm_probability']:.4f}  {row['itc_similarity']:+.4f}  {row['image']}  {row['text']}" for row in rows
        ]
        out.result(rows, "\n".join(["match   cosine", *lines]))
