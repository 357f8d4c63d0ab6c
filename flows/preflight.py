"""Everything that can be known to be wrong before work starts: store, input, servers, disk, another run."""

import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from components.common.cache import check_cache_folder
from components.common.diskspace import free_space, note_in_use
from components.common.errors import CapfiltError, ConfigError, DataError, ModelError, StorageError
from components.common.lock import refuse_if_busy
from components.common.storage import open_store
from components.common.tracking import public_uri, why_unusable
from components.config import BootstrapConfig
from flows.layout import LOCK_KEY, scratch_folder
from flows.server import why_no_answer

_ASKED: tuple[Literal["train", "test"], ...] = ("train", "test")
LEAST_FREE_BYTES = 1 << 30
MLFLOW_REMEDY = (
    "start it, mend MLFLOW_TRACKING_URI or tracking.uri (a server's address or sqlite:///FILE), or go without: "
    "--set tracking.enabled=false"
)


def check_before_work(config: BootstrapConfig, *, busy_now: bool = False) -> None:
    """Refuse what cannot work, with every fault of the config's input in one message.

    Args:
        config: what shall be done.
        busy_now: whether another bootstrap may work on the store just now, as this one shall work later.

    Raises:
        ConfigError: a path that is not there, a file that is not what it must be, a placement that cannot be.
        StorageError: the store refuses us, or the cache folder.
        BusyError: another bootstrap works on this store.
        CapfiltError: no room on the disk, or a server that does not answer.
    """
    store = open_store(config.store)
    store.check()
    if not busy_now:
        refuse_if_busy(store, LOCK_KEY)
    check_disk(scratch_folder(config))
    check_cache_folder()
    checks = (_input_faults, _vocabulary_fault, _encoder_faults, _placement_faults)
    if faults := [fault for check in checks for fault in check(config)]:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    check_services(config)


def check_disk(folder: Path) -> None:
    """Refuse to start on a full disk."""
    note_in_use(folder)
    existing, free = free_space(folder)
    if free < LEAST_FREE_BYTES:
        raise StorageError(
            f"{existing}: only {free / 2**20:.0f} MiB are free, at least {LEAST_FREE_BYTES >> 20} are needed; "
            "free space or choose another place with --set store=…"
        )


def check_services(config: BootstrapConfig) -> None:
    """Refuse to start where MLflow's server or the Ray cluster that shall be used is out of reach."""
    tracking = config.tracking_uri(scratch_folder(config))
    if fault := mlflow_fault(tracking):
        raise CapfiltError(f"no MLflow at {public_uri(str(tracking))} ({fault}): {MLFLOW_REMEDY}")
    if config.capfilt.engine == "ray" and (fault := ray_fault()):
        raise CapfiltError(fault)


def mlflow_fault(uri: str | None) -> str | None:
    """Why MLflow cannot work with a tracking URI: no server answers, or it refuses us, the place or its database."""
    if uri is None:
        return None
    if uri.startswith("http") and (fault := why_no_answer(f"{public_uri(uri).rstrip('/')}/health")):
        return fault
    return why_unusable(uri)


def ray_fault() -> str | None:
    """Why `engine: ray` cannot work here; None if it can."""
    if importlib.util.find_spec("ray") is None:
        return "engine ray needs Ray: pip install -e '.[ray]', or set capfilt.engine=local"
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # none, `auto` or `local`: Ray finds a cluster on this machine, or starts one
        return None
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        return (
            f"no Ray cluster at RAY_ADDRESS={address} ({error.strerror or error}): start it with `ray start --head`, "
            "mend the address, or unset RAY_ADDRESS for one on this machine"
        )
    return None


def _input_faults(config: BootstrapConfig) -> Iterator[str]:
    """What is wrong with the files that a config names, each by its key."""
    if config.data.source != "files":
        return
    from components.data.web import check_tars

    for split in ("train", "val", "test"):
        yield from _split_faults(config, split)
    if config.asks:
        yield from _question_faults(config)
    try:
        check_tars(str(config.data.web))
    except (DataError, StorageError) as error:
        yield f"data.web: {error}"


def _split_faults(config: BootstrapConfig, split: str) -> Iterator[str]:
    """What is wrong with a split's annotations, or with the folder of its images."""
    from components.data.coco import image_sizes, read_annotations

    human = config.data.human
    uri = getattr(human, split)
    if not uri:
        return
    key = f"data.human.{split}"
    try:
        annotations = read_annotations(uri, config.data.human_limit if split == "train" else None)
        own = getattr(human, f"{split}_images", None)
        key = f"data.human.{split}_images" if own else "data.human.images"
        image_sizes(open_store(own or str(human.images)), annotations)
    except (DataError, StorageError) as error:
        yield f"{key}: {error}"


def _question_faults(config: BootstrapConfig) -> Iterator[str]:
    """What is wrong with questions, or with the folder of their images."""
    from components.data.coco import image_sizes
    from components.data.vqa import read_questions

    for split in _ASKED:
        files, key = config.data.question_files(split), f"data.questions.{split}"
        try:
            asked = read_questions(
                str(files["questions_uri"]), files["annotations_uri"], image_name=files["image_name"]
            )
            key = "data.questions.images"
            image_sizes(open_store(str(files["images_uri"])), asked.annotations)
        except (ConfigError, DataError, StorageError) as error:
            yield f"{key}: {error}"


def _vocabulary_fault(config: BootstrapConfig) -> Iterator[str]:
    if config.tokenizer.vocab_file is None:
        return
    from components.model.tokenizer import BlipTokenizer

    try:
        BlipTokenizer.from_vocab_file(Path(config.tokenizer.vocab_file))
    except ModelError as error:
        yield f"tokenizer.vocab_file: {error}"


def _encoder_faults(config: BootstrapConfig) -> Iterator[str]:
    from components.model.checkpoints.publishing import check_model_folder

    for name, uri in config.encoders.folders().items():
        try:
            check_model_folder(open_store(uri))
        except (ModelError, StorageError) as error:
            yield f"encoders.{name}: {error}"


def _placement_faults(config: BootstrapConfig) -> Iterator[str]:
    """Several machines, and nothing says which is which."""
    from components.training.nodes import placement

    for role, training in config.trainings().items():
        try:
            placement(training.launch)
        except ConfigError as error:
            yield f"{role}: {error}"
