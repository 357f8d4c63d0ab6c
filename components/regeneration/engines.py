"""Who does the work: this process, several on this machine, or a Ray cluster. The only importer of ray.

Every engine takes shards, has them committed and reports each; none of them changes a byte of what comes out. A shard
is the unit of everything: of work, of retrying, of finishing.
"""

import contextlib
import logging
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from components.common.errors import CapfiltError, ConfigError
from components.common.precision import Precision
from components.common.storage import Store
from components.inference.probe import fast_precision
from components.regeneration.config import CapfiltConfig
from components.regeneration.local import Done, OnImages, process_shards
from components.regeneration.plan import Plan
from components.regeneration.reading import ShardSource
from components.regeneration.shard import Finished
from components.regeneration.worker import SHARDS_AT_ONCE, Assignment, ShardWorker, start_in_pool, work_in_pool

logger = logging.getLogger(__name__)

OnShard = Callable[[Finished], None]
Resources = dict[str, int]
_GOODBYE_SECONDS = 3.0
_LOOK_SECONDS = 60.0
_ROOM_SECONDS = 1800.0  # until the first worker has its models: other work may leave, an autoscaler may add nodes
_WITHOUT_BF16 = ("K80", "P4", "P100", "T4", "V100")  # GPUs before Ampere, as Ray names them


def run_engine(
    plan: Plan, todo: Sequence[ShardSource], store: Store, folder: Path, *, on_images: OnImages, on_shard: OnShard
) -> None:
    """Work on shards until all are committed.

    Args:
        plan: models and settings.
        todo: input shards that are not committed yet.
        store: rooted at the output dataset.
        folder: local folder for models and temporary files.
        on_images: called with what was done since the last call.
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


def engine_precision(config: CapfiltConfig) -> Precision:
    """What `auto` is where the work will be done: on this machine, or on a Ray cluster elsewhere (RAY_ADDRESS)."""
    if config.engine != "ray" or not os.environ.get("RAY_ADDRESS"):
        return fast_precision()
    with _ray_session() as ray:
        resources = ray.cluster_resources()
        if not resources.get("GPU"):
            return _probed_there(ray)
    old = any(f"accelerator_type:{name}" in resources for name in _WITHOUT_BF16)
    return "fp32" if old else "bf16"


def _probed_there(ray: Any) -> Precision:
    """What is fast on a node of a cluster without GPUs: tried there, where the actors will be."""
    try:
        found: Precision = ray.get(ray.remote(fast_precision).remote(), timeout=_ROOM_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise CapfiltError(
            f"no node of the Ray cluster had a free CPU within {_ROOM_SECONDS:.0f} s to try which precision is the "
            "faster one there; end other work on the cluster, add nodes, or set capfilt.precision to fp32 or bf16"
        ) from error
    return found


def _alone(
    plan: Plan, todo: Sequence[ShardSource], store: Store, folder: Path, on_images: OnImages, on_shard: OnShard
) -> None:
    """This process does it all."""
    models = Assignment(plan, store.uri, folder, plan.config.threads).models(0, folder)
    work = process_shards(todo, models, store, folder, plan=plan.fingerprint, on_images=on_images)
    with contextlib.closing(work) as finished:
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
                    on_images(Done.of(shard.record.counts))
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
    actors: list[Any] = []
    with _ray_session() as ray:
        try:
            workers, hire, needs = _ray_hiring(ray, plan, store, len(todo))

            def start() -> Any:
                actors.append(hire())
                return actors[-1]

            staff = [start() for _ in range(workers)]
            for shard in _ray_shards(ray, staff, start, deque(todo), plan.config.retries, needs):
                on_images(Done.of(shard.record.counts))
                on_shard(shard)
        finally:
            # A killed actor leaves its folder behind, fetched models and all; one that is dead or busy does not answer.
            if goodbyes := [actor.close.remote() for actor in actors]:
                ray.wait(goodbyes, num_returns=len(goodbyes), timeout=_GOODBYE_SECONDS)
            for actor in actors:
                ray.kill(actor)


@contextlib.contextmanager
def _ray_session() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS or to one started here, for as long as it is needed."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine ray needs Ray: pip install 'capfilt[ray]', or set engine: local") from error

    started = not ray.is_initialized()
    if started:
        # Said in full: without an address Ray joins whatever cluster left its address file on this machine.
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address=address, include_dashboard=False, logging_level=logging.WARNING)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def _ray_hiring(ray: Any, plan: Plan, store: Store, shards: int) -> tuple[int, Callable[[], Any], Resources]:
    """How many actors there shall be, one per GPU or per CPU slot of the cluster; how one is started; what it takes."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    gpus, cpus = (int(sum(node["Resources"].get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    widest = int(max((node["Resources"].get("CPU", 0) for node in nodes), default=0))
    threads = plan.config.threads or (1 if plan.config.workers == 0 else max(1, cpus // plan.config.workers))
    workers = min(plan.config.workers or gpus or max(1, cpus // threads), shards)
    # Threads that were asked for are kept to; those that were only reckoned need not be more than a node has.
    wanted = threads if plan.config.threads else max(1, min(threads, widest))
    needs: Resources = {"GPU": 1, "CPU": 1} if gpus else {"GPU": 0, "CPU": wanted}
    _refuse_what_no_node_has(needs, nodes)
    actor = ray.remote(ShardWorker).options(
        max_concurrency=SHARDS_AT_ONCE, num_gpus=needs["GPU"], num_cpus=needs["CPU"]
    )
    # Ray shows an actor its own GPU alone, so every slot is 0.
    assignment = Assignment(plan, store.uri, None, threads)
    logger.info("Ray: %d actors on %d GPUs and %d CPUs", workers, gpus, cpus)
    return workers, lambda: actor.remote(assignment, 0), needs


def _refuse_what_no_node_has(needs: Resources, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Ray would wait for such a node for ever, and say nothing."""
    have: list[Mapping[str, float]] = [node["Resources"] for node in nodes]
    if any(all(one.get(kind, 0) >= count for kind, count in needs.items()) for one in have):
        return
    listed = (
        "; ".join(f"{node['NodeManagerHostname']}: {_told(node['Resources'])}" for node in nodes) or "none is alive"
    )
    raise ConfigError(
        f"a worker needs {_told(needs)}, and no node of the Ray cluster has that ({listed}); "
        "set capfilt.threads to what a node has, or add a larger node"
    )


def _told(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))


def _ray_shards(
    ray: Any,
    actors: Sequence[Any],
    start: Callable[[], Any],
    todo: deque[ShardSource],
    retries: int,
    needs: Resources,
) -> Iterator[Finished]:
    """Keep every actor busy; the shards of one that died go back to the queue, and another takes its place.

    An actor is given shards once it has its models and answers: one that finds no room in the cluster holds up nothing.
    Ray's own restarts are not used: while they last, every shard that is sent fails at once.
    """
    running: dict[Any, tuple[Any, ShardSource | None]] = {one.process.remote(): (one, None) for one in actors}
    idle: deque[Any] = deque()
    gone: set[Any] = set()
    deaths: Counter[str] = Counter()
    left = len(todo)
    while left:
        while todo and idle:
            if (actor := idle.popleft()) not in gone:
                source = todo.popleft()
                running[actor.work.remote(source)] = (actor, source)
        busy = any(given is not None for _, given in running.values())
        done = _first_done(ray, list(running), needs, seconds=None if busy else _ROOM_SECONDS)
        actor, given = running.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayActorError as error:
            _count_death(deaths, "" if given is None else given.name, retries, error)
            if given is not None:
                todo.append(given)
            if actor not in gone:
                gone.add(actor)
                ray.kill(actor)  # it may only be out of reach, and would keep its GPU
                successor = start()
                running[successor.process.remote()] = (successor, None)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CapfiltError):
                raise error.cause from error
            raise
        else:
            idle.extend([actor] * (SHARDS_AT_ONCE if given is None else 1))
            deaths.pop("", None)
            if given is not None:
                left -= 1
                yield result


def _first_done(ray: Any, calls: Sequence[Any], needs: Resources, *, seconds: float | None) -> Any:
    """The first call that is answered; where none works yet, no longer than `seconds` is waited for room.

    Raises:
        CapfiltError: the cluster has no room; what a worker needs and what is free.
    """
    start = time.monotonic()
    while True:
        done, _ = ray.wait(calls, num_returns=1, timeout=_LOOK_SECONDS)
        if done:
            return done[0]
        if seconds is None:
            continue
        waited = time.monotonic() - start
        missing = f"a worker needs {_told(needs)}, free in the Ray cluster are {_told(ray.available_resources())}"
        if waited >= seconds:
            raise CapfiltError(
                f"no worker has started within {waited:.0f} s: {missing}; end other work on the cluster, add nodes, or "
                "set capfilt.threads lower, and run again"
            )
        logger.warning("no worker has its models yet after %.0f s: %s", waited, missing)


def _count_death(deaths: "Counter[str]", shard: str, retries: int, error: Exception) -> None:
    """Count the death of a worker, with a shard or (no name) while it loaded the models; too many end the run."""
    deaths[shard] += 1
    doing = f"the worker of shard {shard}" if shard else "workers that load the models"
    if deaths[shard] > retries:
        raise CapfiltError(
            f"{doing} died {deaths[shard]} times ({error}); most likely memory ran out: set a smaller batch_size or "
            "fewer workers and run again, finished shards are kept"
        ) from error
    logger.warning("%s died; another one takes its place", doing)
