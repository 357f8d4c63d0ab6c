"""A store that is a prefix of a bucket. A server that has answered once and then falls silent is waited for.

Without conditional writes of the server, what must be written only once is looked for first.
"""

import io
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from components.common import patience
from components.common.errors import StorageError
from components.common.storage.base import ObjectInfo, Store
from components.common.storage.files import READ_CHUNK, publish, replacing
from components.common.storage.s3_client import client, endpoint, has_answered, note_answer
from components.common.storage.s3_faults import BODY_ATTEMPTS, REMEDIES, error_code, s3_errors, whole
from components.common.storage.uris import S3_URI, join_uri, normalise_uri

T = TypeVar("T")
_unconditional: set[str] = set()
"""servers that do not know If-None-Match"""
_MARK = "capfilt-write"


class S3Store(Store):
    """Objects under `s3://bucket/prefix`, on AWS or any server that speaks its protocol."""

    _lacking = (
        "no conditional writes here: what must be written only once is looked for first; "
        "of two that write it in the same moment the later one stays"
    )

    def __init__(self, uri: str) -> None:
        match = S3_URI.match(uri)
        if match is None:
            raise StorageError(f"not an S3 URI: {uri!r}")
        self.uri = uri
        self.bucket = match[1]
        self.prefix = (match[2] or "").strip("/")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _try(self, action: str, key: str, call: Callable[[], T]) -> T:
        """`call()` with its errors in our words, and again while a server that was there gives no answer."""

        def attempt() -> T:
            with s3_errors(action, self._where(key)):
                result = call()
            note_answer()
            return result

        return patience.patiently(attempt, patience.seconds() if has_answered() else 0.0)

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        extra = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}

        def fetch() -> bytes:
            return bytes(client().get_object(**self._target(key), **extra)["Body"].read())

        return self._try("read", key, lambda: whole(fetch))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if not if_absent:
            self._try("write", key, lambda: client().put_object(**self._target(key), Body=data))
            return True
        mark = secrets.token_hex(8)
        return self._try("write", key, lambda: self._create(key, data, mark))

    def _create(self, key: str, data: bytes, mark: str) -> bool:
        """Create an object, or tell whether the one that is there bears our mark: then an answer had been lost.

        Some servers ignore If-None-Match, others do not know it: look first, so that they too leave an object alone.
        """
        for _ in range(BODY_ATTEMPTS):
            if (found := self._mark_of(key)) is not None:
                return found == mark
            condition = {} if endpoint() in _unconditional else {"IfNoneMatch": "*"}
            try:
                client().put_object(**self._target(key), Body=data, Metadata={_MARK: mark}, **condition)
                return True
            except Exception as error:
                if error_code(error) in ("NotImplemented", "501") and condition:
                    _unconditional.add(endpoint())
                elif error_code(error) == "ConditionalRequestConflict":  # another is at it and may yet fail
                    time.sleep(0.2)
                elif error_code(error) not in ("PreconditionFailed", "412"):
                    raise
        return False

    def _mark_of(self, key: str) -> str | None:
        """The mark an object was created with, empty if it has none; None if there is no object."""
        head = self._head(key)
        return None if head is None else str(head.get("Metadata", {}).get(_MARK, ""))

    def _creates_once(self, key: str) -> bool:
        def create() -> bool:
            try:
                client().put_object(**self._target(key), Body=b"probe", IfNoneMatch="*")
            except Exception as error:
                if error_code(error) in ("PreconditionFailed", "412"):
                    return True
                if error_code(error) not in ("NotImplemented", "501"):
                    raise
                _unconditional.add(endpoint())
            return False

        return self._try("write", key, create)

    def upload(self, path: Path, key: str) -> None:
        self._try("write", key, lambda: client().upload_file(str(path), self.bucket, self._key(key)))

    def download(self, key: str, path: Path) -> None:
        info = self.info(key)
        if info is None:
            raise StorageError(f"cannot read {self._where(key)}: {REMEDIES['NoSuchKey']}")

        def fetch() -> None:
            with replacing(path) as temporary:
                whole(lambda: self._copy_to(temporary, key, info.size))
                publish(temporary, path, if_absent=False)

        self._try("read", key, fetch)

    def _copy_to(self, path: Path, key: str, size: int) -> None:
        """Download, and count: an answer may be shorter than the object, and its own length fit it."""
        from botocore.exceptions import IncompleteReadError

        client().download_file(self.bucket, self._key(key), str(path))
        if (found := path.stat().st_size) != size:
            raise IncompleteReadError(actual_bytes=found, expected_bytes=size)

    def copy(self, source: "Store", key: str, to: str) -> None:
        if not isinstance(source, S3Store):
            super().copy(source, key, to)
            return
        with s3_errors("write", self._where(to)):
            client().copy(source._target(key), self.bucket, self._key(to))

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(BodyReader(self, key), READ_CHUNK)

    def info(self, key: str) -> ObjectInfo | None:
        head = self._try("read", key, lambda: self._head(key))
        if head is None:
            return None
        etag, modified = str(head["ETag"]).strip('"'), head["LastModified"].timestamp()
        return ObjectInfo(key, int(head["ContentLength"]), etag, modified)

    def _head(self, key: str) -> dict[str, Any] | None:
        """The object's headers, None if there is none."""
        try:
            return dict(client().head_object(**self._target(key)))
        except Exception as error:
            if error_code(error) in ("404", "NoSuchKey", "NotFound"):
                return None
            if error_code(error) in ("400", "403"):  # a HEAD has no body that says why, a GET has
                client().get_object(**self._target(key), Range="bytes=0-0")["Body"].close()
            raise

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        start = len(self.prefix) + 1 if self.prefix else 0
        after: dict[str, str] = {}
        while True:
            page = self._try("list", prefix, lambda: self._page(prefix, after))  # noqa: B023 - called at once
            for item in page.get("Contents", ()):
                etag, modified = str(item["ETag"]).strip('"'), item["LastModified"].timestamp()
                yield ObjectInfo(item["Key"][start:], int(item["Size"]), etag, modified)
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, after: dict[str, str]) -> dict[str, Any]:
        return dict(client().list_objects_v2(Bucket=self.bucket, Prefix=self._key(prefix), **after))

    def delete(self, key: str) -> None:
        self._try("delete", key, lambda: client().delete_object(**self._target(key)))

    def local_path(self, key: str) -> Path | None:
        return None

    def child(self, *parts: str) -> Store:
        return S3Store(normalise_uri(join_uri(self.uri, *parts)))

    def _where(self, key: str) -> str:
        return join_uri(self.uri, key)


class BodyReader(io.RawIOBase):
    """An object's bytes as a raw stream, asked for anew from where they broke off.

    A body shorter than announced is an error, never an early end; an object that was replaced meanwhile is one too.
    """

    def __init__(self, store: "S3Store", key: str) -> None:
        self._store, self._key = store, key
        self._position, self._etag = 0, ""
        self._body: Any = None
        store._try("read", key, self._ask)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._store._try("read", self._key, lambda: whole(lambda: self._read(len(buffer))))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        if self._body is None:
            self._ask()
        try:
            data = bytes(self._body.read(size))
        except BaseException:
            self._body.close()
            self._body = None
            raise
        self._position += len(data)
        return data

    def _ask(self) -> None:
        """Request the bytes from the present position on, of the version that was begun with."""
        same = {"Range": f"bytes={self._position}-", "IfMatch": self._etag} if self._position else {}
        answer = client().get_object(**self._store._target(self._key), **same)
        if same and str(answer["ETag"]) != self._etag:  # some servers ignore If-Match
            answer["Body"].close()
            raise StorageError(f"cannot read {self._store._where(self._key)}: {REMEDIES['PreconditionFailed']}")
        self._etag, self._body = str(answer["ETag"]), answer["Body"]

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        super().close()
