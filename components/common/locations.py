"""URIs inside a store are relative, so that a store that was moved or copied refers to itself and not to its original.

A relative URI is written from where its file lies (`../../web/0a1b`, the dataset's folder being the start) or, in
records about anything, from the store's root and marked as such (`./datasets/web/0a1b`). What lies outside of the store
keeps its absolute URI.
"""

import posixpath
from collections.abc import Callable, Iterator
from typing import Any

from components.common.storage import join_uri

_SCHEME = "s3://"


def is_absolute(uri: str) -> bool:
    """Whether a URI says by itself where it is."""
    return "://" in uri or uri.startswith("/")


def is_below(root: str, uri: str) -> bool:
    """Whether an absolute URI is `root` or lies below it."""
    root = root.rstrip("/")
    return uri == root or uri.startswith(f"{root}/")


def relative_uri(root: str, uri: str, *, within: str | None = None) -> str:
    """A URI as it is written in a file below `root`: relative if it lies in the same store, else as it is.

    Args:
        root: absolute URI of the folder that the relative one shall start from.
        uri: absolute URI, or one that is relative already.
        within: root of the store (default: `root` itself).
    """
    within = root if within is None else within
    if not is_absolute(uri) or not is_below(within, root) or not is_below(within, uri):
        return uri
    return posixpath.relpath(_path(uri), _path(root))


def absolute_uri(root: str, uri: str) -> str:
    """Where a URI that was written below `root` points to; absolute ones are what they are."""
    if is_absolute(uri):
        return uri
    scheme = _SCHEME if root.startswith(_SCHEME) else ""
    return scheme + posixpath.normpath(posixpath.join(_path(root), uri)).lstrip("/" if scheme else "")


def store_root(uri: str) -> str:
    """Root of the store that a dataset belongs to: three up from `<store>/datasets/<name>/<version>`, or itself."""
    parts = uri.rstrip("/").split("/")
    return "/".join(parts[:-3]) or "/" if len(parts) > 3 and parts[-3] == "datasets" else uri


def relative_values(root: str, value: Any) -> Any:
    """A JSON value whose texts that point into the store at `root` are written `./…`."""
    start = len(root.rstrip("/")) + 1
    return map_texts(value, lambda text: f"./{text[start:]}" if is_below(root, text) else text)


def absolute_values(root: str, value: Any) -> Any:
    """The JSON value that `relative_values` was given, for the store as it lies now."""

    def absolute(text: str) -> str:
        if not text.startswith("./"):
            return text
        return join_uri(root, text[2:]) if text != "./" else root

    return map_texts(value, absolute)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with its texts changed; names of an object's fields are none of them."""
    if isinstance(value, dict):
        return {name: map_texts(one, change) for name, one in value.items()}
    if isinstance(value, list):
        return [map_texts(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a JSON value, but for the names of an object's fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts_in(one)


def _path(uri: str) -> str:
    """A URI as a path that begins with a slash: buckets are its first folders."""
    return f"/{uri.removeprefix(_SCHEME)}" if uri.startswith(_SCHEME) else uri
