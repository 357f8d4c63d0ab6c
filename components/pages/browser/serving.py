"""The browser as a server on loopback."""

import importlib
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.errors import ConfigError

if TYPE_CHECKING:
    from components.pages.browser.version import Version

DEFAULT_PORT = 8321


def browse(
    uris: Sequence[str],
    *,
    port: int = DEFAULT_PORT,
    marks: Path | None = None,
    model: str | None = None,
    told: Callable[[str, Path], None] = lambda address, marks: None,
) -> None:
    """Serve the browser until the process is told to stop.

    Args:
        uris: one version, or two to compare: the earlier one first.
        port: on loopback; 0: a free one.
        marks: file of marks; None: one named by the dataset in the working folder.
        model: folder of the filter that made the vectors, if it has moved.
        told: called with the address and the file of marks once requests are answered.

    Raises:
        ConfigError: the port is taken.
        DataError: there is no such dataset, or the file of marks holds something else.
    """
    with _listening(port) as listener:  # before the tables are read: who asks early waits and is answered
        import uvicorn

        from components.common.scratch import ScratchFolder
        from components.pages.browser.app import create_app
        from components.pages.browser.marks import Marks
        from components.pages.browser.state import Browser
        from components.pages.browser.version import Version

        versions = [Version(uri) for uri in uris]
        manifest = versions[-1].manifest
        notes = Marks(marks or Path(f"marks-{manifest.name}-{manifest.digest[:12]}.jsonl"))
        with ScratchFolder("model") as cache:
            app = create_app(Browser(versions, notes, cache, model))
            threading.Thread(target=_warm, args=versions[-1:], daemon=True).start()
            config = uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            told(f"http://127.0.0.1:{listener.getsockname()[1]}/", notes.path)
            server.run(sockets=[listener])


def _warm(version: "Version") -> None:
    """While somebody looks at the first page, make ready what the first filter and the first search need: seconds."""
    version.get_ready()
    importlib.import_module("torch")


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} cannot be listened on ({error.strerror}): give another with --port, 0 being a free one"
        ) from error
    listener.listen(128)
    return listener
