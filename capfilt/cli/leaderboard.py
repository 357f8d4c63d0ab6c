"""`capfilt leaderboard`: all models ranked over rounds and bootstraps."""

from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json

if TYPE_CHECKING:
    from capfilt.standings import Board, Placed

_HEAD = ("", "value", "interval", "round", "bootstrap", "on", "model", "alias")


def leaderboard(
    store: Annotated[
        str, typer.Argument(help="Where bootstraps have worked, or an MLflow tracking URI.", metavar="STORE")
    ],
    metric: Annotated[
        str | None,
        typer.Option(help="A metric's name or its end, e.g. cider; by default what bootstraps are about."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank all models by what was measured, over rounds and bootstraps, with intervals, datasets and aliases."""
    with command(as_json=as_json) as out:
        from capfilt.standings import leaderboard as work

        boards = work(store, metric)
        out.result({"boards": boards}, "\n\n".join(map(_table, boards)) or f"{store}: no model was measured yet")


def _table(board: "Board") -> str:
    rows = [_HEAD, *map(_cells, board["models"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([board["metric"], *(lines if board["models"] else ["no model has it"])])


def _cells(one: "Placed") -> tuple[str, ...]:
    interval = "" if one["low"] is None or one["high"] is None else f"{one['low']:.3f}–{one['high']:.3f}"
    number = "" if one["round"] is None else str(one["round"])
    made = one["bootstraps"][:1] + ([f"+{len(one['bootstraps']) - 1}"] if len(one["bootstraps"]) > 1 else [])
    return (
        f"{one['place']}",
        f"{one['value']:.4f}",
        interval,
        number,
        " ".join(made),
        one["dataset"],
        one["model"],
        " ".join(one["aliases"]),
    )
