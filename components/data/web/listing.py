"""Which tars lie under a URI, and what their shards are called."""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from components.common.errors import DataError
from components.common.storage import ObjectInfo, Store, join_uri, normalise_uri, open_store, sha256_hex, split_uri
from components.data.manifest import PLAN_KEY
from components.data.shards import IMAGE_EXTENSIONS, split_name
from components.data.tarwalk import BrokenShard, walk
from components.data.web.named import NamedTar, common_folder, is_named, named_tars, place_of, shown

logger = logging.getLogger(__name__)

_PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|br)|tgz|tbz2?|txz)$", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_STATS = "_stats.json"
_MEMBERS_LOOKED_AT = 100
_ASKED_ONE_BY_ONE = 8


@dataclass(frozen=True)
class WebTar:
    """A tar under a URI.

    Args:
        key: its key in the store of that URI.
        size: bytes.
        etag: the store's version tag.
        counted: whether img2dataset's statistics lie beside it.
    """

    key: str
    size: int
    etag: str
    counted: bool

    @property
    def name(self) -> str:
        """What its shard is called: decided by its key alone, so that one tar more renames no other."""
        stem = self.key[: -len(".tar")]
        if self.key.endswith(".tar") and _PLAIN_NAME.fullmatch(stem):
            return stem
        readable = re.sub(r"[^A-Za-z0-9_]+", "-", stem)[-60:].strip("-")
        return f"{readable}-{sha256_hex(self.key.encode('utf-8', 'surrogateescape'))[:8]}".lstrip("-")


def list_tars(uri: str) -> tuple[Store, list[WebTar]]:
    """The store that holds the tars of `uri` (a folder, a prefix or one tar), and the tars in order of their keys.

    The tars of a brace range or a list (`named`) come in the order they are named in.

    Raises:
        DataError: there is none; says what was found instead. Or one that was named is not there.
    """
    if (named := named_tars(uri)) is not None:
        return _list_named(named)
    whole = normalise_uri(uri)
    if uri.lower().endswith(".tar"):
        # Split as it was given: a link under the name of a tar may lead to a file of any name
        folder, key = split_uri(whole if uri.startswith("file://") else uri)
        source = open_store(folder)
        if (info := source.info(key)) is not None:
            return source, [_tar(info, {stats} if source.exists(stats := _stats_key(key)) else set())]
    source = open_store(whole)
    local = source.local_path("")
    if local is not None and not local.is_dir():
        what = "does not exist; give a .tar or" if whole.lower().endswith(".tar") else "is no folder; give"
        raise DataError(f"{source.uri} {what} the folder with img2dataset's .tar files")
    found = [info for info in source.list() if not _hidden(info.key)]
    keys = {info.key for info in found}
    tars = [_tar(info, keys) for info in _without_own(source, found) if info.key.lower().endswith(".tar")]
    _tell_packed(source, keys, none=not tars)
    if not tars:
        raise DataError(
            f"{source.uri} holds no .tar: give the folder that img2dataset wrote with --output_format webdataset"
            f"{_unfinished(keys) or _loose(keys)}"
        )
    return source, tars


def origin_of(uri: str, source: Store) -> str:
    """What is written down as the place of the tars of `uri`, so that `list_tars` finds the same ones again."""
    return place_of(uri) if is_named(uri) else source.uri


def _list_named(named: Sequence[NamedTar]) -> tuple[Store, list[WebTar]]:
    source = open_store(common_folder(named))
    start = len(source.uri.rstrip("/")) + 1
    keys = [tar.uri[start:] for tar in named]
    infos = _infos(source, keys)
    missing = [f"{tar.place}: there is no {tar.uri}" for tar, key in zip(named, keys, strict=True) if key not in infos]
    if missing:
        count = f"{len(missing)} of the {len(named)} tars that are named are not there; name only those that are"
        raise DataError(f"{count}:\n{shown(missing)}")
    return source, [_tar(infos[key], infos) for key in keys]


def _infos(source: Store, keys: Sequence[str]) -> dict[str, ObjectInfo]:
    """Tars that are there, and the statistics beside them. A prefix is listed: that is cheaper than to ask for each."""
    wanted = [*keys, *map(_stats_key, keys)]
    if source.local_path("") is not None or len(keys) <= _ASKED_ONE_BY_ONE:
        found = ((key, source.info(key)) for key in wanted)
        return {key: info for key, info in found if info is not None}
    folders: dict[str, list[str]] = {}
    for key in keys:
        folders.setdefault(key.rpartition("/")[0], []).append(key)
    prefixes = [os.path.commonprefix(together) for together in folders.values()]
    listed = {info.key: info for prefix in prefixes for info in source.list(prefix)}
    return {key: listed[key] for key in wanted if key in listed}


def _tar(info: ObjectInfo, keys: Iterable[str]) -> WebTar:
    return WebTar(info.key, info.size, info.etag, _stats_key(info.key) in keys)


def _stats_key(tar: str) -> str:
    return f"{tar[: -len('.tar')]}{_STATS}"


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _without_own(source: Store, found: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """What is left without the shards of datasets that were written below the input."""
    own = tuple(f"{info.key[: -len(PLAN_KEY)]}shards/" for info in found if info.key.rpartition("/")[2] == PLAN_KEY)
    left = [info for info in found if not info.key.startswith(own)] if own else list(found)
    if tars := sum(info.key.endswith(".tar") for info in found) - sum(info.key.endswith(".tar") for info in left):
        logger.warning(
            "%s: %d tars in %s are a dataset's own, written below its input: they are not read",
            source.uri, tars, ", ".join(own[:3]),
        )  # fmt: skip
    return left


def _tell_packed(source: Store, keys: Iterable[str], *, none: bool) -> None:
    """Packed tars are told of, and refused where there are no others."""
    packed = sorted(key for key in keys if _PACKED.search(key))
    if not packed:
        return
    names = f"{', '.join(packed[:3])}{' …' if len(packed) > 3 else ''}"
    remedy = "unpack them (`gunzip *.tar.gz`, `zstd -d *.tar.zst`), since tars are used where they lie"
    if none:
        raise DataError(f"{source.uri} holds packed tars only ({names}): {remedy}")
    logger.warning("%s: %d packed tars are not read (%s): %s", source.uri, len(packed), names, remedy)


def _unfinished(keys: Iterable[str]) -> str:
    return "; what lies there is a dataset whose making was not finished: run that again" if PLAN_KEY in keys else ""


def _loose(keys: Iterable[str]) -> str:
    images = any(key.rpartition(".")[2].lower() in IMAGE_EXTENSIONS for key in keys)
    return "; its images become shards with `capfilt dataset import-files`" if images else ""


def counted_samples(source: Store, tar: WebTar) -> int | None:
    """A tar's samples by the stats file that img2dataset writes beside it; None without a readable one."""
    if not tar.counted:
        return None
    try:
        count = json.loads(source.read(_stats_key(tar.key)))["successes"]
    except (ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None


def expected_samples(source: Store, tars: Sequence[WebTar], limit: int | None = None) -> int | None:
    """About how many samples an import will see: the first tar's, by its stats file, in proportion to the tars' sizes.

    None where there is no stats file and no limit.
    """
    first = counted_samples(source, tars[0])
    if not first or not tars[0].size:
        return limit
    total = round(first * sum(tar.size for tar in tars) / tars[0].size)
    return total if limit is None else min(limit, total)


def check_tars(uri: str) -> None:
    """Look before any work: one of the tars at least must begin as a tar with samples in it. Reads a few blocks.

    Raises:
        DataError: there is no tar, or none that can be read; names them.
    """
    check_listed(*list_tars(uri))


def check_listed(source: Store, tars: Sequence[WebTar]) -> None:
    """As `check_tars`, for tars that are listed already."""
    faults = []
    for tar in tars:
        if (fault := _fault(source, tar)) is None:
            return
        faults.append(fault)
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    raise DataError(f"{source.uri}: none of its {len(faults)} tars can be read: {'; '.join(faults[:5])}{more}")


def _fault(source: Store, tar: WebTar) -> str | None:
    """What is wrong with the beginning of a tar, or None."""
    stored, names = _StoredTar(source, tar), []
    try:
        for entry in islice(walk(stored), _MEMBERS_LOOKED_AT):
            if split_name(entry.name) is not None:
                return None
            names.append(entry.name)
    except BrokenShard as error:
        return str(error)
    if not names:
        return f"{stored.name} is an empty tar"
    return f"{stored.name} has no samples, only members such as {names[0]!r}: a sample's have a key and an extension"


class _StoredTar:
    """Positioned reads over a tar where it lies."""

    def __init__(self, source: Store, tar: WebTar) -> None:
        self.name, self.size, self._source, self._key = join_uri(source.uri, tar.key), tar.size, source, tar.key

    def read(self, offset: int, size: int) -> bytes:
        data = self._source.read(self._key, start=offset, stop=offset + size)
        if len(data) != size:
            raise BrokenShard(self.name, offset, "it became shorter while it was read")
        return data
