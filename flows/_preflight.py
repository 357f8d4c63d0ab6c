"""Everything that can be known to be wrong before any work starts: store, paths, compiler, disk, another run."""

import json
import os
import shutil
from pathlib import Path

from components.common.errors import CapfiltError, ConfigError, DataError, StorageError
from components.common.lock import refuse_if_busy
from components.common.storage import open_store, split_uri
from components.config import BootstrapConfig
from flows._layout import LOCK_KEY, scratch_folder

LEAST_FREE_BYTES = 1 << 30
COMPILER_REMEDY = (
    "there is no C++ compiler, and DeepSpeed builds one small op on first use: apt install g++ (Debian, Ubuntu), "
    "dnf install gcc-c++ (Fedora), xcode-select --install (macOS)"
)


def check_before_work(config: BootstrapConfig) -> None:
    """Refuse what cannot work, with every fault of the config's paths in one message.

    Raises:
        ConfigError: a path that is not there, or a file that is not what it must be.
        StorageError: the store refuses us.
        BusyError: another bootstrap works on this store.
        CapfiltError: no compiler, or no room on the disk.
    """
    check_compiler()
    store = open_store(config.store)
    store.check()
    refuse_if_busy(store, LOCK_KEY)
    check_disk(scratch_folder(config))
    if config.data.source == "files":
        faults = _faults(config)
        if faults:
            raise ConfigError("\n".join(faults))


def find_compiler() -> str | None:
    """The C++ compiler torch would call."""
    wanted = os.environ.get("CXX")
    return next(
        (path for name in filter(None, (wanted, "c++", "g++", "clang++")) if (path := shutil.which(name))), None
    )


def check_compiler() -> None:
    """Refuse to start without a compiler."""
    if find_compiler() is None:
        raise CapfiltError(COMPILER_REMEDY)


def check_disk(folder: Path) -> None:
    """Refuse to start on a full disk."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LEAST_FREE_BYTES:
        raise StorageError(
            f"{existing}: only {free / 2**20:.0f} MiB are free, at least {LEAST_FREE_BYTES >> 20} are needed; "
            "free space or choose another place with --set store=…"
        )


def _faults(config: BootstrapConfig) -> list[str]:
    """What is wrong with the files that a config names."""
    human, faults = config.data.human, []
    for name in ("train", "val", "test"):
        uri = getattr(human, name)
        if uri and (fault := _annotations_fault(uri)):
            faults.append(f"data.human.{name}: {fault}")
    for name in ("images", "val_images", "test_images"):
        uri = getattr(human, name)
        if uri and (fault := _folder_fault(uri, "")):
            faults.append(f"data.human.{name}: {fault}")
    if config.data.web and (fault := _folder_fault(config.data.web, ".tar")):
        faults.append(f"data.web: {fault}")
    return faults


def _annotations_fault(uri: str) -> str | None:
    folder, name = split_uri(uri)
    try:
        data = json.loads(open_store(folder).read(name))
    except StorageError as error:
        return str(error)
    except ValueError as error:
        return f"{uri} is not JSON: {error}"
    if isinstance(data, dict) and "images" in data and "annotations" in data:
        return None
    if isinstance(data, list) and data and isinstance(data[0], dict) and {"image", "caption"} <= data[0].keys():
        return None
    return (
        f"{uri} is neither COCO captions JSON (an object with `images` and `annotations`) "
        "nor Karpathy JSON (a list of objects with `image` and `caption`)"
    )


def _folder_fault(uri: str, ending: str) -> str | None:
    try:
        store = open_store(uri)
        root = store.local_path("x")
        if root is not None and not root.parent.is_dir():
            return f"there is no folder {store.uri}"
        if any(item.key.endswith(ending) for item in store.list()):
            return None
    except (StorageError, DataError) as error:
        return str(error)
    what = "no *.tar as img2dataset writes them (WebDataset layout)" if ending else "nothing"
    return f"there is {what} in {store.uri}"
