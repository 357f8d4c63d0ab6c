"""The way to an S3 server: the standard AWS credential chain and `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`)."""

import os
import threading
from typing import Any

from components.common.errors import StorageError
from components.common.redact import redact

_clients: dict[tuple[int, tuple[tuple[str, str], ...]], Any] = {}
_clients_lock = threading.Lock()
ANSWERED = "CAPFILT_S3_ANSWERED"


def endpoint() -> str:
    """Where S3 is to be reached; empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def note_answer() -> None:
    """Remember that the server is there, here and in the processes started from here.

    An address that never answered is more likely wrong than the address of a server that is away for a moment.
    """
    os.environ[ANSWERED] = endpoint() or "AWS"


def has_answered() -> bool:
    """Whether the server answered a request of this process, or of one that started it."""
    return os.environ.get(ANSWERED) == (endpoint() or "AWS")


def client() -> Any:
    """One S3 client per process (boto3 clients are thread-safe, but must not cross a fork) and `AWS_*` settings.

    A request is tried 7 times, or `AWS_MAX_ATTEMPTS` times, within seconds; minutes are waited for by `patience`.
    """
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _clients_lock:
        key = (os.getpid(), settings)
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    import boto3
    from botocore.config import Config

    address = endpoint() or None
    if address and not address.startswith(("http://", "https://")):
        raise StorageError(f"AWS_ENDPOINT_URL={address} is no address: write http://host:port or https://host")
    config = Config(
        retries={"mode": "standard"} | ({} if "AWS_MAX_ATTEMPTS" in os.environ else {"max_attempts": 6}),
        max_pool_connections=32,
        connect_timeout=10,
        read_timeout=60,
        # boto3 >= 1.36 adds checksums that S3-compatible servers reject (docs/facts.md 17)
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if address else {},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return boto3.session.Session().client("s3", endpoint_url=address, region_name=region, config=config)
    except ValueError as error:
        raise StorageError(
            f"AWS_ENDPOINT_URL={redact(str(address))} is no usable address ({error}): a host's name is made "
            "of letters, digits, dots and hyphens, without `_`; use another name or the IP address"
        ) from error
