"""The list of answers that a VQA model ranks, beside its weights: a JSON list of texts, the commonest first."""

import json
from collections.abc import Sequence
from pathlib import Path

from components.common.errors import ModelError

ANSWERS_FILE = "answers.json"


def write_answers(folder: Path, answers: Sequence[str]) -> None:
    """Write the list into a model folder."""
    text = json.dumps(list(answers), ensure_ascii=False, indent=0)
    (folder / ANSWERS_FILE).write_text(text + "\n", encoding="utf-8")


def read_answers(folder: Path) -> tuple[str, ...]:
    """The list of a model folder; empty if it has none, as official checkpoints have not.

    Raises:
        ModelError: the file is no JSON list of texts.
    """
    path = folder / ANSWERS_FILE
    return answers_of(path) if path.is_file() else ()


def answers_of(path: Path) -> tuple[str, ...]:
    """The answers in a file: a JSON list of texts, or (in any file but .json) a text a line.

    Raises:
        ModelError: it cannot be read, or holds none; says why.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: no readable list of answers: {error}; give a JSON list, or a text a line") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found) or not any(found):
        raise ModelError(f"{path} is no list of answers: give a JSON list of texts, or a text a line")
    return tuple(dict.fromkeys(filter(None, found)))
