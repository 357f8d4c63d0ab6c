"""One place that knows where bytes live: a local folder or S3. The only importer of boto3.

A URI is a path, `file:///path` or `s3://bucket/prefix`. A `Store` is rooted at a URI; keys are relative, `/`-separated.
Objects appear whole or not at all: local files by rename, S3 objects by PutObject / CompleteMultipartUpload.

S3 is reached with the standard AWS credential chain and `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`). A server that
has answered once and then falls silent is waited for: `CAPFILT_S3_PATIENCE` seconds, five minutes unless set.
"""

from components.common.storage.base import Capabilities, ObjectInfo, Store
from components.common.storage.files import folder_errors, sha256_file, sha256_hex
from components.common.storage.folder import FolderStore
from components.common.storage.s3 import S3Store
from components.common.storage.uris import expand_home, join_uri, normalise_uri, split_uri

__all__ = [
    "Capabilities",
    "FolderStore",
    "ObjectInfo",
    "S3Store",
    "Store",
    "expand_home",
    "folder_errors",
    "join_uri",
    "normalise_uri",
    "open_store",
    "sha256_file",
    "sha256_hex",
    "split_uri",
]


def open_store(uri: str) -> Store:
    """The store rooted at `uri`: a folder or an S3 prefix."""
    uri = normalise_uri(uri)
    return S3Store(uri) if uri.startswith("s3://") else FolderStore(uri)
