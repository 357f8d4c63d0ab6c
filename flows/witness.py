"""Prefect as a witness: it starts runs on time and shows them. That it is gone, late or new decides no result.

What a flow does lies in the store; what becomes of it is told to Prefect if Prefect is there to be told. So a flow is
wrapped twice: `orderly` inside Prefect's decorator, for whoever starts it; `run_here` around a call in this process.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from prefect.context import FlowRunContext
from prefect.exceptions import Abort, TerminationSignal
from prefect.states import Cancelled

from components.common.environment import reach_loopback_directly
from components.common.errors import PreemptedError
from components.common.lock import BusyError
from components.config import load_config
from flows.server import why_no_answer
from flows.turn import wait_for_turn

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
SERVED_BY = "CAPFILT_SERVED_BY"
"""The process of `capfilt serve`, for the runs it starts: they end with it."""
DEPLOYED_SECONDS = 1800.0  # how long a run that Prefect started waits for a server that is away, to tell how it ended
LOCAL_SECONDS = 30.0  # and one that somebody looks at
_LOOK_SECONDS = 2.0
_FAREWELL_SECONDS = 5.0  # for words to a Prefect server that may still be there
_STOPPED = (KeyboardInterrupt, TerminationSignal, PreemptedError)
_ORPHAN_SECONDS = 60.0  # for a checkpoint and the lock's release, after the process that serves us is gone


@dataclass
class _Ending:
    """How a flow's function ended, whatever Prefect made of it."""

    result: Any = None
    error: BaseException | None = None
    done: bool = False


_ending: ContextVar[_Ending | None] = ContextVar("ending", default=None)


def run_here(flow: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a flow in this process: its own result or error comes out, also when Prefect could not be told of it.

    Raises:
        KeyboardInterrupt: it was interrupted; SIGTERM goes to the handler that was there before.
    """
    ending = _Ending()
    token = _ending.set(ending)
    try:
        return flow(*args, **kwargs)
    except (Exception, Abort) as error:
        if not ending.done:
            raise
        fault = error
    finally:
        _ending.reset(token)
    if isinstance(ending.error, TerminationSignal):
        signal.raise_signal(signal.SIGTERM)
    if ending.error is not None:
        raise ending.error
    if not isinstance(fault, Abort):  # of which was told already
        logger.warning("the run is finished, but Prefect does not know it: %s", fault)
    result: R = ending.result
    return result


def orderly(function: Callable[P, R]) -> Callable[P, R]:
    """Below `@flow`: a function of a config_path and overrides that waits its turn, and ends in good order.

    A deployment's run that finds the store busy is cancelled with a message; one that is interrupted is `Interrupted`,
    not crashed; one that ends while Prefect is away waits for it, or, called in this process, ends without.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        # nothing else of this module: Prefect hands a flow to its process by value, and a context variable has none
        result: R = work_in_order(function, args, kwargs)
        return result

    return wrapped


def work_in_order(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `orderly` makes of a call."""
    reach_loopback_directly()
    ending = _ending.get() or _Ending()
    _end_with_server(ending)
    try:
        if _is_deployed():
            given = signature(function).bind(*args, **kwargs).arguments
            wait_for_turn(load_config(given.get("config_path"), given.get("overrides") or ()))
        ending.result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - handed on below, each in its way
        ending.error = error
    ending.done = True
    if not isinstance(ending.error, _STOPPED):
        _wait_for_prefect(DEPLOYED_SECONDS if _is_deployed() else LOCAL_SECONDS)
    return _conclude(ending)


def tell(what: str, call: Callable[[], object]) -> None:
    """Tell Prefect something that is good to know and no more; a warning says what it does not know."""
    fault = why_no_answer(_health())
    try:
        if fault is None:
            call()
    except Exception as error:  # noqa: BLE001 - whatever a server or its client may raise, the work is done
        fault = str(error) or type(error).__name__
    if fault is not None:
        logger.warning("Prefect does not get %s: %s", what, fault)


def work_calmly(as_task: Callable[[Callable[[], Any]], Callable[[], object]], body: Callable[[], Any]) -> None:
    """Run a task on this thread; one that is interrupted is `Interrupted` in Prefect, not crashed, as its flow is."""
    interrupted: list[BaseException] = []

    def calm() -> Any:
        try:
            return body()
        except _STOPPED as error:
            interrupted.append(error)
            return _interrupted()

    as_task(calm)()
    if interrupted:
        raise interrupted[0]


def _interrupted() -> Any:
    return Cancelled(name="Interrupted", message="interrupted; started again, it goes on where it was")


def _conclude(ending: _Ending) -> Any:
    """The value, state or error with which the function leaves for Prefect's engine."""
    error = ending.error
    if isinstance(error, TerminationSignal) and _is_cancelled_by_prefect():
        raise error  # its runner sent the signal, and notes down the state
    if why_no_answer(_health()) is not None:
        logger.warning("Prefect is gone and does not learn how this run ended")
        raise Abort("Prefect is gone") from error  # the one way out on which the engine asks nothing of the server
    if isinstance(error, _STOPPED):
        return _interrupted()
    if isinstance(error, BusyError) and _is_deployed():
        logger.warning("not started: %s", error)
        return Cancelled(message=f"not started: {error}")
    if error is not None:
        raise error
    return ending.result


def _wait_for_prefect(seconds: float) -> None:
    """Let a run outlast a server that is just being started anew."""
    end, told = time.monotonic() + seconds, False
    while (fault := why_no_answer(_health())) is not None and time.monotonic() < end:
        if not told:
            logger.warning("the run is over; waiting up to %.0f s for Prefect (%s)", seconds, fault)
            told = True
        time.sleep(_LOOK_SECONDS)


def _health() -> str:
    from prefect.settings import get_current_settings

    return f"{(get_current_settings().api.url or '').rstrip('/')}/health"


def _is_deployed() -> bool:
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def _is_cancelled_by_prefect() -> bool:
    """Whether SIGTERM came with a word from Prefect's runner; without one it is a preemption, or a service's end."""
    from prefect._internal.control_listener import get_intent

    return get_intent() is not None


def _end_with_server(ending: _Ending) -> None:
    """Watch, in a thread, the `capfilt serve` that started this run: once it is gone, save, let the lock go, leave."""
    parent = int(os.environ.get(SERVED_BY, "0"))
    if not parent or threading.current_thread() is not threading.main_thread():
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        logger.warning("the process that serves this run is gone; stopping, saving …")
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + _ORPHAN_SECONDS
        while not ending.done and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(_FAREWELL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()
