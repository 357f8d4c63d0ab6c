"""Tensors of a model folder: safetensors, in one file or in several with an index. Nothing that pickles is read."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.common.errors import ModelError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors, in one file or in several with an index.

    Raises:
        ModelError: there are none, or they cannot be read.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return read_safetensors(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).is_file():
        return _read_sharded(folder)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder} holds {', '.join(pickles)}, a pickle, which can run code when read, and no {WEIGHTS_FILE}: "
            f"load it with transformers where you trust it, and save_pretrained writes {WEIGHTS_FILE}"
        )
    raise ModelError(f"{folder} holds no {WEIGHTS_FILE}: give a model folder as transformers saves it")


def _read_sharded(folder: Path) -> dict[str, Tensor]:
    """Tensors of the files that an index lists, all beside it."""
    path = folder / INDEX_FILE
    try:
        index = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}; copy it again from its source") from error
    result: dict[str, Tensor] = {}
    for name in indexed_files(index, str(path)):
        result |= read_safetensors(folder / name)
    return result


def indexed_files(index: bytes, where: str) -> list[str]:
    """Names of the weight files that a `model.safetensors.index.json` lists, all in its own folder.

    Raises:
        ModelError: not such an index, or one that points elsewhere.
    """
    try:
        files = sorted({str(name) for name in json.loads(index)["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{where}: not a safetensors index: {error!r}; copy it again from its source") from error
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise ModelError(f"{where}: names files outside its folder: {', '.join(outside)}; refused")
    return files


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors: {error}; fetch or copy it again") from error
