"""Names of places: a path, `file:///path` or `s3://bucket/prefix`."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.common.errors import StorageError
from components.common.redact import find_credentials, redact

S3_URI = re.compile(r"^s3://([a-z0-9][a-z0-9.\-]{1,61}[a-z0-9])(?:/(.*))?$")


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
        if S3_URI.match(uri) is None:
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
