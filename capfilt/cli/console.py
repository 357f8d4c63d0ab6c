"""How every command speaks: logs to stderr, results to stdout, one JSON document with --json, exit codes 0, 1, 2."""

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import typer

from components.common.errors import CapfiltError, ConfigError, StorageError
from components.common.progress import stderr_console
from components.common.redact import install_redaction, redact, redact_values

logger = logging.getLogger(__name__)

FAILED, BAD_USAGE = 1, 2
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

    def result(self, document: Any, text: str | None = None) -> None:
        """Print the result: the document with --json, else the text (the document, indented, if there is none)."""
        document, text = redact_values(document), None if text is None else redact(text)
        if self.as_json:
            typer.echo(json.dumps(document, ensure_ascii=False))
        else:
            typer.echo(text if text is not None else json.dumps(document, ensure_ascii=False, indent=2))


@contextlib.contextmanager
def command(*, as_json: bool = False, verbose: bool = False) -> Iterator[Output]:
    """The frame of every command: logging, signals, and errors as messages with the right exit code."""
    set_up_logging(verbose=verbose or os.environ.get("CAPFILT_VERBOSE") == "1")
    with _terminable():
        try:
            yield Output(as_json=as_json)
        except ConfigError as error:
            _fail(error, BAD_USAGE, as_json=as_json)
        except CapfiltError as error:
            _fail(error, FAILED, as_json=as_json)
        except (KeyboardInterrupt, _TerminatedError):
            _fail(
                CapfiltError("stopped; run the same command again and it goes on where it was"), FAILED, as_json=as_json
            )
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
    logging.getLogger("flows").exception("this is a defect of capfilt; please report it with the lines below")
    _fail(error, FAILED, as_json=as_json)


def _fail(error: Exception, code: int, *, as_json: bool) -> NoReturn:
    logger.debug("failed", exc_info=error)
    message = redact(str(error) or repr(error))
    for line in message.splitlines():
        typer.secho(f"capfilt: {line}", err=True, fg="red")
    if as_json:
        typer.echo(json.dumps({"error": message, "kind": type(error).__name__}, ensure_ascii=False))
    raise typer.Exit(code)


class _TerminatedError(BaseException):
    """SIGTERM: everything on the way out runs, so that no process and no lock is left."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
