"""Import a table of image paths and texts: its images become web shards, read from then on by the rules of all others.

Flickr30k's, SBU's, CC's and LAION's lists are such tables once their images are downloaded. A sample is an image with
the texts of the rows that name it one after the other; its key is the number of the first of them. Images are copied
bit by bit.

Paths are those of files: relative to the table, or whole ones (`/…`, `file://…`) that lie below the image folder.
Addresses on the web are not fetched: img2dataset does that. A row that is of no use is listed with its line among the
dataset's failed samples, and does not end the import.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlparse

from components.common.contracts import DatasetRef
from components.common.errors import DataError
from components.common.storage import Store, join_uri, open_store, sha256_file, sha256_hex, split_uri
from components.data.coco import extension_of
from components.data.decoding import BadImage
from components.data.imports import ImageImport, imported_once
from components.data.manifest import BadSample, ShardRecord
from components.data.publish import ShardBuilder, check_sizes
from components.data.web.tables import TableImage, check_table, table_images
from components.data.web.texts import unjudged, web_texts

REVISION = 1  # counts changes of what the same input becomes


def import_table(
    table_uri: str,
    *,
    image: str,
    text: str,
    store: Store,
    name: str,
    images_uri: str | None = None,
    shard_size: int = 1000,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    expect: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of a table and its images, or find it made; an interrupted import goes on with the next shard.

    Args:
        table_uri: a CSV, TSV or parquet file.
        image, text: names of the columns with paths and texts.
        store: root of the project's store.
        name: the dataset's name.
        images_uri: folder or S3 prefix that paths are relative to; the table's own by default.
        shard_size: images per shard.
        limit: use the first so many images only.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of images just done.
        expect: called with the number of all of them, before the first is done.

    Raises:
        ConfigError: before any work, if a column is not there.
        DataError: before any work, if the table is missing or of no use; afterwards, if more than half of its images
            cannot be used.
    """
    check_sizes(shard_size, limit)
    folder, key = split_uri(table_uri)
    with _local_copy(open_store(folder), key) as path:
        where, source = join_uri(open_store(folder).uri, key), open_store(images_uri or folder)
        check_table(path, where, image=image, text=text)
        images, sizes = _counted(islice(table_images(path, where, image=image, text=text), limit), source)
        plan = {
            "kind": "table",
            "revision": REVISION,
            "table_sha256": sha256_file(path),
            "columns": [image, text],
            "images": sizes,
            "shard_size": shard_size,
            "limit": limit,
        }

        def work(target: Store) -> list[ShardRecord]:
            if expect is not None:
                expect(images)
            read = islice(table_images(path, where, image=image, text=text), limit)
            return _TableImport(where, source, target, threads=threads, progress=progress).run(read, shard_size)

        return imported_once(store, name, "web", plan, where, work)


@contextmanager
def _local_copy(source: Store, key: str) -> Iterator[Path]:
    """The table as a local file: itself, or a temporary download."""
    if not source.exists(key):
        raise DataError(f"{join_uri(source.uri, key)} is no file: give a table, .csv, .tsv or .parquet")
    if (path := source.local_path(key)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="capfilt-table-") as folder:
        path = Path(folder) / "table"
        source.download(key, path)
        yield path


class _TableImport(ImageImport[TableImage]):
    """The work of one import."""

    def read(self, item: TableImage) -> bytes | BadSample:
        if item.rows[0].fault:
            return self.bad(item, "bad_row", item.rows[0].fault)
        key, fault = _key_of(item.image, self.source)
        if fault:
            return self.bad(item, fault, f"image {item.image!r}: {_REMEDIES[fault]}")
        found = self.look(key)
        if found is None:
            return self.bad(item, "missing_image", f"there is no {join_uri(self.source.uri, key)}")
        if isinstance(found, BadImage):
            return self.bad(item, found.reason, f"image {item.image!r}: {found}")
        return found

    def place(self, item: TableImage) -> str:
        return f"{self.where}: {item.place}"

    def add(self, builder: ShardBuilder, item: TableImage, data: bytes) -> None:
        """Write one image with its texts; they are read back as CapFilt will read them."""
        said = [_valid(row.text) for row in item.rows]
        document = {"caption": said[0] if len(said) == 1 else said, "image": _valid(item.image), "place": item.place}
        fields = json.dumps(document, ensure_ascii=False).encode()
        texts, digest = web_texts({"json": fields}), sha256_hex(data)
        rows = unjudged(item.key, digest, texts)
        if texts[0].problem is not None:
            self.tell(f"{self.place(item)}: text is {texts[0].text!r} ({texts[0].problem})")
        kept = next((row.text for row in rows if row.kept), "")
        builder.add(item.key, rows, {extension_of(item.image): data, "json": fields, "txt": kept.encode()})


def _key_of(path: str, source: Store) -> tuple[str, str]:
    """Where a path lies below the image folder, or why it does not."""
    path, root = path.strip(), source.local_path("")
    if path.startswith("file://"):
        path = unquote(urlparse(path).path)
    elif "://" in path:
        return "", "not_local"
    if path.startswith("/") and root is not None and Path(path).is_relative_to(root):
        path = Path(path).relative_to(root).as_posix()
    if not path or "\0" in path:
        return "", "no_image"
    if path.startswith("/") or ".." in path.split("/"):
        return "", "unsafe_name"
    return path.removeprefix("./"), ""


def _counted(images: Iterable[TableImage], source: Store) -> tuple[int, str]:
    """How many images a table names, and a digest of which files are there and how large: one added later counts."""
    root, digest, count = source.local_path(""), hashlib.sha256(), 0
    listed = {info.key: info.size for info in source.list()} if root is None else {}
    for image in images:
        key, fault = _key_of(image.image, source)
        size = None if fault else listed.get(key) if root is None else _size(root / key)
        digest.update(f"{size} ".encode())
        count += 1
    return count, digest.hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None


_REMEDIES = {
    "not_local": "addresses are not fetched: download with img2dataset, and import its tars",
    "no_image": "there is no path",
    "unsafe_name": "it lies outside of the image folder: name another one with --images",
}


def _valid(value: object) -> object:
    """A text without what is no UTF-8: a table's stray bytes become replacement letters, as web texts have them."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
