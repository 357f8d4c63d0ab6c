"""A headless Chromium driven by its own protocol over a websocket: what a page says, asks for and looks like."""

import base64
import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import InvalidHandshake
from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LISTENS_WITHIN = 60.0
"""Seconds."""
_ARGUMENTS = (
    "--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--hide-scrollbars", "--disable-features=Translate,OptimizationHints,MediaRouter",
)  # fmt: skip


class NoChromium(Exception):
    """There is one, but it does not listen."""


@functools.cache
def find_chromium() -> str | None:
    """The first program of this machine that starts; Ubuntu's `chromium-browser` without snap, for one, does not."""
    return next((found for name in PROGRAMS if (found := shutil.which(name)) and _starts(found)), None)


def _starts(program: str) -> bool:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run([program, "--version"], timeout=30, check=False, **quiet).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def why_none() -> str:
    """Why this machine's pages cannot be looked at; empty if they can."""
    found = [name for name in PROGRAMS if shutil.which(name)]
    if find_chromium():
        return ""
    return f"{' and '.join(found)} --version fails" if found else "there is no Chromium: apt-get install chromium"


class Page:
    """A tab. `errors` are what its console and its policy complained of, `asked` the addresses it requested."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._loaded = False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            message = json.loads(self._socket.recv(120))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        values = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.asked.append(values["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(values["exceptionDetails"])[:400])
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if values["type"] == "error":
                self.errors.append(json.dumps(values["args"])[:400])

    def open(self, address: str) -> None:
        """Go there, and wait until all of it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=address)
        self.wait(lambda: self._loaded and self.run("document.readyState") == "complete")

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Size of the window in pixels, and which colours are asked for."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, until: Any, seconds: float = 60) -> None:
        """Wait for a function, or a JavaScript expression, to be true."""
        end = time.monotonic() + seconds
        while not (self.run(until) if isinstance(until, str) else until()):
            assert time.monotonic() < end, f"not within {seconds} s: {until}"
            time.sleep(0.05)
            self.run("0")  # takes in what was told meanwhile

    def press(self, key: str) -> None:
        """A key, as from a keyboard."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A browser with one page, until the block ends."""
    program = find_chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="capfilt-chromium-", ignore_cleanup_errors=True) as folder:
        command = [program, *_ARGUMENTS, f"--user-data-dir={folder}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with _connect(Path(folder), process) as socket:
                    yield Page(socket)
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _connect(folder: Path, process: "subprocess.Popen[bytes]") -> ClientConnection:
    try:
        return connect(_address(folder, process), max_size=None)
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise NoChromium(f"Chromium cannot be talked to: {error}") from error


def _address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """The websocket of the first tab."""
    end = time.monotonic() + LISTENS_WITHIN
    while time.monotonic() < end:
        if process.poll() is not None:
            raise NoChromium(f"Chromium ended at once, code {process.returncode}")
        file = folder / "DevToolsActivePort"
        if file.is_file() and len(lines := file.read_text().splitlines()) == 2:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json", timeout=10) as answer:
                pages = [one for one in json.load(answer) if one["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise NoChromium(f"Chromium does not listen within {LISTENS_WITHIN:g} s")


if __name__ == "__main__":
    print(why_none(), end="")
