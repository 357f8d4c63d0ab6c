"""The `capfilt` command. Heavy imports happen in the commands, so that `--help` is instant."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from capfilt.cli import datasets, store
from capfilt.cli.ask import ask
from capfilt.cli.browse import browse
from capfilt.cli.console import Output, command, leave
from capfilt.cli.images import caption, match
from capfilt.cli.leaderboard import leaderboard
from capfilt.cli.measures import metrics, retrieval
from capfilt.cli.options import Json
from capfilt.cli.regenerate import regenerate
from capfilt.cli.report import report
from capfilt.cli.search import index, search
from capfilt.cli.usage import OneLineUsage
from components.common.programs import program

app = typer.Typer(
    name="capfilt",
    cls=OneLineUsage,
    help="BLIP's CapFilt as a system: pre-train on noisy pairs, caption and filter, train again, round after round.",
    epilog="First steps: `capfilt doctor`, then `capfilt run` (the sample, ten minutes), then `capfilt ui`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Config = Annotated[
    Path | None,
    typer.Argument(help="YAML config; without one the sample's.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting on top of the config, as key.inner=value; may be repeated.", metavar="A.B=C"),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More log lines, also of the libraries.")]


@app.command()
def run(config: Config = None, overrides: Overrides = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the whole bootstrap; a finished stage is found, an interrupted one goes on.

    Every key of the config can be set, e.g. capfilt run configs/sample.yaml --set rounds=2 --set store=s3://bucket/root;
    a wrong name is answered with the nearest valid one.
    """
    with command(as_json=as_json, verbose=verbose) as out:
        from components.config import load_config
        from flows.layout import scratch_folder
        from flows.preflight import check_before_work
        from flows.server import prefect_server

        path, settings = _named(config), list(overrides or ())
        loaded = load_config(path, settings)
        check_before_work(loaded)
        with prefect_server(scratch_folder(loaded) / "prefect") as server:
            from flows.bootstrap import bootstrap
            from flows.witness import run_here

            if server is not None:
                server.wait()
            result = run_here(bootstrap, str(path) if path else None, settings)
        pages = [program("capfilt"), "ui", *([str(config)] if config else []), *(f"--set={one}" for one in settings)]
        _show_result(out, result.model_dump(mode="json"), shlex.join(pages))


@app.command()
def join(
    uri: Annotated[
        str, typer.Argument(help="Store of the run on machine 0, a shared folder or s3://.", metavar="STORE")
    ],
    minutes: Annotated[
        float | None, typer.Option(help="Leave when no training was announced for so long.", show_default=False)
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="Tell all machines that joined this store to leave.")] = False,
    verbose: Verbose = False,
) -> None:
    """Take part, from another machine, in all trainings of runs that work on a store with launch.nodes above 1.

    One command for all stages and rounds, before or after `capfilt run` on machine 0, which prints it. The machines
    need the same release, the store's keys, and a network on which machine 0 can be reached.
    """
    with command(verbose=verbose, stopping="stopping; machine 0 is told"):
        from components.training.joining import end_joined
        from components.training.joining import join as take_part

        if end:
            end_joined(uri)
        else:
            take_part(uri, minutes=minutes)


@app.command()
def serve(
    config: Config = None,
    cron: Annotated[str | None, typer.Option(help='When to run, e.g. "0 2 * * 0"; local time.')] = None,
    overrides: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Run the bootstrap on a schedule from this process, one at a time, until it is stopped.

    For example, every Sunday at two: capfilt serve configs/sample.yaml --cron "0 2 * * 0". Without --cron it waits for
    runs started by hand on Prefect's page.
    """
    with command(verbose=verbose):
        from flows.serving import serve_bootstrap

        serve_bootstrap(_named(config), list(overrides or ()), cron)


@app.command()
def ui(config: Config = None, overrides: Overrides = None) -> None:
    """MLflow's and Prefect's pages on loopback, with their addresses, until Ctrl-C."""
    with command(stopping="stopping MLflow's and Prefect's pages") as out:
        from capfilt.cli.ui import show_pages
        from components.config import load_config

        show_pages(load_config(_named(config), list(overrides or ())), out)


@app.command()
def doctor(config: Config = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """What this machine has, what is wrong with it, and the fix."""
    with command(as_json=as_json) as out:
        from capfilt.cli.doctor import examine

        healthy = examine(_named(config), list(overrides or ()), out)
        if not healthy:
            raise typer.Exit(1)


def _named(config: Path | None) -> Path | None:
    """The config's absolute path, so that a process started elsewhere finds it."""
    return config.absolute() if config is not None else None


def _show_result(out: Output, document: dict[str, object], pages: str) -> None:
    if out.as_json:
        out.result(document)
        return
    from components.common.contracts import BootstrapResult
    from components.pages.table import print_result

    print_result(BootstrapResult.model_validate(document), pages)


for work in (regenerate, caption, match, ask, search, index, browse, metrics, retrieval, report, leaderboard):
    app.command()(work)
app.add_typer(datasets.app, name="dataset")
app.add_typer(store.app, name="store")


def main() -> None:
    """What the installed command calls."""
    try:
        app()
    except SystemExit as end:
        leave(end)


if __name__ == "__main__":
    main()
