"""Which finished stages of a store a run with this release would not find done, and why: for after an upgrade.

A stage is found by its revision and the digests of its inputs. What an earlier release imported by other rules is
imported again, and what was trained or made from that follows: its digest in the new record would be a claim that
nobody has checked. Models and datasets stay where they are, and can be given by hand.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from components.common.locations import texts_in
from components.common.storage import Store


def revisions() -> dict[str, int]:
    """The revision of every kind of stage today."""
    from components.data import coco, vqa, web
    from components.evaluation import answering
    from components.evaluation import dataset as judged
    from components.evaluation import run as evaluation
    from components.model import encoders
    from components.regeneration import calibration
    from components.regeneration import run as regeneration
    from components.training import finetune, pretrain

    return {
        "sample-world": 1,
        "import-human": coco.REVISION,
        "import-web": web.REVISION,
        "import-questions": vqa.REVISION,
        "tokenizer": 1,
        "encoders": encoders.REVISION,
        "pretrain": pretrain.REVISION,
        "finetune-captioner": finetune.REVISION,
        "finetune-filter": finetune.REVISION,
        "finetune-vqa": finetune.REVISION,
        "evaluate": evaluation.REVISION,
        "evaluate-base": evaluation.REVISION,
        "evaluate-vqa": answering.REVISION,
        "calibrate": calibration.REVISION,
        "capfilt": regeneration.REVISION,
        "judge": judged.REVISION,
    }


def outdated(store: Store) -> dict[str, str]:
    """Stages that would be done again, each with the reason, by name in the order of their inputs."""
    records = list(_records(store))
    found: dict[str, str] = {}
    made: dict[str, str] = {}  # digests of results that will be others, and the stages they are of
    today = revisions()
    while True:
        before = len(found)
        for record in records:
            if record["stage"] not in found and (why := _why(record, today, made)):
                found[record["stage"]] = why
                made |= dict.fromkeys(_digests(record["result"]), record["stage"])
        if len(found) == before:
            return found


def _records(store: Store) -> Iterator[dict[str, Any]]:
    for info in store.list("stages/"):
        if info.key.endswith(".json"):
            record = json.loads(store.read(info.key))
            if {"stage", "kind", "revision", "depends", "result"} <= record.keys():
                yield record


def _why(record: Mapping[str, Any], today: Mapping[str, int], made: Mapping[str, str]) -> str:
    known = today.get(record["kind"])
    if known is not None and known != record["revision"]:
        return f"made by revision {record['revision']} of its rules, today's is {known}"
    sources = sorted({made[text] for text in texts_in(record["depends"]) if text in made})
    return f"made from {', '.join(sources)}" if sources else ""


def _digests(value: Any) -> Iterator[str]:
    """Digests in a stage's result, by which others name it as an input."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "digest" and isinstance(one, str):
                yield one
            else:
                yield from _digests(one)
    elif isinstance(value, list):
        for one in value:
            yield from _digests(one)
