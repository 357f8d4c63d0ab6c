"""A machine's place among others, from every source it can be told by."""

import socket
from pathlib import Path

import pytest

from components.common.errors import ConfigError
from components.training.config import LaunchConfig
from components.training.nodes import placement, read_hostfile


def test_one_machine_needs_nothing() -> None:
    assert placement(LaunchConfig(processes=2), {}).arguments() == ["--nproc-per-node", "2", "--standalone"]


def test_kubernetes_environments() -> None:
    config = LaunchConfig(processes=8, nodes=4)
    plain = placement(config, {"MASTER_ADDR": "trainer-0", "MASTER_PORT": "1234", "NODE_RANK": "3"})
    assert (plain.node_rank, plain.host, plain.port) == (3, "trainer-0", 1234)
    torchruns = placement(config, {"PET_MASTER_ADDR": "trainer-0", "PET_NODE_RANK": "0"})
    assert (torchruns.node_rank, torchruns.port) == (0, 29500)
    assert placement(config, {"MASTER_ADDR": "t", "JOB_COMPLETION_INDEX": "2"}).node_rank == 2
    assert plain.arguments() == [
        "--nproc-per-node", "8", "--nnodes", "4", "--node-rank", "3",
        "--master-addr", "trainer-0", "--master-port", "1234", "--rdzv-conf", "timeout=300",
    ]  # fmt: skip


def test_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text(f"# two machines\nelsewhere slots=8\n\n{socket.gethostname()} slots=8  # this one\n")
    found = placement(LaunchConfig(hostfile=str(path)), {})
    assert (found.nodes, found.node_rank, found.host, found.processes) == (2, 1, "elsewhere", 8)


@pytest.mark.parametrize("text", ["", "a slots=8\na slots=8\n", "a\n", "a slots=x\n", "a slots=4\nb slots=8\n"])
def test_a_bad_hostfile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(ConfigError, match="hostfile"):
        read_hostfile(tmp_path / "hostfile")


def test_the_machine_that_launches_needs_no_more_than_a_number_of_machines() -> None:
    found = placement(LaunchConfig(processes=1, nodes=2), {})
    assert (found.nodes, found.node_rank, found.host, found.port) == (2, 0, "", 0)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    config = LaunchConfig(processes=1, nodes=2)
    with pytest.raises(ConfigError, match="not in 0 … 1"):
        placement(config, {"MASTER_ADDR": "t", "NODE_RANK": "2"})
    (tmp_path / "hostfile").write_text("elsewhere slots=8\nanother slots=8\n")
    with pytest.raises(ConfigError, match="NODE_RANK"):
        placement(LaunchConfig(hostfile=str(tmp_path / "hostfile")), {})
    with pytest.raises(ConfigError, match="cannot be read"):
        placement(LaunchConfig(hostfile="/nonexistent"), {})
