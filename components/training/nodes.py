"""Where a training runs when it runs on several machines: from the config, a hostfile, or Kubernetes' environment.

Machine 0 launches as always, with `launch.nodes` (or `launch.hostfile`) set. Every other machine runs one command for
all trainings, which needs no more than the store and its keys:

    capfilt join s3://bucket/root

torchrun's own names (`PET_*`) and those of an indexed Job are understood.
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import ConfigError
from components.training.config import LaunchConfig

_DEFAULT_PORT = 29500
_MEET_SECONDS = 300  # that machines which are all ready may take to start torchrun


@dataclass(frozen=True)
class Placement:
    """This machine's place among the machines of a training."""

    nodes: int
    node_rank: int
    host: str
    port: int
    processes: int

    def arguments(self) -> list[str]:
        """torchrun's options."""
        local = ["--nproc-per-node", str(self.processes)]
        if self.nodes == 1:
            return [*local, "--standalone"]
        place = ["--nnodes", str(self.nodes), "--node-rank", str(self.node_rank)]
        found = ["--master-addr", self.host, "--master-port", str(self.port)]
        return [*local, *place, *found, "--rdzv-conf", f"timeout={_MEET_SECONDS}"]


@dataclass(frozen=True)
class Membership:
    """A machine's part in a training on several machines."""

    place: Placement
    parts: str
    """URI of the folder in the store for a checkpoint's files on their way between machines"""
    check: Callable[[], None]
    """called now and then while the group works; raises what ends it"""


def placement(config: LaunchConfig, environment: Mapping[str, str] = os.environ) -> Placement:
    """Work out this machine's place; the host is empty and the port 0 where nothing tells them.

    Raises:
        ConfigError: what is told contradicts itself.
    """
    hosts = read_hostfile(Path(config.hostfile)) if config.hostfile else {}
    nodes = len(hosts) or config.nodes
    processes = config.processes or _slots(hosts) or devices()
    if nodes == 1:
        return Placement(1, 0, "localhost", 0, processes)
    first = next(iter(hosts), "")
    master = config.master or _first(environment, "MASTER_ADDR", "PET_MASTER_ADDR") or first
    host, _, port = master.partition(":")
    port = port or _first(environment, "MASTER_PORT", "PET_MASTER_PORT") or (str(_DEFAULT_PORT) if host else "0")
    rank = config.node_rank if config.node_rank is not None else _rank(hosts, environment)
    if not 0 <= rank < nodes:
        raise ConfigError(f"machine number {rank} is not in 0 … {nodes - 1}; mend launch.node_rank or NODE_RANK")
    return Placement(nodes, rank, host, int(port), processes)


def read_hostfile(path: Path) -> dict[str, int]:
    """Hosts of a DeepSpeed hostfile, in order, with their slots.

    Raises:
        ConfigError: not a hostfile.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"launch.hostfile {path} cannot be read: {error.strerror}; mend the path") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        host, slots = words[0], words[1:]
        if len(slots) != 1 or not slots[0].startswith("slots=") or not slots[0][6:].isdigit() or host in hosts:
            raise ConfigError(f"{path}, line {number}: {line.strip()!r} is not `host slots=N`, each host once")
        hosts[host] = int(slots[0][6:])
    if not hosts or len(set(hosts.values())) != 1:
        raise ConfigError(f"{path}: list at least one host, all with the same number of slots")
    return hosts


def told_rank(environment: Mapping[str, str]) -> int | None:
    """The machine's number as the environment tells it."""
    told = _first(environment, "NODE_RANK", "PET_NODE_RANK", "JOB_COMPLETION_INDEX")
    return int(told) if told else None


def _rank(hosts: Mapping[str, int], environment: Mapping[str, str]) -> int:
    told = told_rank(environment)
    if told is not None:
        return told
    name = socket.gethostname()
    for number, host in enumerate(hosts):
        if host in (name, name.split(".")[0]):
            return number
    if hosts:
        raise ConfigError(f"{name} is not in the hostfile: set NODE_RANK (0 on the machine that launches), or mend it")
    return 0  # the machine that launches


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _slots(hosts: Mapping[str, int]) -> int:
    return next(iter(hosts.values()), 0)


def devices() -> int:
    """One process per GPU, or one in all."""
    import torch

    return max(1, torch.cuda.device_count())
