"""A sealed dataset as a webdataset pipeline, for whoever trains with plain PyTorch. The only importer of webdataset.

What is read is what the manifest names: no bucket is listed, and no shell is asked (webdataset itself reads S3 by
`pipe:`). Shards are streamed from their store, one after the other, and only what was kept is given: see kept.py.

Reading is shared out by shards: first among the processes of a distributed training, then among the workers of a
DataLoader. All of them together see every sample once a pass; where there are fewer shards than readers, some see none.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from components.common.seeding import key_seed
from components.common.storage import open_store
from components.data.candidates import Candidate
from components.data.kept import KeptSample, kept_samples
from components.data.manifest import ShardEntry, load_manifest

if TYPE_CHECKING:
    from webdataset import FluidWrapper

    Samples: TypeAlias = FluidWrapper

Sample = dict[str, Any]


def open_dataset(uri: str, *, shuffle: int = 0, seed: int = 0) -> "Samples":
    """The kept samples of a dataset.

    Each is a dict: `__key__`, `__url__` (the tar), and as bytes the image under its extension (`jpg`, `png` …), `txt`
    (the first kept caption, UTF-8) and `json` (an object; under `captions` all kept ones in order, each with `text`,
    `source` and scores). Other members are left out: webdataset's `decode` unpickles some, and strangers wrote them.

    Args:
        uri: the dataset's root, in a folder or S3.
        shuffle: samples held in memory to be shuffled, the shards of each reader being shuffled too; 0: in the order of
            the dataset. Every pass has an order of its own.
        seed: of the order. With workers, it is the same again if torch's seed (`torch.manual_seed`) is.

    Returns:
        A pipeline with webdataset's methods (`decode`, `to_tuple`, `map`, `batched` …), for iterating or a DataLoader.

    Raises:
        DataError: there is no dataset; while reading, also that a file is missing or is not what the manifest says.
    """
    import webdataset

    manifest = load_manifest(uri)
    root = open_store(uri).uri
    shards = [_Shard(root, entry) for entry in manifest.shards]
    order = _Order(shuffle, seed)
    pipeline = webdataset.DataPipeline(
        _Shards(shards), webdataset.split_by_node, webdataset.split_by_worker, order.of_shards, _read, order.of_samples
    )
    return webdataset.FluidWrapper(pipeline)


@dataclass(frozen=True)
class _Shard:
    """A shard to read: the dataset's root and what the manifest says."""

    root: str
    entry: ShardEntry


@dataclass(frozen=True)
class _Shards:
    """The pipeline's source."""

    shards: list[_Shard]

    def __call__(self) -> Iterator[_Shard]:
        return iter(self.shards)


class _Order:
    """The order of one reader's shards and samples, another in every pass."""

    def __init__(self, buffer: int, seed: int) -> None:
        self.buffer, self.seed, self.passes = buffer, seed, 0

    def of_shards(self, shards: Iterable[_Shard]) -> Iterator[_Shard]:
        """All shards of this reader, shuffled as whole ones."""
        found = list(shards)
        self.passes += 1
        if self.buffer:
            self._random("shards").shuffle(found)
        yield from found

    def of_samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Samples drawn from as many as the buffer holds."""
        import webdataset

        if not self.buffer:
            return iter(samples)
        drawn: Iterator[Sample] = webdataset.shuffle(self.buffer, rng=self._random("samples"))(iter(samples))
        return drawn

    def _random(self, purpose: str) -> random.Random:
        """Numbers of this pass. A worker of a DataLoader is born anew for each, with another seed of torch's."""
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        return random.Random(key_seed(purpose, self.seed, self.passes, 0 if worker is None else worker.seed))


def _read(shards: Iterable[_Shard]) -> Iterator[Sample]:
    """The kept samples of shards, one shard after the other."""
    for shard in shards:
        yield from map(_sample, kept_samples(shard.root, shard.entry))


def _sample(one: KeptSample) -> Sample:
    """A sample as webdataset has it."""
    fields = one.fields if one.lists_captions else _json_of(one.fields, one.captions)
    texts = {"txt": one.captions[0].text.encode(), "json": fields}
    return {"__key__": one.key, "__url__": one.tar, one.kind: one.image, **texts}


def _json_of(data: bytes, captions: list[Candidate]) -> bytes:
    """A web sample's own fields with its kept captions, as a tar of CapFilt's has them."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):  # its text came from the txt, then
        fields = {}
    listed = [
        {
            "text": one.text,
            "source": one.source,
            "itm_probability": one.itm_probability,
            "itc_similarity": one.itc_similarity,
            **({"scores": {name: reading.value for name, reading in one.others.items()}} if one.others else {}),
        }
        for one in captions
    ]
    own: Mapping[str, Any] = fields if isinstance(fields, dict) else {}
    return json.dumps({**own, "captions": listed}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
