"""Tars that are named one by one instead of lying under one folder: a brace range, or a list in a file.

    s3://bucket/{a,b}/shard-{00000..00127}.tar    as webdataset and bash expand braces: nested ones, and steps, too
    tars.txt (.list, .lst)                        a path, URI or brace range a line; `#` begins a comment

Paths of a list are relative to the folder it lies in. All tars of a set lie in one bucket, or on this machine, and all
that are named must be there. The only importer of braceexpand.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from braceexpand import braceexpand

from components.common.errors import DataError, StorageError
from components.common.storage import expand_home, join_uri, normalise_uri, open_store, split_uri

logger = logging.getLogger(__name__)

LISTS = (".txt", ".list", ".lst")
_SHOWN = 5


class NamedTar(NamedTuple):
    """A tar that somebody named: its absolute URI, and where that was, e.g. `tars.txt: line 3`."""

    uri: str
    place: str


def is_named(uri: str) -> bool:
    """Whether a URI is a brace range or a list of tars, rather than a folder, a prefix or a tar."""
    return _is_range(uri) or _is_list(uri)


def named_tars(uri: str) -> list[NamedTar] | None:
    """The tars of a brace range or a list in their order, each once; None if `uri` is neither.

    Raises:
        DataError: a list that is not there, and all names that are of no use, with their lines.
    """
    if not is_named(uri):
        return None
    faults, found = list[str](), dict[str, NamedTar]()
    for place, name in _lines(uri) if _is_list(uri) else [(uri, uri)]:
        try:
            for tar in map(_absolute, _expanded(name)):
                if found.setdefault(tar, NamedTar(tar, place)).place != place:
                    logger.warning("%s: %s is named by %s already and counts once", place, tar, found[tar].place)
        except (DataError, StorageError) as error:
            faults.append(f"{place}: {error}" if place != uri else str(error))
    if faults:
        raise DataError(shown(faults))
    if not found:
        raise DataError(f"{uri} names no tars: write a path or URI of a .tar a line")
    return list(found.values())


def place_of(uri: str) -> str:
    """A brace range or a list as it is found again from any folder."""
    return _from_here(uri) if _is_range(uri) else normalise_uri(uri)


def common_folder(tars: Sequence[NamedTar]) -> str:
    """URI of the folder or prefix that all of these tars lie below.

    Raises:
        DataError: they lie in several buckets, or some on this machine.
    """
    first = tars[0].uri
    if (other := next((tar for tar in tars if _bucket(tar.uri) != _bucket(first)), None)) is not None:
        raise DataError(
            f"{other.place}: {other.uri} does not lie in the same bucket as {first}: give the tars of each alone"
        )
    return "/".join(os.path.commonprefix([tar.uri.split("/")[:-1] for tar in tars])) or "/"


def shown(faults: Sequence[str]) -> str:
    """The first of many faults, a line each, and how many more there are."""
    more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    return "\n".join([*faults[:_SHOWN], *more])


def _bucket(uri: str) -> str:
    return uri.split("/")[2] if uri.startswith("s3://") else ""


def _is_range(uri: str) -> bool:
    return "{" in uri and ("://" in uri or not os.path.exists(expand_home(uri)))  # noqa: PTH110 - names may be too long


def _is_list(uri: str) -> bool:
    if _is_range(uri) or not uri.lower().endswith(LISTS):
        return False
    return uri.startswith("s3://") or not Path(normalise_uri(uri)).is_dir()


def _lines(uri: str) -> Iterator[tuple[str, str]]:
    """The names of a list with their places; relative ones from the folder of the list."""
    folder, key = split_uri(normalise_uri(uri))
    source = open_store(folder)
    if not source.exists(key):
        raise DataError(f"there is no {join_uri(source.uri, key)}: give a list of tars, a path or URI a line")
    try:
        text = source.read(key).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{join_uri(source.uri, key)} is no list of tars: it is not UTF-8 ({error})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if name and not name.startswith("#"):
            absolute = "://" in name or name.startswith(("/", "~", "pipe:"))
            yield f"{key}: line {number}", name if absolute else join_uri(source.uri, name)


def _expanded(name: str) -> Iterator[str]:
    try:
        yield from braceexpand(name) if "{" in name else [name]
    except ValueError as error:
        raise DataError(f"{name}: its braces do not match; write e.g. shard-{{00000..00127}}.tar") from error


def _absolute(tar: str) -> str:
    """A tar's URI under the name it was given: a link may lead to a file of any name."""
    if not tar.lower().endswith(".tar"):
        raise DataError(f"{tar} is no .tar: name tars that are not packed, one by one or as a brace range")
    folder, name = split_uri(normalise_uri(tar) if tar.startswith("file://") else tar)
    return join_uri(normalise_uri(folder), name)


def _from_here(uri: str) -> str:
    return uri if "://" in uri else str(Path.cwd() / expand_home(uri))
