"""Relative inside a store, absolute outside: for folders and for S3."""

import pytest

from components.common.locations import (
    absolute_uri,
    absolute_values,
    relative_uri,
    relative_values,
    store_root,
)

ROOTS = ["/srv/store", "s3://bucket/store", "s3://bucket"]


@pytest.mark.parametrize("store", ROOTS)
def test_inside_a_store_uris_are_relative_and_come_back(store: str) -> None:
    root = f"{store}/datasets/web/0123"
    for uri, written in [
        (f"{store}/sampleworld/w/web/00000.tar", "../../../sampleworld/w/web/00000.tar"),
        (f"{root}/shards/a.tar", "shards/a.tar"),
        (f"{store}/datasets/other/45", "../../other/45"),
    ]:
        assert relative_uri(root, uri, within=store) == written
        assert absolute_uri(root, written) == uri
        moved = root.replace("store", "moved")
        assert absolute_uri(moved, written) == uri.replace("store", "moved", 1)


@pytest.mark.parametrize("store", ROOTS)
def test_what_lies_outside_stays_absolute(store: str) -> None:
    root = f"{store}/datasets/web/0123"
    for uri in ("/srv/store-2/x.tar", "s3://other/x.tar", "/data/00000.tar", "s3://bucket-2/store/x"):
        assert relative_uri(root, uri, within=store) == uri == absolute_uri(root, uri)
    assert relative_uri(root, "../x.tar", within=store) == "../x.tar"
    assert relative_uri(root, f"{store}/web/x.tar") == f"{store}/web/x.tar", "without a store only the folder counts"


def test_the_root_of_the_store_a_dataset_belongs_to() -> None:
    assert store_root("/srv/store/datasets/web/0123") == "/srv/store"
    assert store_root("s3://bucket/datasets/web/0123") == "s3://bucket"
    assert store_root("/srv/recaptioned") == "/srv/recaptioned"


def test_values_of_a_record() -> None:
    record = {
        "uri": "/srv/store/datasets/web/1", "images": ["/srv/store/w", "/data/x"], "root": "/srv/store",
        "name": "web", "pairs": 3, "near": "/srv/storeroom", "none": None,
    }  # fmt: skip
    written = relative_values("/srv/store", record)
    assert written == {
        "uri": "./datasets/web/1", "images": ["./w", "/data/x"], "root": "./",
        "name": "web", "pairs": 3, "near": "/srv/storeroom", "none": None,
    }  # fmt: skip
    assert absolute_values("/srv/store", written) == record
    assert absolute_values("s3://b/p", written)["uri"] == "s3://b/p/datasets/web/1"
