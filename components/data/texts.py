"""The words of a dataset, without its images: candidate captions and kept texts, shard by shard."""

from collections.abc import Iterable, Iterator

from components.common.contracts import DatasetRef
from components.data.candidates import Candidate, stored_candidates
from components.data.manifest import load_manifest


def dataset_candidates(uri: str) -> Iterator[Candidate]:
    """Every caption that was considered for a sealed dataset, kept or not, in shard order.

    Raises:
        DataError: no dataset there, or a candidate table that is not what it claims.
    """
    for shard in load_manifest(uri).shards:
        yield from stored_candidates(uri, shard.parquet).rows()


def kept_texts(datasets: Iterable[DatasetRef]) -> Iterator[str]:
    """All kept captions of these datasets, as a tokenizer is trained on them."""
    for dataset in datasets:
        for candidate in dataset_candidates(dataset.uri):
            if candidate.kept:
                yield candidate.text
