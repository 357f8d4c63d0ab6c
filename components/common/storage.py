"""One place that knows where bytes live: a local folder or S3. The only importer of boto3.

A URI is a path, `file:///path` or `s3://bucket/prefix`. A `Store` is rooted at a URI; keys are relative, `/`-separated.
Objects appear whole or not at all: local files by rename, S3 objects by PutObject / CompleteMultipartUpload.

S3 is reached with the standard AWS credential chain and `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`). A server that
has answered once and then falls silent is waited for: `CAPFILT_S3_PATIENCE` seconds, five minutes unless set.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from components.common import patience
from components.common.errors import StorageError
from components.common.redact import find_credentials, redact

_S3_URI = re.compile(r"^s3://([a-z0-9][a-z0-9.\-]{1,61}[a-z0-9])(?:/(.*))?$")
_READ_CHUNK = 4 << 20  # reference/peers.md 2d: boto3 behind a 4 MiB buffer costs least CPU per byte
_BODY_ATTEMPTS = 5
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}  # exFAT, SMB, FUSE …
_CLAIM_SECONDS = 60.0  # age from which the claim of a writer counts as left behind

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: key relative to the store's root, size in bytes, and the store's version tag.

    `modified` is when it was last written, seconds since 1970 by the store's own clock (S3: whole seconds).
    """

    key: str
    size: int
    etag: str
    modified: float


@dataclass(frozen=True)
class Capabilities:
    """What a store was found to be able to do."""

    creates_once: bool
    """an object can be created only where there is none, in one step"""
    note: str = ""
    """what is missing, and what serves instead"""


def join_uri(root: str, *parts: str) -> str:
    """Append path segments to a URI of any scheme: `join_uri("s3://b/p", "x", "y") == "s3://b/p/x/y"`."""
    return "/".join([root.rstrip("/") or "/", *(part.strip("/") for part in parts)])


def split_uri(uri: str) -> tuple[str, str]:
    """Split `…/folder/name` into the URI of the folder and the name."""
    head, _, tail = uri.rstrip("/").rpartition("/")
    return (head or ("/" if uri.startswith("/") else "."), tail)


def normalise_uri(uri: str) -> str:
    """Make local paths absolute and leave `s3://` as it is.

    Raises:
        StorageError: for any scheme other than `file` and `s3` (`pipe:` above all), or a malformed bucket.
    """
    if (instead := find_credentials(uri)) is not None:
        raise StorageError(f"credentials in a URI are refused ({redact(uri)}): set {instead} instead")
    if uri.startswith("s3://"):
        if _S3_URI.match(uri) is None:
            raise StorageError(f"not a usable S3 URI: {uri!r}; write s3://bucket/prefix (bucket: 3-63 of a-z 0-9 . -)")
        return uri.rstrip("/")
    if uri.startswith("file://"):
        return str(Path(unquote(urlsplit(uri).path)).resolve())
    if "://" in uri or uri.startswith("pipe:"):
        raise StorageError(f"cannot read {uri!r}: use a path, file://… or s3://bucket/prefix")
    return str(expand_home(uri).resolve())


def expand_home(path: str) -> Path:
    """The path with `~` made out.

    Raises:
        StorageError: `~name`, and there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StorageError(f"cannot use {path}: there is no such home folder; write the path out") from error


def sha256_hex(data: bytes) -> str:
    """sha256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a local file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Store(ABC):
    """Objects under one URI. All methods raise StorageError with the full URI in the message."""

    uri: str
    _lacking: str
    """what to say of a store of this kind that cannot create an object only where there is none"""

    @abstractmethod
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes `[start, stop)` of an object; StorageError if it is missing."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object whole. With `if_absent`, leave an existing one alone and return False."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to `key` (multipart where large)."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file, atomically."""

    def copy(self, source: "Store", key: str, to: str) -> None:
        """Take over an object of another store as `to`, whole, without reading it where the stores can do so.

        On folders the copy may share its bytes with the original (a hard link): for files that nobody changes.
        """
        with tempfile.TemporaryDirectory(prefix="capfilt-copy-") as folder:
            path = Path(folder) / "object"
            source.download(key, path)
            self.upload(path, to)

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """A buffered stream over the object."""

    @abstractmethod
    def info(self, key: str) -> ObjectInfo | None:
        """Size and etag of an object, or None if there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in key order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; removing a missing one is no error."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """The object's path if it is a file of this machine, else None."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self.info(key) is not None

    def child(self, *parts: str) -> "Store":
        """The store rooted further down."""
        return open_store(join_uri(self.uri, *parts))

    @abstractmethod
    def _creates_once(self, key: str) -> bool:
        """Try to create the object `key`, which is there, and tell whether the store itself refuses that."""

    def check(self) -> Capabilities:
        """Prove that this store takes, gives back and deletes an object, and find out what else it can do.

        Raises:
            StorageError: what was refused and how to mend it. Call it before any long work starts.
        """
        key = f".capfilt-probe-{os.getpid()}-{threading.get_ident()}"
        self.write(key, b"probe")
        try:
            if self.read(key) != b"probe":
                raise StorageError(f"{join_uri(self.uri, key)}: read back other bytes than were written")
            able = self._creates_once(key)
        finally:
            self.delete(key)
        return Capabilities(able, "" if able else self._lacking)


def open_store(uri: str) -> Store:
    """The store rooted at `uri`: a folder or an S3 prefix."""
    uri = normalise_uri(uri)
    return S3Store(uri) if uri.startswith("s3://") else FolderStore(uri)


class FolderStore(Store):
    """Objects as files below a folder; writes go to a temporary name, are synced, then renamed.

    Keys are checked as text, and links are followed: shards may be links to another disk, and the files of a model in
    the Hugging Face cache are. A write replaces a link, not what it points to.
    """

    _lacking = (
        "no hard links here: what must be written only once is claimed first by a file beside it; "
        "two writers at once are told apart unless one of them stands still for a minute in between"
    )

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = Path(uri)

    def _path(self, key: str) -> Path:
        if ".." in PurePosixPath(key).parts or key.startswith("/") or "\0" in key:
            raise StorageError(f"key {key!r} leaves the store {self.uri}")
        return self.root / key

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        with self.open(key) as file, folder_errors("read", self._path(key)):
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        path = self._path(key)
        with folder_errors("write", path), _replacing(path) as temporary:
            temporary.write_bytes(data)
            return _publish(temporary, path, if_absent=if_absent)

    def upload(self, path: Path, key: str) -> None:
        target = self._path(key)
        with folder_errors("write", target), _replacing(target) as temporary:
            _copy_bytes(path, temporary)
            _publish(temporary, target, if_absent=False)

    def download(self, key: str, path: Path) -> None:
        with folder_errors("read", self._path(key)), _replacing(path) as temporary:
            _copy_bytes(self._path(key), temporary)
            _publish(temporary, path, if_absent=False)

    def copy(self, source: "Store", key: str, to: str) -> None:
        original, target = source.local_path(key), self._path(to)
        if original is None:
            source.download(key, target)
            return
        with folder_errors("read", original):
            original.stat()
        with folder_errors("write", target), _replacing(target) as temporary:
            temporary.unlink()
            try:
                os.link(original, temporary)
            except OSError:  # another file system, or one without hard links
                _copy_bytes(original, temporary)
            temporary.replace(target)  # leaves the temporary name, to be removed, where both are one file already

    def open(self, key: str) -> BinaryIO:
        with folder_errors("read", self._path(key)):
            return self._path(key).open("rb")

    def info(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with folder_errors("read", path):
            try:
                stat = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not S_ISREG(stat.st_mode):
            return None
        return ObjectInfo(key, stat.st_size, f"{stat.st_size:x}-{stat.st_mtime_ns:x}", stat.st_mtime)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        above = prefix.rpartition("/")[0]
        folder = self._path(above)
        with folder_errors("list", folder):
            keys = sorted(key for key in _files_below(folder, above and f"{above}/", ()) if key.startswith(prefix))
        for key in keys:
            if (info := self.info(key)) is not None:
                yield info

    def delete(self, key: str) -> None:
        with folder_errors("delete", self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def _creates_once(self, key: str) -> bool:
        path = self._path(key)
        with folder_errors("write", path), _replacing(path) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return True
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        return False


def _files_below(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Keys of all files below a folder, links followed, except to a folder that holds the link. None if it is gone."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/", (*above, real))
        elif entry.is_file() and not (entry.name.startswith(".") and entry.name.endswith((".tmp", ".claim"))):
            yield f"{prefix}{entry.name}"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is gone afterwards, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, *, if_absent: bool) -> bool:
    """Sync, then give the file its name in one step. Returns False if `if_absent` and it was there."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(PermissionError):  # file systems without permissions
        temporary.chmod(0o644)
    if not if_absent:
        temporary.replace(path)
        return True
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _publish_claimed(temporary, path)
    return True


def _publish_claimed(temporary: Path, path: Path) -> bool:
    """`_publish` with `if_absent` where there are no hard links: whoever creates the claim beside it may rename."""
    claim = path.with_name(f".{path.name}.claim")
    while not path.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            _await_claim(claim)
            continue
        try:
            if path.exists():
                return False
            temporary.replace(path)
            return True
        finally:
            claim.unlink(missing_ok=True)
    return False


def _await_claim(claim: Path) -> None:
    """Wait a little for another writer; delete the claim of one that is gone."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - claim.stat().st_mtime > _CLAIM_SECONDS:
            claim.unlink()
    time.sleep(0.02)


def _copy_bytes(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_READ_CHUNK):
            writer.write(chunk)


@contextlib.contextmanager
def folder_errors(action: str, path: Path) -> Iterator[None]:
    """Turn the system's errors about a local file into StorageError: what, where, how to mend it."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"cannot {action} {path}: it does not exist") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"cannot {action} {path}: a part of this path is a file, not a folder; choose another place"
        ) from error
    except PermissionError as error:
        raise StorageError(f"cannot {action} {path}: permission denied; check the owner of the folder") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"cannot {action} {path}: the disk is full; free space and run again (finished work is kept)"
            ) from error
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error


class S3Store(Store):
    """Objects under `s3://bucket/prefix`, on AWS or any server that speaks its protocol."""

    _lacking = (
        "no conditional writes here: what must be written only once is looked for first; "
        "of two that write it in the same moment the later one stays"
    )

    def __init__(self, uri: str) -> None:
        match = _S3_URI.match(uri)
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
            with _s3_errors(action, self._where(key)):
                result = call()
            _note_answer()
            return result

        return patience.patiently(attempt, patience.seconds() if _has_answered() else 0.0)

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        extra = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}

        def fetch() -> bytes:
            return bytes(_client().get_object(**self._target(key), **extra)["Body"].read())

        return self._try("read", key, lambda: _whole(fetch))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if not if_absent:
            self._try("write", key, lambda: _client().put_object(**self._target(key), Body=data))
            return True
        mark = secrets.token_hex(8)
        return self._try("write", key, lambda: self._create(key, data, mark))

    def _create(self, key: str, data: bytes, mark: str) -> bool:
        """Create an object, or tell whether the one that is there bears our mark: then an answer had been lost.

        Some servers ignore If-None-Match, others do not know it: look first, so that they too leave an object alone.
        """
        for _ in range(_BODY_ATTEMPTS):
            if (found := self._mark_of(key)) is not None:
                return found == mark
            condition = {} if _endpoint() in _unconditional else {"IfNoneMatch": "*"}
            try:
                _client().put_object(**self._target(key), Body=data, Metadata={_MARK: mark}, **condition)
                return True
            except Exception as error:
                if _error_code(error) in ("NotImplemented", "501") and condition:
                    _unconditional.add(_endpoint())
                elif _error_code(error) == "ConditionalRequestConflict":  # another is at it and may yet fail
                    time.sleep(0.2)
                elif _error_code(error) not in ("PreconditionFailed", "412"):
                    raise
        return False

    def _mark_of(self, key: str) -> str | None:
        """The mark an object was created with, empty if it has none; None if there is no object."""
        head = self._head(key)
        return None if head is None else str(head.get("Metadata", {}).get(_MARK, ""))

    def _creates_once(self, key: str) -> bool:
        def create() -> bool:
            try:
                _client().put_object(**self._target(key), Body=b"probe", IfNoneMatch="*")
            except Exception as error:
                if _error_code(error) in ("PreconditionFailed", "412"):
                    return True
                if _error_code(error) not in ("NotImplemented", "501"):
                    raise
                _unconditional.add(_endpoint())
            return False

        return self._try("write", key, create)

    def upload(self, path: Path, key: str) -> None:
        self._try("write", key, lambda: _client().upload_file(str(path), self.bucket, self._key(key)))

    def download(self, key: str, path: Path) -> None:
        info = self.info(key)
        if info is None:
            raise StorageError(f"cannot read {self._where(key)}: {_REMEDIES['NoSuchKey']}")

        def fetch() -> None:
            with _replacing(path) as temporary:
                _whole(lambda: self._copy_to(temporary, key, info.size))
                _publish(temporary, path, if_absent=False)

        self._try("read", key, fetch)

    def _copy_to(self, path: Path, key: str, size: int) -> None:
        """Download, and count: an answer may be shorter than the object, and its own length fit it."""
        from botocore.exceptions import IncompleteReadError

        _client().download_file(self.bucket, self._key(key), str(path))
        if (found := path.stat().st_size) != size:
            raise IncompleteReadError(actual_bytes=found, expected_bytes=size)

    def copy(self, source: "Store", key: str, to: str) -> None:
        if not isinstance(source, S3Store):
            super().copy(source, key, to)
            return
        with _s3_errors("write", self._where(to)):
            _client().copy(source._target(key), self.bucket, self._key(to))

    def open(self, key: str) -> BinaryIO:
        return io.BufferedReader(_BodyReader(self, key), _READ_CHUNK)

    def info(self, key: str) -> ObjectInfo | None:
        head = self._try("read", key, lambda: self._head(key))
        if head is None:
            return None
        etag, modified = str(head["ETag"]).strip('"'), head["LastModified"].timestamp()
        return ObjectInfo(key, int(head["ContentLength"]), etag, modified)

    def _head(self, key: str) -> dict[str, Any] | None:
        """The object's headers, None if there is none."""
        try:
            return dict(_client().head_object(**self._target(key)))
        except Exception as error:
            if _error_code(error) in ("404", "NoSuchKey", "NotFound"):
                return None
            if _error_code(error) in ("400", "403"):  # a HEAD has no body that says why, a GET has
                _client().get_object(**self._target(key), Range="bytes=0-0")["Body"].close()
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
        return dict(_client().list_objects_v2(Bucket=self.bucket, Prefix=self._key(prefix), **after))

    def delete(self, key: str) -> None:
        self._try("delete", key, lambda: _client().delete_object(**self._target(key)))

    def local_path(self, key: str) -> Path | None:
        return None

    def _where(self, key: str) -> str:
        return join_uri(self.uri, key)


class _BodyReader(io.RawIOBase):
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
        data = self._store._try("read", self._key, lambda: _whole(lambda: self._read(len(buffer))))
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
        answer = _client().get_object(**self._store._target(self._key), **same)
        if same and str(answer["ETag"]) != self._etag:  # some servers ignore If-Match
            answer["Body"].close()
            raise StorageError(f"cannot read {self._store._where(self._key)}: {_REMEDIES['PreconditionFailed']}")
        self._etag, self._body = str(answer["ETag"]), answer["Body"]

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        super().close()


_clients: dict[int, Any] = {}
_clients_lock = threading.Lock()
_unconditional: set[str] = set()
"""servers that do not know If-None-Match"""
_MARK = "capfilt-write"
_ANSWERED = "CAPFILT_S3_ANSWERED"


def _endpoint() -> str:
    """Where S3 is to be reached; empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _note_answer() -> None:
    """Remember that the server is there, here and in the processes started from here.

    An address that never answered is more likely wrong than the address of a server that is away for a moment.
    """
    os.environ[_ANSWERED] = _endpoint() or "AWS"


def _has_answered() -> bool:
    return os.environ.get(_ANSWERED) == (_endpoint() or "AWS")


def _client() -> Any:
    """One S3 client per process (boto3 clients are thread-safe, but must not cross a fork).

    A request is tried 7 times, or `AWS_MAX_ATTEMPTS` times, within seconds; minutes are waited for by `patience`.
    """
    pid = os.getpid()
    with _clients_lock:
        if pid not in _clients:
            import boto3
            from botocore.config import Config

            endpoint = _endpoint() or None
            if endpoint and not endpoint.startswith(("http://", "https://")):
                raise StorageError(f"AWS_ENDPOINT_URL={endpoint} is no address: write http://host:port or https://host")
            config = Config(
                retries={"mode": "standard"} | ({} if "AWS_MAX_ATTEMPTS" in os.environ else {"max_attempts": 6}),
                max_pool_connections=32,
                connect_timeout=10,
                read_timeout=60,
                # boto3 >= 1.36 adds checksums that S3-compatible servers reject (reference/mlops.md 6)
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"} if endpoint else {},
            )
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            try:
                _clients[pid] = boto3.session.Session().client(
                    "s3", endpoint_url=endpoint, region_name=region, config=config
                )
            except ValueError as error:
                raise StorageError(
                    f"AWS_ENDPOINT_URL={redact(str(endpoint))} is no usable address ({error}): a host's name is made "
                    "of letters, digits, dots and hyphens, without `_`; use another name or the IP address"
                ) from error
        return _clients[pid]


def _whole(fetch: Callable[[], T]) -> T:
    """`fetch()` again where a body broke off: botocore tries a request again only until its headers are there."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from s3transfer.exceptions import S3DownloadFailedError  # the object was replaced between two parts

    for _ in range(_BODY_ATTEMPTS - 1):
        with contextlib.suppress(IncompleteReadError, ReadTimeoutError, ResponseStreamingError, S3DownloadFailedError):
            return fetch()
    return fetch()


def _error_code(error: BaseException) -> str:
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


_REMEDIES = {
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


@contextlib.contextmanager
def _s3_errors(action: str, where: str) -> Iterator[None]:
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
        code = _error_code(error)
        found = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        return _REMEDIES.get(code, found), code in _RETRYABLE
    if isinstance(error, EndpointConnectionError):
        return f"no answer from the S3 server at {_endpoint() or 'AWS'}; check AWS_ENDPOINT_URL and that it runs", True
    if isinstance(error, IncompleteReadError):
        return f"the answer broke off {_BODY_ATTEMPTS} times ({error}); check the network and run again", True
    return str(error), isinstance(error, (HTTPClientError, OSError))
