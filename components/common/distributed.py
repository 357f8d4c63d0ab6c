"""Process group helpers that also work without a process group: one process is rank 0 of 1."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_cpu_groups: dict[str, Any] = {}


def is_distributed() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 without a group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are, 1 without a group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this process writes and logs: rank 0 alone does."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def all_gather(tensor: Tensor) -> Tensor:
    """Join equally shaped `[N, ...]` of all processes in rank order: `[W * N, ...]`. Without gradient."""
    if world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def broadcast_object(value: Any, source: int = 0) -> Any:
    """Everybody gets what `source` holds: small picklable values among our own processes."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def any_process(flag: bool) -> bool:
    """Whether the flag is up in at least one process; everybody gets the same answer. Never waits for a GPU."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_cpu_group())
    return bool(votes.item())


def _cpu_group() -> Any:
    """A group over CPU tensors: the default one under gloo, else a gloo group made once, at the first call of all."""
    default = dist.group.WORLD
    if dist.get_backend() == "gloo":
        return default
    if _cpu_groups.get("of") is not default:
        _cpu_groups.update(of=default, group=dist.new_group(backend="gloo"))
    return _cpu_groups["group"]


def highest_of_processes(value: Tensor) -> Tensor:
    """The highest of equally shaped tensors of all processes, on their device."""
    if world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def gather_objects(value: Any) -> list[Any]:
    """What each process holds, in rank order: small picklable values among our own processes."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def mean_over_processes(values: Tensor) -> Tensor:
    """Average of equally shaped tensors over all processes, for logs."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()
