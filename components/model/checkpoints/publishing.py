"""Model folders in the store: files first, `model.json` with their sha256 last; readers trust what it lists."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.common.contracts import ModelRef, ModelRole
from components.common.errors import ModelError
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri, open_store, sha256_file, split_uri
from components.model.checkpoints.folder import CONFIG_FILE, PREPROCESSOR_FILE, PROCESSOR_FILE
from components.model.checkpoints.tensors import INDEX_FILE, WEIGHTS_FILE, indexed_files
from components.model.tokenizer import TOKENIZER_FILE, VOCABULARY_FILE

MODEL_FILE = "model.json"
_PLAIN_FILES = (  # what a folder from elsewhere, without model.json, may hold that is of use
    "answers.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "preprocessor_config.json",
    "pretraining.safetensors",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_DECISIVE_FILES = (CONFIG_FILE, WEIGHTS_FILE, PREPROCESSOR_FILE, TOKENIZER_FILE, VOCABULARY_FILE)
_TEACHER_FILE = "pretraining.safetensors"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def publish_model(folder: Path | str, store: Store, role: ModelRole) -> ModelRef:
    """Copy a model folder to the root of `store`, and return what others need to find it.

    A reader that comes in between finds either the old model, or none; never half of the new one.

    Raises:
        ModelError: the folder holds no model.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MODEL_FILE)
    if CONFIG_FILE not in names or not {WEIGHTS_FILE, INDEX_FILE} & set(names):
        raise ModelError(f"{folder} holds no config.json and model.safetensors: save_model writes them")
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in names
        if not name.startswith(".")
    }
    record = {"role": role, "files": files, "digest": _digest(role, files)}
    store.delete(MODEL_FILE)
    for name in files:
        store.upload(folder / name, name)
    store.write(MODEL_FILE, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    return ModelRef(role=role, uri=store.uri, digest=record["digest"])


def fetch_model(uri: str, cache_dir: Path | str, *, digest: str | None = None) -> Path:
    """A local folder with the model at `uri`: itself if it is local, else a copy under `cache_dir`, made once.

    Args:
        uri: model folder, local or in S3, published by us or not.
        cache_dir: where copies are kept, by content.
        digest: the version wanted (`ModelRef.digest`); checked against the files.

    Raises:
        ModelError: there is no model, or its files are not those that `model.json` lists.
    """
    store = open_store(uri)
    record = _read_record(store)
    if digest is not None and (record is None or record["digest"] != digest):
        found = "no model.json" if record is None else f"version {record['digest'][:12]}"
        raise ModelError(f"{uri}: version {digest[:12]} is wanted, {found} is there; run the stage that made it again")
    if store.local_path("config.json") is not None:
        check_model_folder(store)
        if digest is not None and record is not None:
            _verify(Path(store.uri), record["files"], uri)
        return Path(store.uri)
    return _download(store, record, Path(cache_dir))


def fetch_tokenizer(uri: str, cache_dir: Path | str) -> Path:
    """A local folder with the tokenizer at `uri`, the URI of its folder or of its `tokenizer.json`."""
    folder, name = split_uri(uri)
    store = open_store(folder if name == TOKENIZER_FILE else uri)
    local = store.local_path(TOKENIZER_FILE)
    if local is not None:
        return local.parent
    cache = Path(cache_dir)
    store.download(TOKENIZER_FILE, cache / TOKENIZER_FILE)
    return cache


def check_model_folder(store: Store) -> None:
    """ModelError unless there is a model folder; reads none of its files."""
    if not store.exists(CONFIG_FILE):
        fault = f"{store.uri} is no model folder: there is no {CONFIG_FILE}; name the folder that holds it"
        raise ModelError(fault + _on_the_hub(store))


def hub_name(store: Store) -> str | None:
    """The name of a model that was named as the Hugging Face hub names it; None if it cannot be meant."""
    place = store.local_path("")
    if place is None or place.exists() or not place.is_relative_to(Path.cwd()):
        return None
    name = place.relative_to(Path.cwd()).as_posix()
    return name if _HUB_NAME.fullmatch(name) else None


def _on_the_hub(store: Store) -> str:
    """How to fetch a model of the hub; empty if none can be meant."""
    name = hub_name(store)
    if name is None:
        return ""
    folder = name.rpartition("/")[2]
    return (
        f". Is it a model of the Hugging Face hub? Fetch it: hf download {name} --local-dir {folder}, and give {folder}"
    )


def reference_model(uri: str, role: ModelRole) -> ModelRef:
    """A reference to any model folder: its published digest, or one over the files that decide what it does.

    Raises:
        ModelError: there is no model folder.
    """
    store = open_store(uri)
    record = _read_record(store)
    if record is not None:
        return ModelRef(role=role, uri=store.uri, digest=record["digest"])
    check_model_folder(store)
    parts = []
    for name in _decisive(store, role):
        info, path = store.info(name), store.local_path(name)
        if info is not None:
            parts.append([name, sha256_file(path) if path is not None else [info.size, info.etag]])
    return ModelRef(role=role, uri=store.uri, digest=digest_of([role, parts]))


def _decisive(store: Store, role: ModelRole) -> list[str]:
    """Files that decide what the model of a folder from elsewhere does: those that our readers look for.

    Of BLIP we read few; of other families transformers reads all, chat template and token ids among them.
    """
    if not _is_blip(store):
        return sorted({*_PLAIN_FILES, *_indexed(store)})
    names = [*_DECISIVE_FILES, *([_TEACHER_FILE] if role == "base" else [])]
    if not store.exists(PREPROCESSOR_FILE):
        names.append(PROCESSOR_FILE)
    return names + _indexed(store)


def _is_blip(store: Store) -> bool:
    """Whether a folder's config.json says so, or says nothing; what is wrong with it is told by whoever loads it."""
    try:
        return bool(json.loads(store.read(CONFIG_FILE)).get("model_type", "blip") == "blip")
    except (ValueError, AttributeError):
        return True


def _indexed(store: Store) -> list[str]:
    """The index of weights in several files, and those files; none where the weights are one file.

    Raises:
        ModelError: one of them is missing.
    """
    if store.exists(WEIGHTS_FILE) or not store.exists(INDEX_FILE):
        return []
    names = indexed_files(store.read(INDEX_FILE), join_uri(store.uri, INDEX_FILE))
    missing = [name for name in names if not store.exists(name)]
    if missing:
        raise ModelError(
            f"{store.uri} lacks {', '.join(missing)}, which {INDEX_FILE} names: copy the folder again from its source"
        )
    return [INDEX_FILE, *names]


def _download(store: Store, record: Mapping[str, Any] | None, cache: Path) -> Path:
    """Copy all files to a temporary folder, check them, then give it its name."""
    if record is not None:
        names, version = tuple(record["files"]), record["digest"]
    else:
        check_model_folder(store)
        wanted = dict.fromkeys((*_PLAIN_FILES, *_indexed(store)))
        infos = {name: info for name in wanted if (info := store.info(name)) is not None}
        names, version = tuple(infos), digest_of([[store.uri, i.key, i.size, i.etag] for i in infos.values()])
    target: Path = cache / str(version)[:32]
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
        parts = Path(temporary) / "model"
        for name in names:
            store.download(name, parts / name)
        if record is not None:
            _verify(parts, record["files"], store.uri)
        try:
            parts.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same content
                raise
            shutil.rmtree(parts)
    return target


def _verify(folder: Path, files: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """ModelError unless the folder holds these files, byte for byte."""
    for name, listed in files.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != listed["sha256"]:
            raise ModelError(
                f"{where}/{name} is not the file that {MODEL_FILE} lists: changed or damaged; publish the model again"
            )


def _read_record(store: Store) -> dict[str, Any] | None:
    """What `model.json` says, None if there is none."""
    if not store.exists(MODEL_FILE):
        return None
    where = f"{store.uri}/{MODEL_FILE}"
    try:
        record = json.loads(store.read(MODEL_FILE))
        files = {str(name): {"sha256": str(file["sha256"])} for name, file in record["files"].items()}
        digest, given = _digest(record["role"], record["files"]), str(record["digest"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where}: not a record of a model: {error!r}; publish the model again") from error
    if digest != given or any("/" in name or name.startswith(".") for name in files):
        raise ModelError(f"{where}: its digest does not fit its files: changed or damaged; publish the model again")
    return {"files": files, "digest": given}


def _digest(role: str, files: Mapping[str, Any]) -> str:
    return digest_of({"role": role, "files": {name: file["sha256"] for name, file in files.items()}})
