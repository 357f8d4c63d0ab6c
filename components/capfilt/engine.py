"""Who does the work: this process, several on this machine, or a Ray cluster. The only importer of ray.

Every engine takes shards, has them committed and reports each; none of them changes a byte of what comes out. A shard
is the unit of everything: of work, of retrying, of finishing.
"""

import contextlib
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from components.capfilt.local import OnImages, process_shards
from components.capfilt.plan import Plan
from components.capfilt.reading import ShardSource
from components.capfilt.shard import Finished
from components.capfilt.worker import SHARDS_AT_ONCE, Assignment, ShardWorker, start_in_pool, work_in_pool
from components.common.errors import CapfiltError, ConfigError
from components.common.storage import Store

logger = logging.getLogger(__name__)

OnShard = Callable[[Finished], None]
_GOODBYE_SECONDS = 3.0


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
    if plan.config.engine == "ray":
        _on_ray(plan, todo, store, on_images, on_shard)
        return
    workers = min(plan.config.workers or max(1, torch.cuda.device_count()), len(todo))
    if workers > 1:
        _in_processes(plan, todo, store, folder, workers, on_images, on_shard)
    else:
        _alone(plan, todo, store, folder, on_images, on_shard)


def _alone(
    plan: Plan, todo: Sequence[ShardSource], store: Store, folder: Path, on_images: OnImages, on_shard: OnShard
) -> None:
    """This process does it all."""
    models = Assignment(plan, store.uri, folder, plan.config.threads).models(0, folder)
    with contextlib.closing(process_shards(todo, models, store, folder, on_images=on_images)) as finished:
        for shard in finished:
            on_shard(shard)


def _in_processes(
    plan: Plan,
    todo: Sequence[ShardSource],
    store: Store,
    folder: Path,
    workers: int,
    on_images: OnImages,
    on_shard: OnShard,
) -> None:
    """Worker processes on this machine; if one dies, all are started again and go on with what is left."""
    cores = len(os.sched_getaffinity(0))
    assignment = Assignment(plan, store.uri, folder, plan.config.threads or max(1, cores // workers))
    left = {source.name: source for source in todo}
    for attempt in range(plan.config.retries + 1):
        try:
            with contextlib.closing(_pooled(assignment, list(left.values()), workers)) as finished:
                for shard in finished:
                    del left[shard.record.name]
                    on_images(shard.record.counts.samples)
                    on_shard(shard)
            return
        except BrokenProcessPool:
            logger.warning("a worker process died; starting again with %d shards left (%d)", len(left), attempt + 1)
    raise CapfiltError(
        f"worker processes died {plan.config.retries + 1} times, {len(left)} shards are left. Most likely memory ran "
        "out: set fewer workers or a smaller batch_size and run again; finished shards are kept"
    )


def _pooled(assignment: Assignment, todo: Sequence[ShardSource], workers: int) -> Generator[Finished, None, None]:
    """Shards in the order in which they are finished."""
    context = multiprocessing.get_context("spawn")
    slots: Any = context.SimpleQueue()
    for slot in range(workers):
        slots.put(slot)
    pool = ProcessPoolExecutor(workers, context, start_in_pool, (assignment, slots))
    try:
        for future in as_completed([pool.submit(work_in_pool, source) for source in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(plan: Plan, todo: Sequence[ShardSource], store: Store, on_images: OnImages, on_shard: OnShard) -> None:
    """Actors in a Ray cluster (RAY_ADDRESS, or one started here). Shards' names go to them, pixels never travel."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine ray needs Ray: pip install 'capfilt[ray]', or set engine: local") from error

    started = not ray.is_initialized()
    if started:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, logging_level=logging.WARNING)
    actors = []
    try:
        actors = _ray_actors(ray, plan, store, len(todo))
        for shard in _ray_shards(ray, actors, deque(todo), plan.config.retries):
            on_images(shard.record.counts.samples)
            on_shard(shard)
    finally:
        # A killed actor leaves its folder behind, fetched models and all; one that is dead or busy does not answer.
        if goodbyes := [actor.close.remote() for actor in actors]:
            ray.wait(goodbyes, num_returns=len(goodbyes), timeout=_GOODBYE_SECONDS)
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _ray_actors(ray: Any, plan: Plan, store: Store, shards: int) -> list[Any]:
    """One actor per GPU of the cluster, or one per CPU slot; Ray restarts those that die."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    threads = plan.config.threads or (1 if plan.config.workers == 0 else max(1, cpus // plan.config.workers))
    workers = min(plan.config.workers or gpus or max(1, cpus // threads), shards)
    options = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_gpus": 0, "num_cpus": min(threads, cpus)}
    actor = ray.remote(ShardWorker).options(max_restarts=-1, max_concurrency=SHARDS_AT_ONCE, **options)
    # Ray shows an actor its own GPU alone, so every slot is 0.
    assignment = Assignment(plan, store.uri, None, threads)
    logger.info("Ray: %d actors on %d GPUs and %d CPUs", workers, gpus, cpus)
    return [actor.remote(assignment, 0) for _ in range(workers)]


def _ray_shards(ray: Any, actors: Sequence[Any], todo: deque[ShardSource], retries: int) -> Iterator[Finished]:
    """Keep every actor busy; a shard whose actor died goes back to the queue."""
    running: dict[Any, tuple[Any, ShardSource]] = {}
    tries: dict[str, int] = {}
    idle = deque(actor for _ in range(SHARDS_AT_ONCE) for actor in actors)
    while todo or running:
        while todo and idle:
            actor, source = idle.popleft(), todo.popleft()
            running[actor.work.remote(source)] = (actor, source)
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        actor, source = running.pop(done)
        idle.append(actor)
        try:
            yield ray.get(done)
        except ray.exceptions.RayActorError as error:
            tries[source.name] = tries.get(source.name, 0) + 1
            if tries[source.name] > retries:
                raise CapfiltError(
                    f"the worker of shard {source.name} died {tries[source.name]} times ({error}); most likely memory "
                    "ran out: set a smaller batch_size and run again, finished shards are kept"
                ) from error
            logger.warning("the worker of shard %s died; the shard is tried again", source.name)
            todo.append(source)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CapfiltError):
                raise error.cause from error
            raise
