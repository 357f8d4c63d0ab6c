"""`capfilt status`: where the run of a store is, or how it ended."""

from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.cli.console import command
from capfilt.cli.options import Json

if TYPE_CHECKING:
    from rich.text import Text

    from flows.status import Status

_QUIET = 60.0  # seconds without a heartbeat, which comes every 20, that are worth a word
_AGAIN = "run the same command again: finished stages are found, a training goes on from its last checkpoint"


def status(
    store: Annotated[
        str, typer.Argument(help="Where a run works or has worked: a folder or s3://bucket/prefix.", metavar="STORE")
    ],
    as_json: Json = False,
) -> None:
    """Where the run of a store is: stage, time left, last sign of life, last error, disk; or how it ended.

    From any machine that reaches the store, and for the output of `regenerate` too.
    """
    with command(as_json=as_json) as out:
        from capfilt.cli.tables import rendered
        from flows.status import status_of

        found = status_of(store)
        out.result(found.model_dump(mode="json"), lambda: rendered(*_told(found)))


def _told(found: "Status") -> list["Text"]:
    from capfilt.cli.tables import facts, next_step

    return [facts(_facts(found)), next_step(*_next(found))]


def _facts(found: "Status") -> dict[str, object]:
    """What is known, by name."""
    from capfilt.cli.tables import ago, local_time, size
    from components.common.progress import clock

    note, ended, dataset = found.note, found.ended, found.dataset
    known: dict[str, object] = {"store": found.store, "state": _state(found)}
    if note is not None and found.standing not in ("busy", "ended"):
        going = found.standing == "running"
        since = "" if note.stage_started is None else f", since {clock(_until(found) - note.stage_started)}"
        known["stage"] = None if note.stage is None else f"{note.stage}{since if going else ''}"
        known["progress"] = note.progress
        known["time left"] = _time_left(found) if going else None
        known["stages"] = f"{note.stages_done} done in {clock(_until(found) - note.started)}"
    if found.heartbeat is not None:
        known["heartbeat"] = ago(found.heartbeat, found.asked) + _silence(found)
    elif note is not None and note.state == "running":
        known["heartbeat"] = f"none any more; last word {ago(note.written, found.asked)} ({local_time(note.written)})"
    if note is not None:
        known["last error"] = _trouble(found)
    if dataset is not None:
        of = f" of {dataset.shards:,}" if dataset.shards else ""
        last = "" if dataset.last_shard is None else f", the last {ago(dataset.last_shard, found.asked)}"
        known["shards"] = f"{dataset.shards_done:,}{of} committed{last}"
        known["content"] = None if dataset.images is None else f"{dataset.images:,} images, {dataset.pairs:,} pairs"
    if ended is not None:
        known["last result"] = f"{ended.name}: {ended.outcome}, {local_time(ended.finished)}"
        known["report"] = ended.report
    if found.free_bytes is not None:
        known["disk"] = f"{size(found.free_bytes)} free"
    elif note is not None:
        known["disk"] = f"{size(note.free_bytes)} free at {note.work_folder} on {note.host}, {ago(note.written)}"
    return known


def _state(found: "Status") -> str:
    note = found.note
    name = "" if note is None else f"{note.name}: "
    where = "" if note is None else f" on {note.host}"
    return {
        "running": f"{name}running, {found.holder}",
        "busy": f"{found.holder} works here",
        "crashed": f"{name}its process{where} is gone without a word: killed, or the machine went down",
        "failed": f"{name}failed",
        "interrupted": f"{name}stopped, by Ctrl-C or SIGTERM",
        "ended": f"{name}ended well",
        "idle": "no run works here, and none has ended here",
        "making": "a dataset that is not finished",
        "sealed": "a finished dataset",
    }[found.standing]


def _until(found: "Status") -> float:
    """To when times of the run count: now, if it is alive, else to its last word."""
    if found.note is None:
        return found.asked
    return max(found.asked if found.standing == "running" else found.note.written, found.note.started)


def _time_left(found: "Status") -> str | None:
    from components.common.progress import clock

    note = found.note
    if note is None:
        return None
    parts = []
    if note.stage_seconds_left is not None:
        parts.append(f"{clock(note.stage_seconds_left)} for this stage")
    if note.seconds_left is not None:
        parts.append(f"about {clock(note.seconds_left)} for the run")
    elif note.rounds:
        parts.append("for the run known once round 1 has begun")
    return ", ".join(parts) or None


def _silence(found: "Status") -> str:
    """A word where the sign of life is late."""
    late = found.asked - (found.heartbeat or found.asked)
    return f", which is late; after {found.stale_seconds:.0f} s it counts as gone" if late > _QUIET else ""


def _trouble(found: "Status") -> str:
    from capfilt.cli.tables import local_time

    error = None if found.note is None else found.note.error
    if error is None:
        return "none"
    where = "" if error.stage is None else f"{error.stage}: "
    return f"{local_time(error.when)}  {where}{error.message} ({error.kind})"


def _next(found: "Status") -> list[tuple[str, ...] | str]:
    """What whoever asked would do now."""
    pages: tuple[str, ...] = ("ui", found.store)
    if found.standing in ("running", "busy"):
        return [("status", found.store), pages]
    if found.standing in ("crashed", "failed", "interrupted"):
        typed = None if found.note is None else found.note.command
        return [_AGAIN, *([typed] if typed else [])]
    if found.standing in ("making", "idle"):
        return ["run the same command again: finished work is found"]
    return [("browse" if found.standing == "sealed" else "report", found.store)]
