"""Who does the work: this process, several on this machine, or a Ray cluster. The only importer of ray.

Every engine takes shards, commits them, and reports each; none of them changes a byte of what comes out.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from components.capfilt.local import OnImages, process_shards
from components.capfilt.models import load_models
from components.capfilt.plan import Plan
from components.capfilt.reading import ShardSource
from components.capfilt.shard import Finished
from components.common.storage import Store
from components.model.weights import fetch_model

OnShard = Callable[[Finished], None]


def run_engine(
    plan: Plan, todo: Sequence[ShardSource], store: Store, folder: Path, *, on_images: OnImages, on_shard: OnShard
) -> None:
    """Work on shards until all are committed.

    Args:
        plan: models and settings.
        todo: input shards that are not committed yet.
        store: rooted at the output dataset.
        folder: local folder for models and temporary files.
        on_images: called with numbers of samples done since the last call.
        on_shard: called once per committed shard, in this thread; may raise to stop the work.
    """
    _alone(plan, todo, store, folder, on_images, on_shard)


def _alone(
    plan: Plan, todo: Sequence[ShardSource], store: Store, folder: Path, on_images: OnImages, on_shard: OnShard
) -> None:
    """This process does it all."""
    if plan.config.threads:
        torch.set_num_threads(plan.config.threads)
    captioner = fetch_model(plan.captioner.uri, folder / "models")
    matcher = fetch_model(plan.filter.uri, folder / "models")
    models = load_models(captioner, matcher, plan.config, plan.fingerprint)
    with contextlib.closing(process_shards(todo, models, store, folder, on_images=on_images)) as finished:
        for shard in finished:
            on_shard(shard)
