"""Disks that are full in earnest: a small tmpfs as store, as home, as the place of temporary files."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.cli.main import app
from components.common.cache import check_cache_folder
from components.common.errors import StorageError
from tests.helpers.served import clean_environment, cli, table
from tests.helpers.tiny import options
from tests.helpers.tiny_models import save_tiny_models
from tests.helpers.webshards import write_web


class Disk:
    """A tmpfs of some KiB."""

    def __init__(self, folder: Path, kib: int) -> None:
        self.folder = folder
        folder.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={kib}k", "capfilt-tests", str(folder))

    def fill(self) -> None:
        """Leave nothing free."""
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                return

    def grow(self, kib: int) -> None:
        """What an administrator does who reads the message."""
        _mount("-o", f"remount,size={kib}k", str(self.folder))

    def close(self) -> None:
        """Unmount it, whoever still looks at it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk is mounted, and there is no mount")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a small disk is mounted, which is refused here: {error.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "disk", 256)
    yield one
    one.close()


def failed(words: list[str]) -> str:
    """What a command says that fails of the disk and calls nothing a defect."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 1, done.output
    said = str(json.loads(done.stdout)["error"])
    assert "the disk is full" in said and "free space and run" in said
    assert "defect" not in done.stderr and "Traceback" not in done.stderr
    return said


def test_an_import_says_that_the_store_is_full(tmp_path: Path, disk: Disk) -> None:
    web = write_web(tmp_path / "web", shards=2, samples=20)
    disk.fill()
    assert str(disk.folder) in failed(["dataset", "import-web", "--web", str(web), "--store", f"{disk.folder}/store"])


def test_capfilt_says_that_its_output_is_full_and_goes_on_when_there_is_room(tmp_path: Path, disk: Disk) -> None:
    web = write_web(tmp_path / "web", shards=8, samples=40)
    save_tiny_models(tmp_path)
    places = ["--web", str(web), "--captioner", str(tmp_path / "captioner"), "--filter", str(tmp_path / "filter")]
    words = ["regenerate", *places, "--out", str(disk.folder / "out"), "--dtype", "fp32"]
    assert str(disk.folder) in failed(words)
    committed = sorted((disk.folder / "out" / "commits").iterdir())
    disk.grow(64 << 10)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert committed == sorted((disk.folder / "out" / "commits").iterdir())[: len(committed)], "finished work is kept"


def test_a_full_home_is_named(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.fill()
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk.folder))
    with pytest.raises(StorageError, match="the disk is full.*free space there, or set XDG_CACHE_HOME"):
        check_cache_folder()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("full", ["store", "home and temporary files"])
def test_a_bootstrap_says_that_the_disk_is_full_and_ends_well_when_there_is_room(tmp_path: Path, full: str) -> None:
    disk = Disk(tmp_path / "disk", 3 << 10)
    try:
        at = {"store": disk.folder} if full == "store" else {"store": tmp_path}
        words = cli("run", "--json", *options(store=f"{at['store']}/root", rounds=0))
        here = {} if full == "store" else {"HOME": str(disk.folder), "TMPDIR": str(disk.folder)}
        if here:
            disk.fill()
        environment = clean_environment(here)
        first = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert first.returncode == 1, first.stderr
        said = json.loads(first.stdout)["error"]
        assert "the disk is full" in said and "free space" in said, said
        assert "defect" not in first.stderr and "Traceback" not in first.stderr
        (disk.folder / "ballast").unlink(missing_ok=True)
        disk.grow(1 << 20)
        again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert table(json.loads(again.stdout))
    finally:
        disk.close()
