"""Bootstraps that ended, as the store keeps them: what table and pages are made from, then and years later."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from components.common.contracts import BootstrapResult
from components.common.errors import StorageError
from components.common.storage import Store, join_uri
from components.pages.collecting import report_data
from components.pages.report import write_report
from components.pages.report_data import ReportData

logger = logging.getLogger(__name__)

FOLDER = "results"


def store_result(store: Store, result: BootstrapResult) -> None:
    """Keep a bootstrap's end, in place of an earlier one of the same bootstrap."""
    key = f"{FOLDER}/{result.name}-{result.bootstrap[:32]}.json"
    store.write(key, json.dumps(result.model_dump(mode="json"), ensure_ascii=False, indent=1).encode())


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
            yield BootstrapResult.model_validate_json(store.read(item.key))
        except ValidationError as error:
            logger.warning("%s cannot be read: %s", join_uri(store.uri, item.key), error.errors()[0]["msg"])


def report_key(result: BootstrapResult) -> str:
    """Where in the store the page of a bootstrap lies."""
    return f"reports/{result.label}/report.html"


def write_page(result: BootstrapResult, path: Path) -> ReportData:
    """Write the page of a bootstrap; datasets, curves and images are read where its result says that they lie.

    Returns:
        what the page shows.
    """
    data = report_data(result, path.parent)
    write_report(data, path)
    return data
