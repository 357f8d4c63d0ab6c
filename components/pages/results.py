"""Bootstraps that ended, as the store keeps them: what table and pages are made from, then and years later."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.common.contracts import BootstrapResult, DatasetRef
from components.common.errors import StorageError
from components.common.locations import absolute_values, relative_values
from components.common.scratch import ScratchFolder
from components.common.storage import Store, join_uri, open_store
from components.pages.collecting import EXAMPLES, dataset_data, report_data
from components.pages.report import write_report
from components.pages.report_data import ReportData

logger = logging.getLogger(__name__)

FOLDER = "results"
PAGE = "report.html"
_SQLITE = "sqlite:///"


def store_result(store: Store, result: BootstrapResult, *, former: str | None = None) -> None:
    """Keep a bootstrap's end, in place of an earlier one of the same bootstrap, with relative URIs within the store.

    Args:
        former: what earlier releases called this bootstrap, if otherwise.
    """
    key = _key(result.name, result.bootstrap)
    document = _mapped(result.model_dump(mode="json"), partial(relative_values, result.store))
    store.write(key, json.dumps(document, ensure_ascii=False, indent=1).encode())
    if former is not None and (old := _key(result.name, former)) != key:
        store.delete(old)


def _key(name: str, bootstrap: str) -> str:
    return f"{FOLDER}/{name}-{bootstrap[:32]}.json"


def find_result(store: Store, name: str | None = None, bootstrap: str | None = None) -> BootstrapResult:
    """The bootstrap of this store that ended last.

    Args:
        name: only of those with this name.
        bootstrap: only of those whose id begins like this.

    Raises:
        StorageError: there is none; the message says which there are.
    """
    known = sorted(_results(store), key=lambda one: one.finished)
    wanted = [one for one in known if name in (None, one.name) and one.bootstrap.startswith(bootstrap or "")]
    if wanted:
        return wanted[-1]
    if known:
        raise StorageError(f"{store.uri}: no such bootstrap; there are {', '.join(one.label for one in known)}")
    raise StorageError(f"{store.uri}: no bootstrap has ended here yet; `capfilt run` leaves its result in {FOLDER}/")


def _results(store: Store) -> Iterator[BootstrapResult]:
    """All that can be read; of the others a warning."""
    for item in store.list(f"{FOLDER}/"):
        try:
            document = json.loads(store.read(item.key))
            yield BootstrapResult.model_validate(_at(store.uri, document))
        except ValidationError as error:
            logger.warning("%s cannot be read: %s", join_uri(store.uri, item.key), error.errors()[0]["msg"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read: %s", join_uri(store.uri, item.key), error)


def _at(root: str, document: dict[str, Any]) -> dict[str, Any]:
    """A stored result for the store as it lies now; earlier releases wrote absolute URIs of where it lay then."""
    document = _mapped(document, partial(relative_values, document["store"]))
    return _mapped(document, partial(absolute_values, root))


def _mapped(document: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The document with its URIs changed; the config is what was written, and so stays."""
    found: dict[str, Any] = change({name: value for name, value in document.items() if name != "config"})
    file = document["mlflow_uri"] or ""
    if file.startswith(_SQLITE):
        found["mlflow_uri"] = _SQLITE + change(file.removeprefix(_SQLITE))
    return found | {"config": document["config"]}


def report_key(result: BootstrapResult) -> str:
    """Where in the store the page of a bootstrap lies."""
    return f"reports/{result.label}/{PAGE}"


def write_page(result: BootstrapResult, path: Path, *, images: int = EXAMPLES) -> ReportData:
    """Write the page of a bootstrap; datasets, curves and images are read where its result says that they lie.

    Args:
        result: the bootstrap.
        path: the page; its folder takes shards that have to be fetched for their images.
        images: web images to show.

    Returns:
        what the page shows.
    """
    others = [one for one in _results(open_store(result.store)) if one.label != result.label]
    data = report_data(result, path.parent, others=others, images=images)
    write_report(data, path)
    return data


def store_dataset_page(
    dataset: DatasetRef,
    out: Path | None = None,
    *,
    metrics: dict[str, float] | None = None,
    truth_uri: str | None = None,
    images: int = EXAMPLES,
) -> str:
    """Write the page of a dataset that CapFilt made, without rounds.

    Args:
        dataset: what CapFilt wrote.
        out: a file; by default `report.html` beside the dataset's manifest.
        metrics: `capfilt/…` as the run reported them.
        truth_uri: truth table, where there is one.
        images: web images to show.

    Returns:
        where it lies.

    Raises:
        DataError: the dataset is no whole one, or was not made by CapFilt.
        StorageError: a place refuses.
    """
    with ScratchFolder("report") as folder:
        data = dataset_data(dataset, folder, metrics=metrics, truth_uri=truth_uri, images=images)
        write_report(data, folder / PAGE)
        return _put(folder / PAGE, out, dataset.uri, PAGE)


def store_page(result: BootstrapResult, out: Path | None = None, *, images: int = EXAMPLES) -> str:
    """Write the page of a bootstrap again.

    Args:
        result: the bootstrap.
        out: a file; by default its place in the store.
        images: web images to show.

    Returns:
        where it lies.

    Raises:
        StorageError: a place refuses.
    """
    with ScratchFolder("report") as folder:
        write_page(result, folder / PAGE, images=images)
        return _put(folder / PAGE, out, result.store, report_key(result))


def _put(page: Path, out: Path | None, root: str, key: str) -> str:
    """A page to a file of the user's, or else to its key below a root; where it then lies."""
    if out is None:
        open_store(root).upload(page, key)
        return join_uri(root, key)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(page, out)
    return str(out)
