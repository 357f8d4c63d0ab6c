"""What S3 and boto3 say when something fails, in our words; and bodies that broke off, asked for again."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

from components.common.errors import StorageError
from components.common.storage.s3_client import endpoint

T = TypeVar("T")
BODY_ATTEMPTS = 5
REMEDIES = {
    "InvalidAccessKeyId": "the server does not know this access key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret does not fit the access key: check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "these credentials may not do this: check the key's policy and AWS_ACCESS_KEY_ID",
    "403": "these credentials may not do this: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the key's policy",
    "NoSuchBucket": "there is no such bucket: create it first, or mend the URI",
    "NoSuchKey": "it does not exist",
    "404": "it does not exist",
    "ExpiredToken": "the credentials have expired: renew them and run again (finished work is kept)",
    "InvalidToken": "the session token is wrong or too old: check AWS_SESSION_TOKEN, or renew the credentials",
    "PreconditionFailed": "it was replaced while it was read; run again",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it and run again",
}
_RETRYABLE = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "TooManyRequests", "Throttling"}
_RETRYABLE |= {"429", "500", "502", "503", "504"}


def whole(fetch: Callable[[], T]) -> T:
    """`fetch()` again where a body broke off: botocore tries a request again only until its headers are there."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from s3transfer.exceptions import S3DownloadFailedError  # the object was replaced between two parts

    for _ in range(BODY_ATTEMPTS - 1):
        with contextlib.suppress(IncompleteReadError, ReadTimeoutError, ResponseStreamingError, S3DownloadFailedError):
            return fetch()
    return fetch()


def error_code(error: BaseException) -> str:
    """The server's code for what it refused; empty if it said none."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def s3_errors(action: str, where: str) -> Iterator[None]:
    """Turn the errors of boto3 and what is below it into StorageError: what, where, how to mend it."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import S3DownloadFailedError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError, S3DownloadFailedError) as error:
        remedy, retryable = _remedy(_cause(error))
        raise StorageError(f"cannot {action} {where}: {remedy}", retryable=retryable) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(f"cannot {action} {where}: the local disk is full; free space and run again") from error
        raise


def _cause(error: Exception) -> BaseException:
    """What went wrong below s3transfer, which wraps it."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError

    wrapped: BaseException | None = None
    if isinstance(error, RetriesExceededError):
        wrapped = error.last_exception
    elif isinstance(error, S3UploadFailedError):
        wrapped = error.__context__
    return wrapped or error


def _remedy(error: BaseException) -> tuple[str, bool]:
    """What is wrong and how to mend it; whether it may heal by itself."""
    from botocore.exceptions import (
        ClientError,
        EndpointConnectionError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        SSLError,
    )

    if isinstance(error, SSLError):
        return f"no secure connection ({error}): check AWS_ENDPOINT_URL and AWS_CA_BUNDLE", False
    if isinstance(error, NoCredentialsError):
        return "no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", False
    if isinstance(error, ClientError):
        code = error_code(error)
        found = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        return REMEDIES.get(code, found), code in _RETRYABLE
    if isinstance(error, EndpointConnectionError):
        return f"no answer from the S3 server at {endpoint() or 'AWS'}; check AWS_ENDPOINT_URL and that it runs", True
    if isinstance(error, IncompleteReadError):
        return f"the answer broke off {BODY_ATTEMPTS} times ({error}); check the network and run again", True
    return str(error), isinstance(error, (HTTPClientError, OSError))
