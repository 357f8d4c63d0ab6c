"""How every command speaks: logs to stderr, results to stdout, one JSON document with --json, exit codes 0 … 2, 130."""

import atexit
import contextlib
import errno
import io
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

import typer

from components.common.diskspace import disk_advice
from components.common.environment import reach_loopback_directly
from components.common.errors import CapfiltError, ConfigError, PreemptedError, StorageError
from components.common.programs import typeable
from components.common.progress import stderr_console
from components.common.redact import install_redaction, redact, redact_values
from components.common.screen import last_words

logger = logging.getLogger(__name__)

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
WIPED = "\r\x1b[2K"
"""What clears a terminal's line."""
GOES_ON = "stopping; run the same command again and it goes on where it was"
_LOUD = (
    "prefect",
    "httpx",
    "httpcore",
    "urllib3",
    "botocore",
    "boto3",
    "s3transfer",
    "alembic",
    "mlflow",
    "matplotlib",
)


def set_up_logging(*, verbose: bool = False) -> None:
    """Log lines of this product to stderr, in colour on a terminal; of others only warnings. None tells a secret."""
    install_redaction()
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler = RichHandler(console=stderr_console(), show_path=verbose, log_time_format="%H:%M:%S", markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("capfilt", "components", "flows"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("prefect.flow_runs", "prefect.task_runs"):  # a failure is told once, by `command`, in our words
        logging.getLogger(name).propagate = verbose
    if not verbose:
        warnings.simplefilter("ignore")


class Output:
    """Where a command's result goes."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, document: Any, text: str | Callable[[], str] | None = None) -> None:
        """Print the result: the document with --json, else the text (the document, indented, if there is none).

        Args:
            document: for machines.
            text: for people; a function is called only if it is they who look.
        """
        if self.as_json or text is None:
            _print_json(redact_values(document), indent=None if self.as_json else 2)
        else:
            typer.echo(typeable(redact(text if isinstance(text, str) else text())))


def fit_terminal() -> None:
    """What a terminal's encoding lacks becomes `?` instead of an error at the end of finished work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _is_utf8(stream):
            stream.reconfigure(errors="replace")


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def _print_json(document: Any, indent: int | None = None) -> None:
    """A document that says the same on every terminal: escaped where the encoding may lack a letter."""
    typer.echo(json.dumps(document, ensure_ascii=not _is_utf8(sys.stdout), indent=indent))


def news(words: str) -> None:
    """A line on stderr about what is waited for."""
    logger.info("%s …", words)


@contextlib.contextmanager
def counting(unit: str, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Progress of a command's work, with the time that is left where the total is known."""
    from components.common.progress import Progress

    with Progress(total, unit, label) as progress:
        yield progress.advance


def tell(message: str, *, kind: str, as_json: bool) -> None:
    """What is wrong, on stderr; with --json as the one document too."""
    message = typeable(message)
    for line in message.splitlines():
        typer.secho(f"capfilt: {line}", err=True, fg="red")
    if as_json:
        _print_json({"error": message, "kind": kind})


@contextlib.contextmanager
def command(*, as_json: bool = False, verbose: bool = False, stopping: str = GOES_ON) -> Iterator[Output]:
    """The frame of every command: logging, signals, and errors as messages with the right exit code.

    Args:
        as_json: the result is one JSON document.
        verbose: more log lines.
        stopping: what is said at once when a signal stops the command, which may take a while to end its work.
    """
    reach_loopback_directly()
    set_up_logging(verbose=verbose or os.environ.get("CAPFILT_VERBOSE") == "1")
    try:
        with _stoppable(stopping):
            yield Output(as_json=as_json)
    except ConfigError as error:
        _fail(error, BAD_USAGE, as_json=as_json)
    except PreemptedError as error:
        _fail(error, INTERRUPTED, as_json=as_json)
    except CapfiltError as error:
        _fail(error, FAILED, as_json=as_json)
    except (KeyboardInterrupt, _TerminatedError):  # the signal's handler has said so
        if as_json:
            _print_json({"error": stopping, "kind": "Interrupted"})
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        raise typer.Exit(FAILED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _defect(error, as_json=as_json)
        where = f" ({error.filename})" if error.filename else ""
        full = f"the disk is full{where}; free space and run the same command again: it goes on where it was"
        _fail(StorageError(full), FAILED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - a defect: told with its trace, and still with one JSON document
        _defect(error, as_json=as_json)


def _defect(error: Exception, *, as_json: bool) -> NoReturn:
    if disk_advice() is not None:
        _fail(StorageError(str(error) or repr(error)), FAILED, as_json=as_json)
    logging.getLogger("flows").exception("this is a defect of capfilt; please report it with the lines below")
    _fail(error, FAILED, as_json=as_json)


def _fail(error: Exception, code: int, *, as_json: bool) -> NoReturn:
    logger.debug("failed", exc_info=error)
    said = "\n".join(filter(None, [str(error) or repr(error), disk_advice() if code == FAILED else None]))
    tell(redact(said), kind=type(error).__name__, as_json=as_json)
    raise typer.Exit(code)


def leave(end: SystemExit) -> NoReturn:
    """End this process without taking it apart.

    With torch, MLflow and Prefect loaded that takes two seconds of a core for nothing: on a busy machine a quarter of a
    minute after the last word, in which Ctrl-C seems not to be heard. What is to be done at the end is done: threads
    are waited for, exit handlers run, output is flushed.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has left
            stream.flush()
    os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


class _TerminatedError(BaseException):
    """SIGTERM: everything on the way out runs, so that no process and no lock is left."""


@contextlib.contextmanager
def _stoppable(words: str) -> Iterator[None]:
    """SIGINT and SIGTERM are answered at once, in one line however many come, and end the block."""
    told = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            line = f"capfilt: {words}"
            if not last_words(line):  # a handler must not wait for stderr's lock; a bar is wiped away before it
                os.write(2, f"{WIPED if os.isatty(2) else ''}{line}\n".encode("ascii", "replace"))
        raise KeyboardInterrupt if signum == signal.SIGINT else _TerminatedError

    # A process started with SIGINT ignored, as by `nohup` or in a script's background, goes on ignoring it.
    signals = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, stop) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_IGN if told else handler)  # told: another one must not spoil the exit code
