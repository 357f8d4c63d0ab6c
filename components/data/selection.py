"""Lists of samples: DataComp's, `.npy` files of sorted pairs of 64-bit numbers, and plain lists of keys or uids.

A sample's uid is 32 hex digits: the `uid` of its JSON, as DataComp's shards have it, or its key where that is one. In
a `.npy` its first and last 16 digits are the two numbers of a pair (dtype `u8,u8`). Files are read as what they are and
nothing in them is run: a `.npy` of objects, which would be a pickle, is refused.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from components.common.errors import DataError
from components.common.storage import normalise_uri, open_store, sha256_hex, split_uri

PAIRS = np.dtype("u8,u8")
_UID = re.compile(r"[0-9a-f]{32}")
_MAGIC = b"\x93NUMPY"


class _Names(Protocol):
    """The names of a list, each with its place."""

    def __len__(self) -> int: ...
    def place(self, name: str) -> int | None:
        """Where a name stands; None if it is not there."""

    def name(self, place: int) -> str:
        """The name at a place."""


class Selection:
    """Which samples are wanted, and which of them were found so far.

    Args:
        names: keys and uids.
        sha256: of the file.
    """

    def __init__(self, names: _Names, sha256: str) -> None:
        self._names, self.sha256 = names, sha256
        self._found = np.zeros(len(names), bool)

    def __len__(self) -> int:
        return len(self._names)

    def wants(self, key: str, uid: str | None) -> bool:
        """Whether a sample is on the list, by its key or its uid; from now on it counts as found."""
        places = [place for name in (key, uid) if name is not None and (place := self._names.place(name)) is not None]
        self._found[places] = True
        return bool(places)

    @property
    def missing(self) -> int:
        """How many of the list were not found."""
        return len(self) - int(self._found.sum())

    def missing_names(self, first: int = 5) -> list[str]:
        """The first of those that were not found."""
        return [self._names.name(int(place)) for place in islice(np.flatnonzero(~self._found), first)]


class _Lines:
    def __init__(self, names: Sequence[str]) -> None:
        self._list = list(dict.fromkeys(names))
        self._places = {name: place for place, name in enumerate(self._list)}

    def __len__(self) -> int:
        return len(self._list)

    def place(self, name: str) -> int | None:
        return self._places.get(name)

    def name(self, place: int) -> str:
        return self._list[place]


class _Pairs:
    """Pairs as they lie in the file, 16 bytes each: DataComp's lists name many millions."""

    def __init__(self, pairs: "npt.NDArray[np.void]") -> None:
        self._pairs = np.unique(pairs)
        self._first = np.ascontiguousarray(self._pairs["f0"])

    def __len__(self) -> int:
        return len(self._pairs)

    def place(self, name: str) -> int | None:
        if _UID.fullmatch(name) is None:
            return None
        first, last = np.uint64(int(name[:16], 16)), int(name[16:], 16)
        start, stop = (int(np.searchsorted(self._first, first, side)) for side in ("left", "right"))
        return next((at for at in range(start, stop) if int(self._pairs["f1"][at]) == last), None)

    def name(self, place: int) -> str:
        first, last = self._pairs[place].item()
        return f"{first:016x}{last:016x}"


def uid_of(key: str, fields: Mapping[str, object]) -> str | None:
    """A sample's uid by its JSON, or its key; None if it has none."""
    for value in (fields.get("uid"), key):
        if isinstance(value, str) and _UID.fullmatch(value.lower()):
            return value.lower()
    return None


def read_selection(uri: str) -> Selection:
    """Read a list of samples.

    Args:
        uri: a `.npy`, or a text file with a key or uid a line; empty lines and those that begin with # do not count.

    Raises:
        DataError: it is neither, or empty.
    """
    folder, name = split_uri(normalise_uri(uri))
    data = open_store(folder).read(name)
    binary = data.startswith(_MAGIC) or name.endswith(".npy")
    names: _Names = _Pairs(_pairs(data, uri)) if binary else _Lines(_lines(data, uri))
    if not len(names):
        raise DataError(f"{uri} lists no sample: give one key or uid a line, or a .npy as DataComp's")
    return Selection(names, sha256_hex(data))


def _pairs(data: bytes, uri: str) -> "npt.NDArray[np.void]":
    try:
        pairs: Any = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise DataError(
            f"{uri} is no .npy of uids ({error}): its dtype must be u8,u8, and no pickle is read"
        ) from error
    if not isinstance(pairs, np.ndarray) or pairs.dtype != PAIRS or pairs.ndim != 1:
        found = f"{getattr(pairs, 'dtype', 'several arrays')} of shape {getattr(pairs, 'shape', '?')}"
        raise DataError(f"{uri} has {found}; a list of uids is one row of pairs, dtype u8,u8, as DataComp publishes it")
    return pairs


def _lines(data: bytes, uri: str) -> list[str]:
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is no text in UTF-8: give one key or uid a line, or a .npy as DataComp's") from error
    names = [line for line in lines if line and not line.startswith("#")]
    return [name.lower() if _UID.fullmatch(name.lower()) else name for name in names]


def uids_to_npy(uids: Iterable[str]) -> bytes:
    """The `.npy` of these uids: sorted pairs, each uid once, as DataComp's tools take it."""
    pairs = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in sorted(set(uids))], PAIRS)
    buffer = io.BytesIO()
    np.save(buffer, pairs, allow_pickle=False)
    return buffer.getvalue()
