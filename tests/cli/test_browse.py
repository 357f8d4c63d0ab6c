"""`capfilt browse` before it serves: what is wrong is said in a line, with the remedy."""

import socket
from pathlib import Path

from typer.testing import CliRunner

from capfilt.cli.browse import _PORT
from capfilt.cli.main import app
from components.pages.browser.serving import DEFAULT_PORT


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert _PORT == DEFAULT_PORT  # written twice, so that `--help` loads nothing
    three = run(app, ["browse", "a", "b", "c"])
    assert three.exit_code == 2 and "compares two: 3 were given" in three.stderr
    nothing = run(app, ["browse", str(tmp_path), "--port", "0"])
    assert nothing.exit_code == 1 and "is no dataset" in nothing.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run(app, ["browse", str(tmp_path), "--port", port])
    assert refused.exit_code == 2 and f"port {port} cannot be listened on" in refused.stderr
