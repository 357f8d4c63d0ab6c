"""Shared fixtures. Nothing here reaches the network."""

import os
import shutil
import signal
import site
import tempfile
import threading
from pathlib import Path

import pytest

# What a launcher, a cluster, a tracking server or a proxy around us left behind would decide what is tested.
_FOREIGN = (
    "PET_", "TORCHELASTIC_", "PREFECT_", "MLFLOW_", "AWS_", "CAPFILT_", "RAY_", "DS_", "SLURM_", "RCLONE_",
    "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
    "PYTHONIOENCODING", "LC_", "LANG", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM", "_TYPER", "TZ",
    "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_",
)  # fmt: skip
_HOME = "CAPFILT_TESTS_HOME"  # is set in processes that this one starts, such as pytest-xdist's


def _leave_home() -> None:
    """Work in an empty home: caches and settings of a user decide nothing, and nothing of theirs is written to."""
    if _HOME in os.environ:
        return
    os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(Path("~/.cache/ms-playwright").expanduser()))
    os.environ["PYTHONUSERBASE"] = site.getuserbase()
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    os.environ["HOME"] = os.environ[_HOME] = tempfile.mkdtemp(prefix="capfilt-tests-")
    os.environ["LC_ALL"] = "C.UTF-8"


_MINE = _HOME not in os.environ
_leave_home()
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def pytest_configure() -> None:
    """A suite started in the background is deaf to Ctrl-C, and so would be all that its tests start and interrupt."""
    in_front = threading.current_thread() is threading.main_thread()
    if in_front and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """The home goes with the process that made it."""
    if _MINE:
        shutil.rmtree(os.environ[_HOME], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real data skip, with a reason, where the data is absent; GPU tests where there is no GPU."""
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"the real data is absent: {SHARED}"))
        if "gpu" in item.keywords and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def shared_data() -> Path:
    """The real data beside the project (mark the test `shared`)."""
    return SHARED
