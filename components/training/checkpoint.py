"""Checkpoints that are whole or not there: DeepSpeed's files, and beside them what DeepSpeed does not know.

    <folder>/step-00000120/
        deepspeed/…            the engine's own files; step, loader cursor and metrics travel in its client state
        teacher.safetensors    momentum encoders and queues, fp32
        rank-0000.safetensors  torch's random states of each process
        rank-0000.json         Python's and NumPy's
        complete.json          the same state, readable, and every file's size and sha256; written last

A checkpoint is written under a hidden name, flushed to disk, and renamed: a crash at any moment leaves the ones before
it as they were. `newest` takes the last one whose files are what `complete.json` says: a truncated one is passed over.
"""

import json
import logging
import math
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.common import distributed
from components.common.errors import StorageError
from components.common.storage import sha256_file
from components.training.engine import Engine
from components.training.exchange import Exchange

if TYPE_CHECKING:
    from components.model.learning import Objective

logger = logging.getLogger(__name__)

_RECORD = "complete.json"
_PREFIX = "step-"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: where it lies, and the state that was saved with it (`step`, loader cursor, …)."""

    path: Path
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training in one folder of machine 0.

    Args:
        folder: where they lie; on other machines, where their parts lie for a while.
        keep: how many of the newest stay.
        keep_best: whether the one with the lowest `loss` in its state stays besides.
        exchange: brings the files of several machines together; None: all processes can reach the folder.
    """

    folder: Path
    keep: int = 2
    keep_best: bool = False
    exchange: Exchange | None = None

    def save(self, engine: Engine, objective: "Objective", state: dict[str, Any]) -> Path:
        """Write one; every process calls this. `state` holds `step` and is the same in all processes.

        Raises:
            StorageError: the disk refuses; the checkpoints before it are still good.
        """
        step = int(state["step"])
        partial, final = self.folder / f"{_PARTIAL}{step:08d}", self.folder / f"{_PREFIX}{step:08d}"
        try:
            if self._makes_folders():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            distributed.barrier()
            engine.save(partial, state)
            _save_random_state(partial, distributed.rank())
            if distributed.is_main():
                _save_tensors(partial / "teacher.safetensors", objective.teacher_state())
            distributed.barrier()
            if self.exchange is not None:
                self.exchange.collect(partial)
            if distributed.is_main():
                _seal(partial, final, state)
                self._prune()
            elif self._makes_folders():
                shutil.rmtree(partial, ignore_errors=True)  # it lies on machine 0 now
        except OSError as error:
            raise StorageError(
                f"checkpoint {final} could not be written: {error}; free some disk space or mend the folder, "
                "then start again: training goes on from the checkpoint before it"
            ) from error
        distributed.barrier()
        return final

    def newest(self) -> Saved | None:
        """The newest whole checkpoint; damaged ones are named in the log and passed over. All processes agree."""
        found = None
        if distributed.is_main():
            for path in self.all():
                damage = _damage(path)
                if damage is None:
                    found = Saved(path, json.loads((path / _RECORD).read_text())["state"])
                    break
                logger.warning("checkpoint %s is damaged (%s); trying the one before it", path, damage)
        chosen: Saved | None = distributed.broadcast_object(found)
        return chosen

    def restore(self, saved: Saved, engine: Engine, objective: "Objective") -> None:
        """Put everything back as it was; every process calls this, when all that draws at random is built."""
        path = saved.path
        if self.exchange is not None:
            path = self.folder / saved.path.name
            self.exchange.hand_out(path)
        engine.load(path)
        objective.load_teacher_state(_load_tensors(path / "teacher.safetensors"))
        _load_random_state(path, distributed.rank())
        distributed.barrier()
        if not distributed.is_main() and self._makes_folders():
            shutil.rmtree(path, ignore_errors=True)

    def all(self) -> list[Path]:
        """Finished checkpoints, newest first."""
        return sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True)

    def _makes_folders(self) -> bool:
        """Whether this process does so for all of its machine."""
        return distributed.is_main() if self.exchange is None else self.exchange.writes

    def _prune(self) -> None:
        old = self.all()[self.keep :]
        if self.keep_best:
            best = min(self.all(), key=_loss, default=None)
            old = [path for path in old if path != best]
        for path in old:
            # Renamed first: a crash halfway through the removal must not leave half a checkpoint under a good name.
            doomed = path.with_name(f"{_PARTIAL}old-{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)


def _seal(partial: Path, final: Path, state: dict[str, Any]) -> None:
    """Record sizes and digests, flush everything to disk, and give the folder its name."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    record = {
        "state": state,
        "files": {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in files
        },
    }
    (partial / _RECORD).write_text(json.dumps(record, indent=1))
    _flush(partial / _RECORD)
    _flush(partial)
    shutil.rmtree(final, ignore_errors=True)  # of the same step: damaged, or saved by a run that went on from before it
    partial.rename(final)
    _flush(final.parent)


def _loss(path: Path) -> float:
    """Training loss when a checkpoint was saved; infinite if it does not say."""
    try:
        return float(json.loads((path / _RECORD).read_text())["state"]["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole."""
    try:
        record = json.loads((path / _RECORD).read_text())
        for name, entry in record["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {entry['bytes']}"
            if sha256_file(file) != entry["sha256"]:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_RECORD} is unreadable: {error}"
    return None


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, str(path))


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(str(path)))


def _save_random_state(folder: Path, rank: int) -> None:
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    _save_tensors(folder / f"rank-{rank:04d}.safetensors", tensors)
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)]
    states = {"python": random.getstate(), "numpy": numpy_state}
    (folder / f"rank-{rank:04d}.json").write_text(json.dumps(states))


def _load_random_state(folder: Path, rank: int) -> None:
    """Take this process's random states; on more processes than before, the new ones keep their own seed."""
    path = folder / f"rank-{rank:04d}.json"
    if not path.is_file():
        return
    states = json.loads(path.read_text())
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    tensors = _load_tensors(path.with_suffix(".safetensors"))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
