"""Models by their Hugging Face name: fetched where the hub can be reached, else answered with how to fetch them."""

import logging

from components.common.errors import ModelError
from components.common.storage import open_store
from components.model.checkpoints.publishing import check_model_folder, hub_name

logger = logging.getLogger(__name__)

_WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]  # nothing that runs, nothing that pickles
_PATIENCE = 10.0  # seconds until the hub must have answered


def model_place(place: str) -> str:
    """Where a model is: a folder or s3:// prefix as given, or the local copy of one that was named `owner/name`.

    Raises:
        ModelError: it is no folder, and the hub cannot be reached or has no such model: with the command to fetch it.
    """
    name = hub_name(open_store(place))
    if name is None:
        return place
    logger.info("%s: fetching it from the Hugging Face hub, or finding it in its cache", name)
    try:
        return _fetched(name)
    except Exception as error:  # noqa: BLE001 - the hub's, its HTTP client's and the disk's have nothing in common
        try:
            check_model_folder(open_store(place))
        except ModelError as fault:
            raise ModelError(f"{fault}. It was asked for just now, without success: {error}") from error
        raise


def _fetched(name: str) -> str:
    """The local copy of the newest version, or of the one that is in the cache where the hub does not answer.

    The hub's own download asks for the version without any limit of time, so that is asked for here.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        version = HfApi().model_info(name, timeout=_PATIENCE).sha
    except Exception as unreachable:  # noqa: BLE001 - as above; whether it matters depends on the cache
        try:
            return str(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
        except LocalEntryNotFoundError:
            raise unreachable from None
    return str(snapshot_download(name, revision=version, allow_patterns=_WANTED, etag_timeout=_PATIENCE))
