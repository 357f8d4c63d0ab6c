"""`capfilt ask`: questions about images."""

from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Given, Json, Model, Option, Shown
from components.inference.config import AskConfig

ASK = Shown(
    AskConfig,
    Option(
        "method",
        default=None,
        help="rank: the likeliest of a list of answers; generate: an answer written word by word; default: rank where "
        "the model's folder or --answers has a list",
    ),
    "top_k",
    "rank_smoothing",
    "beams",
    "max_length",
    "position_zero",
    "image_size",
    Option("precision", "--dtype"),
)
Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE")]
Questions = Annotated[list[str], typer.Option("--question", help="A question; may be repeated.", metavar="Q")]
Answers = Annotated[
    Path | None,
    typer.Option("--answers", help="Answers to choose from: a JSON list, or a text a line.", show_default=False),
]


@ASK
def ask(
    images: Images,
    model: Model,
    question: Questions,
    given: Given[AskConfig],
    answers: Answers = None,
    as_json: Json = False,
) -> None:
    """Answer questions about images."""
    with command(as_json=as_json) as out:
        config = given.config()
        from capfilt.api import ask as work
        from components.model.checkpoints.answers import answers_of

        chosen = None if answers is None else answers_of(answers)
        rows = work(model, images, question, answers=chosen, config=config)
        one = len(set(question)) == 1
        lines = [f"{row['image']}: {'' if one else row['question'] + ' '}{row['answer']}" for row in rows]
        out.result(rows, "\n".join(lines))
