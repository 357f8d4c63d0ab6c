"""Secrets out of everything that is printed, logged or shown: one place that knows what they look like.

Two kinds are found: by their form (a login in a URL, a presigned URL's signature, an access key), and by their value
(what the environment holds under a name like MLFLOW_TRACKING_PASSWORD). What programs read again, such as a stage's
record, is not rewritten: nothing secret gets there, because configs with credentials are refused (`find_credentials`).
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, urlsplit

HIDDEN = "***"
_SHORTEST = 6  # characters: a shorter value would blank out common words
_S3_LOGIN = re.compile(r"(s3://)[^\s'\"@/:]+:[^\s'\"@]+@", re.IGNORECASE)  # a secret key may hold slashes
_PASSWORD = re.compile(
    r"\b([a-z][a-z0-9+.\-]*://)[^\s'\"@/:]+:(?!\d+/)[^\s'\"@?#]+@", re.IGNORECASE
)  # no port: a login
_LOGIN = re.compile(r"\b([a-z][a-z0-9+.\-]*://)[^\s'\"@/?#]+@", re.IGNORECASE)
_PARAMETER = (
    r"x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|signature|"
    r"awsaccesskeyid|googleaccessid|sig|token|access_token|api_key|apikey|password|secret"
)
_SIGNED = re.compile(rf"((?:[?&]|&amp;|\\u0026)(?:{_PARAMETER})=)[^&\s'\"\\<>]+", re.IGNORECASE)
_HEADER = re.compile(r"(\bauthorization\W{1,4}(?:basic|bearer)\s+)[^\s'\",]+", re.IGNORECASE)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL|AUTH_STRING", re.IGNORECASE
)
_NO_SECRET_NAME = re.compile(r"_(?:FILE|PATH|DIR|LIMIT|SECONDS|EXPIRATION)$", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with every secret in it replaced by `***`."""
    for pattern in (_S3_LOGIN, _PASSWORD, _LOGIN):
        text = pattern.sub(rf"\g<1>{HIDDEN}@", text)
    for pattern in (_SIGNED, _HEADER):
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    text = _AWS_KEY.sub(HIDDEN, text)
    for value in _environment_secrets():
        text = text.replace(value, HIDDEN)
    return text


def redact_values(value: Any) -> Any:
    """A JSON-like value with every text in it redacted, mappings' keys left as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    return [redact_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def find_credentials(text: str) -> str | None:
    """What to use instead, if the text is a URI with credentials in it; None if it is not."""
    if _S3_LOGIN.match(text) or (text.startswith("s3://") and _LOGIN.match(text)):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if _LOGIN.match(text) or _PASSWORD.match(text):
        return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if "://" in text and _SIGNED.search(text):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY with the plain s3:// URI"
    return None


class RedactedStream:
    """A text stream that writes what it is given without secrets: what libraries print, traces of threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it; the number of characters that were given."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them one by one."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """For a process whose output nobody reads through us: redact what it logs and prints. Again: does nothing."""
    install_redaction()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, RedactedStream):
            setattr(sys, name, RedactedStream(stream))


def install_redaction() -> None:
    """Redact every log record of this process, whoever writes it and wherever it goes. A second call does nothing."""
    before = logging.getLogRecordFactory()
    if getattr(before, "redacts", False):
        return

    def make(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = before(*arguments, **named)
        _clean(record)
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _clean(record: logging.LogRecord) -> None:
    """Redact message and trace; a record without secrets stays as it is (some formatters want its arguments)."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: logging reports that itself, later
        return
    if (clean := redact(message)) != message:
        record.msg, record.args = clean, ()
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        if (clean := redact(trace)) != trace:
            record.exc_text, record.exc_info = clean, None


def _environment_secrets() -> list[str]:
    """Values the environment keeps secret, and how they look inside a URL; the longest first."""
    values = {form for value in _secret_values() for form in (value, quote(value, safe=""), quote_plus(value))}
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)


def _secret_values() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name):
            yield value
        elif "@" in value and "://" in value:
            yield from filter(None, [_password_in(value)])


def _password_in(url: str) -> str | None:
    """The password of a URL's login, if it has one."""
    try:
        return urlsplit(url).password
    except ValueError:  # no URL after all
        return None
