"""What this machine has and what is wrong with it, each with its fix."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from capfilt.cli.console import Output
from components.common.cache import cache_folder, check_cache_folder
from components.common.diskspace import free_space
from components.common.errors import CapfiltError
from components.common.programs import command_line
from components.common.storage import open_store
from components.common.tracking import public_uri
from components.config import BootstrapConfig
from flows.layout import scratch_folder
from flows.preflight import (
    LEAST_FREE_BYTES,
    MLFLOW_REMEDY,
    mlflow_fault,
    ray_fault,
)
from flows.server import PREFECT_REMEDY, why_no_answer

Health = Literal["ok", "note", "wrong"]
_DISK_FIX = "free space, or choose another place with --set store=…"
_SIGNS: dict[Health, str] = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Health
    found: str
    fix: str = ""


def examine(config: BootstrapConfig, out: Output) -> bool:
    """Look at everything, print it, and say whether nothing is wrong."""
    findings = [finding for check in _CHECKS for finding in check(config)]
    lines = [f"{_SIGNS[one.verdict]}  {one.what}: {one.found}" + _fix(one) for one in findings]
    wrong = sum(one.verdict == "wrong" for one in findings)
    lines.append(_next(wrong))
    out.result([asdict(one) for one in findings], "\n".join(lines))
    return not wrong


def _next(wrong: int) -> str:
    if wrong:
        return f"next: mend what is WRONG ({wrong}), then the same command again"
    return f"next: {command_line('run', 'configs/sample.yaml')}"


def _fix(finding: Finding) -> str:
    return f"\n       → {finding.fix}" if finding.fix else ""


def _python(config: BootstrapConfig) -> Iterator[Finding]:
    good = sys.version_info >= (3, 10)
    fix = "" if good else "install Python 3.10 or newer"
    yield Finding("Python", "ok" if good else "wrong", platform.python_version(), fix)


def _machine(config: BootstrapConfig) -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().available
    tight = memory < 3 << 30
    yield Finding("CPU", "ok", f"{cores} cores")
    fix = "the sample needs up to 4 GiB; end other programs" if tight else ""
    yield Finding("memory", "note" if tight else "ok", f"{memory / 2**30:.1f} GiB available", fix)
    folder = scratch_folder(config)
    existing, free = free_space(folder)
    full = free < LEAST_FREE_BYTES
    yield Finding("disk", "wrong" if full else "ok", f"{free / 2**30:.1f} GiB free at {existing}", _DISK_FIX * full)


def _gpu(config: BootstrapConfig) -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        nvidia = shutil.which("nvidia-smi")
        fix = "torch sees no GPU though nvidia-smi is here: install torch's CUDA build" if nvidia else ""
        yield Finding("GPU", "note", f"none; torch {torch.__version__} works on the CPU", fix)
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding("GPU", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")


def _arithmetic(config: BootstrapConfig) -> Iterator[Finding]:
    from components.inference.probe import probe

    found = probe()
    yield Finding("arithmetic", "ok", f"precision `auto` is {found.faster} here ({found})")


def _packages(config: BootstrapConfig) -> Iterator[Finding]:
    for name, needed in (("torch", True), ("deepspeed", True), ("prefect", True), ("mlflow", True), ("ray", False)):
        if importlib.util.find_spec(name) is not None:
            yield Finding(name, "ok", importlib.metadata.version(name))
        elif needed:
            yield Finding(name, "wrong", "not installed", "make setup, or pip install -c constraints.txt -e .")
        else:
            yield Finding(name, "note", "not installed (only for engine: ray)", "pip install -e '.[ray]'")


def _store(config: BootstrapConfig) -> Iterator[Finding]:
    try:
        able = open_store(config.store).check()
    except CapfiltError as error:
        yield Finding("store", "wrong", str(error))
    else:
        yield Finding("store", "ok", f"{config.store} takes and gives")
        if able.note:
            yield Finding("store", "note", able.note)


def _cache(config: BootstrapConfig) -> Iterator[Finding]:
    try:
        check_cache_folder()
    except CapfiltError as error:
        yield Finding("cache", "wrong", str(error))
    else:
        yield Finding("cache", "ok", str(cache_folder()))


def _servers(config: BootstrapConfig) -> Iterator[Finding]:
    tracking = config.tracking_uri(scratch_folder(config))
    yield _server("MLflow", public_uri(tracking or "no tracking"), mlflow_fault(tracking), MLFLOW_REMEDY)
    prefect = os.environ.get("PREFECT_API_URL")
    fault = why_no_answer(f"{prefect.rstrip('/')}/health") if prefect else None
    yield _server("Prefect", prefect or "a local server for each run", fault, PREFECT_REMEDY)
    if "RAY_ADDRESS" in os.environ:
        fault = ray_fault()
        yield Finding("Ray cluster", "wrong" if fault else "ok", fault or os.environ["RAY_ADDRESS"])


def _server(name: str, place: str, fault: str | None, fix: str) -> Finding:
    if fault is None:
        return Finding(name, "ok", place)
    return Finding(name, "wrong", f"{place} does not answer: {fault}", fix)


_CHECKS: tuple[Callable[[BootstrapConfig], Iterator[Finding]], ...] = (
    _python,
    _machine,
    _gpu,
    _arithmetic,
    _packages,
    _store,
    _cache,
    _servers,
)
