"""What CI does for a Chromium, on machines that cannot have one: it says so in a line and goes on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import chromium

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("sh", "timeout", "mktemp", "tail", "rm", "date", "sleep", "touch")


class Machine:
    """A folder of programs, and nothing beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tool in TOOLS:
            (folder / tool).symlink_to(shutil.which(tool) or tool)
        self.has("id", "echo 0")

    def has(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def brings(self, **seconds: str) -> str:
        """What `.ci/chromium` says, which never fails and does not hold its output open."""
        environment = {"PATH": str(self.folder), "PYTHON": sys.executable, "TMPDIR": str(self.folder), **seconds}
        done = subprocess.run(
            ["/bin/sh", ".ci/chromium"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == ""
        assert not list(self.folder.glob("tmp.*"))
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_one_that_is_there_is_enough(machine: Machine) -> None:
    machine.has("google-chrome", "exit 0")
    assert machine.brings() == ""


def test_it_is_installed_where_it_may_be(machine: Machine) -> None:
    there = machine.folder / "chromium"
    machine.has("apt-get", f'case "$*" in *--no-download*) echo "#!/bin/sh" >{there}; /bin/chmod +x {there};; esac')
    assert machine.brings() == "Chromium for the tests of the pages: installed with apt-get\n"


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        ({"id": "echo 1000", "apt-get": "touch called"}, "only root may install it"),
        ({}, "there is no apt-get"),
        (
            {"apt-get": "echo 'E: no network' >&2; exit 100"},
            "failed or took more than 4 s. E: no network",
        ),
        ({"apt-get": "echo waiting; sleep 600"}, "update failed or took more than 4 s. waiting"),
        (
            {"apt-get": "case $* in *update*) ;; *) trap '' TERM; while :; do sleep 1; done;; esac"},
            "could not fetch it",
        ),
        ({"apt-get": "case $* in *--no-download*) sleep 600 & wait;; esac"}, "could not install it within 1 s"),
        ({"apt-get": "(sleep 30 &) ; exit 0"}, "there is no Chromium"),
        ({"apt-get": "exit 0", "chromium-browser": "exit 1"}, "chromium-browser --version fails"),
    ],
)
def test_without_one_a_line_says_why(machine: Machine, programs: dict[str, str], why: str) -> None:
    for name, script in programs.items():
        machine.has(name, script)
    said = machine.brings(FETCH_SECONDS="4", INSTALL_SECONDS="1")
    assert said.startswith("no Chromium for the tests of the pages, they are skipped: ")
    assert why in said
    assert said.count("\n") == 1
    assert not (ROOT / "called").exists()


@pytest.mark.parametrize("script", ["exit 3", "exec sleep 60"])
def test_one_that_cannot_be_talked_to_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    Machine(tmp_path).has("chromium", f'[ "$1" = --version ] && exit 0; {script}')
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/bin")
    monkeypatch.setattr(chromium, "LISTENS_WITHIN", 1.0)
    chromium.find_chromium.cache_clear()
    with pytest.raises(chromium.NoChromium), chromium.chromium():
        pass
    chromium.find_chromium.cache_clear()
