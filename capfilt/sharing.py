"""Versions out to others, their lists and scores in: `capfilt.export`, `capfilt.select` and `capfilt.add_scores`."""

from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.data.scores import Kind
    from components.data.versions.huggingface import Exported
    from components.data.versions.scores import Scored, Texts
    from components.data.versions.selecting import Selected

Place = str | PathLike[str]


def _silent(samples: int) -> None:
    pass


def export(
    uri: Place,
    out: Place,
    *,
    split: str = "train",
    license: str = "",  # noqa: A002 - the field's name
    licenses: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = _silent,
) -> "Exported":
    """Export what a version kept so that `datasets.load_dataset(out)`, webdataset, open_clip and mlcroissant read it.

    Args:
        uri: a sealed dataset.
        out: folder or S3 prefix: empty, or begun by the same call before, which then goes on.
        split: name of the split.
        license: the dataset's own licence, as the Hugging Face hub spells it.
        licenses: licences of what it was made from, by role (`captioner`, `filter`, `web` …), where models' own cards
            do not tell.
        progress: called with the number of samples done.

    Raises:
        ConfigError: something else lies at `out`, or a name is none.
        DataError: there is no dataset, or nothing of it was kept.
    """
    from components.common.storage import normalise_uri
    from components.data.versions.huggingface import export_huggingface

    place, target = normalise_uri(fspath(uri)), normalise_uri(fspath(out))
    return export_huggingface(place, target, split=split, license=license, licenses=licenses, progress=progress)


def select(uri: Place, listed: Place, *, out: Place, progress: Callable[[int], None] = _silent) -> "Selected":
    """A child version with the samples of a list only.

    Args:
        uri: a sealed dataset of any kind.
        listed: a `.npy` of uids as DataComp publishes them (dtype `u8,u8`), or a text file with a key or uid a line.
        out: root of the new dataset. Its last part is the dataset's name.
        progress: called with the number of samples looked at.

    Raises:
        ConfigError: `out` holds something else.
        DataError: there is no such dataset or list, or nothing of the list is there.
    """
    from components.common.storage import normalise_uri, open_store
    from components.data.versions.selecting import select_dataset

    return select_dataset(normalise_uri(fspath(uri)), fspath(listed), open_store(fspath(out)), progress=progress)


def add_scores(
    uri: Place,
    table: Place,
    scores: Mapping[str, str],
    *,
    out: Place,
    key: str = "key",
    kind: "Kind" = "logit",
    texts: "Texts" = "all",
) -> "Scored":
    """A child version with scores that another program found, for `recut`'s rules.

    Args:
        uri: a dataset that CapFilt made, or one that was cut of it.
        table: a parquet file with a row per image.
        scores: names of the scores to the columns that have them.
        out: root of the new dataset. Its last part is the dataset's name.
        key: column with the images' keys.
        kind: what the values are.
        texts: which captions of an image they are about.

    Raises:
        ConfigError: a name is none or taken, or `out` holds something else.
        DataError: there is no such dataset or column, or a value is no finite number.
    """
    from components.common.storage import normalise_uri, open_store
    from components.data.versions.scores import add_scores as work

    place, target = normalise_uri(fspath(uri)), open_store(fspath(out))
    return work(place, fspath(table), scores, target, key=key, kind=kind, texts=texts)
