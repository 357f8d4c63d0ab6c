"""The `capfilt` command. Heavy imports happen in the commands, so that `--help` is instant."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.cli import datasets, describe, imports, store
from capfilt.cli.ask import ask
from capfilt.cli.browse import browse
from capfilt.cli.completion import completion, know_shells
from capfilt.cli.console import Output, command, leave, news
from capfilt.cli.images import caption, match
from capfilt.cli.leaderboard import leaderboard
from capfilt.cli.measures import metrics, retrieval
from capfilt.cli.options import Json
from capfilt.cli.place import Place, config_at, is_store
from capfilt.cli.regenerate import regenerate
from capfilt.cli.report import report
from capfilt.cli.search import index, search
from capfilt.cli.status import status
from capfilt.cli.usage import OneLineUsage
from components.common.programs import command_line, typeable

if TYPE_CHECKING:
    from components.config import BootstrapConfig

app = typer.Typer(
    name="capfilt",
    cls=OneLineUsage,
    help="BLIP's CapFilt as a system: pre-train on noisy pairs, caption and filter, train again, round after round.",
    epilog=typeable(
        "First steps: `capfilt doctor`, then `capfilt run` (the sample, minutes), then `capfilt ui`. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,  # `capfilt completion` is the one way to it
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


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"capfilt {version('capfilt')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the release and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def run(config: Config = None, overrides: Overrides = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Run the whole bootstrap; a finished stage is found, an interrupted one goes on.

    Every key of the config can be set, e.g. capfilt run configs/sample.yaml --set rounds=2 --set store=s3://bucket/root;
    a wrong name is answered with the nearest valid one.
    """
    with command(as_json=as_json, verbose=verbose) as out:
        from components.common.screen import quiet_screen
        from components.config import load_config
        from flows.layout import scratch_folder
        from flows.preflight import check_before_work
        from flows.server import prefect_server

        path, settings = _named(config), list(overrides or ())
        loaded = load_config(path, settings)
        check_before_work(loaded)
        starting = f"{loaded.name} · starting Prefect's server, which shows the stages"
        with (
            quiet_screen(starting, shown=False if verbose else None),
            prefect_server(scratch_folder(loaded) / "prefect") as server,
        ):
            from flows.bootstrap import bootstrap
            from flows.witness import run_here

            if server is not None:
                server.wait()
            result = run_here(bootstrap, str(path) if path else None, settings)
        _show_result(out, result.model_dump(mode="json"), _pages(config, settings, loaded))


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
def ui(
    place: Place = None,
    overrides: Overrides = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="MLflow's port on loopback; 0: a free one.", show_default="5000"),
    ] = None,
    prefect_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Prefect's port on loopback; 0: a free one.", show_default="4200"),
    ] = None,
    as_json: Json = False,
) -> None:
    """MLflow's and Prefect's pages on loopback, with their addresses, until Ctrl-C.

    A store is enough, for example: capfilt ui runs/sample
    """
    with command(as_json=as_json, stopping="stopping MLflow's and Prefect's pages") as out:
        news(f"starting MLflow's and Prefect's pages of {place or 'the sample'}")
        from capfilt.cli.ui import Ports, show_pages

        config = config_at(place, list(overrides or ()))
        show_pages(config, out, ports=Ports(port, prefect_port), newest=is_store(place))


@app.command()
def doctor(place: Place = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """What this machine has, what is wrong with it, and the fix; for a config, or for a store alone."""
    with command(as_json=as_json) as out:
        from capfilt.cli.doctor import examine

        healthy = examine(config_at(place, list(overrides or ())), out)
        if not healthy:
            raise typer.Exit(1)


def _named(config: Path | None) -> Path | None:
    """The config's absolute path, so that a process started elsewhere finds it."""
    return config.absolute() if config is not None else None


def _pages(path: Path | None, settings: list[str], config: "BootstrapConfig") -> str:
    """The command that serves the pages of a run: its store says all, but where MLflow writes is not left to it."""
    if settings and config.tracking == type(config.tracking)():
        return command_line("ui", config.store)
    return command_line("ui", *([str(path)] if path else []), *(f"--set={one}" for one in settings))


def _show_result(out: Output, document: dict[str, object], pages: str) -> None:
    if out.as_json:
        out.result(document)
        return
    from components.common.contracts import BootstrapResult
    from components.pages.table import print_result

    print_result(BootstrapResult.model_validate(document), pages)


for work in (
    regenerate, caption, match, ask, search, index, browse, metrics, retrieval, report, leaderboard, status, completion,
):  # fmt: skip
    app.command()(work)
for work in (imports.import_files, imports.failed):
    datasets.app.command()(work)
app.add_typer(datasets.app, name="dataset")
app.add_typer(store.app, name="store")
app.add_typer(describe.app, name="config")


def main() -> None:
    """What the installed command calls."""
    know_shells()
    try:
        app()
    except SystemExit as end:
        leave(end)


if __name__ == "__main__":
    main()
