"""`capfilt store …`: the store as a whole."""

from typing import Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json

app = typer.Typer(help="The store as a whole: its format, and what it could do without.", no_args_is_help=True)

Uri = Annotated[str, typer.Argument(help="Root of a store, or of a dataset that stands alone.")]


@app.command()
def upgrade(uri: Uri, as_json: Json = False) -> None:
    """Bring a store that an earlier release wrote to the format of today: no model is needed and no image read."""
    with command(as_json=as_json) as out:
        from components.common.lock import exclusive
        from components.common.storage import open_store
        from components.data.versions.upgrade import upgrade_store
        from flows.layout import LOCK_KEY
        from flows.outdated import outdated

        with exclusive(open_store(uri), LOCK_KEY, "capfilt store upgrade"):
            done = upgrade_store(uri)
        again = outdated(open_store(done.uri))
        lines = [
            f"{done.uri}: {len(done.datasets)} datasets of format 1 are of format 2 now, "
            f"{done.records} stage records name them by their new digests"
        ]
        if again:
            lines.append("`capfilt run` does these stages again, as this release makes something else of their input:")
            lines += [f"  {stage}: {why}" for stage, why in again.items()]
            lines.append("Their datasets and models stay where they are, for commands that are given them by name.")
        out.result({**done.model_dump(mode="json"), "done_again": again}, "\n".join(lines))


@app.command()
def gc(
    uri: Uri,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be deleted, and delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete files that no sealed dataset and no unfinished one refers to."""
    with command(as_json=as_json) as out:
        from components.common.lock import exclusive
        from components.common.storage import open_store
        from components.data.versions.leftovers import collect_leftovers
        from flows.layout import LOCK_KEY

        with exclusive(open_store(uri), LOCK_KEY, "capfilt store gc"):
            found = collect_leftovers(uri, delete=not dry_run)
        what = "would be deleted" if dry_run else "deleted"
        lines = [f"{found.uri}: {len(found.keys)} files, {found.bytes:,} bytes {what}", *found.keys]
        out.result(found.model_dump(mode="json"), "\n".join(lines))
