"""Questions about images as datasets, for a bootstrap that has the task vqa."""

import json
from typing import Literal

from components.common.contracts import AskedData, DatasetRef
from components.common.progress import Progress
from components.common.storage import join_uri, open_store
from flows.preparation import world_key
from flows.stages import BootstrapContext, Stage, StageContext


def prepare_questions(context: BootstrapContext) -> AskedData | None:
    """Training and test questions, imported; None where the tasks ask none."""
    if not context.config.asks:
        return None
    return AskedData(train=_import(context, "train"), test=_import(context, "test"))


def _import(context: BootstrapContext, split: Literal["train", "test"]) -> DatasetRef:
    from components.data import vqa

    config = context.config
    generated = config.data.source == "sampleworld"
    files = _world_files(context, split) if generated else config.data.question_files(split)
    limit = config.data.human_limit if split == "train" else None
    name = f"import/questions-{split}"
    depends = {"split": split, "content": _content(files, limit), "limit": limit, "shard_size": config.data.shard_size}

    def work(stage: StageContext) -> DatasetRef:
        with Progress(None, "images", name) as progress:
            return vqa.import_questions(
                str(files["questions_uri"]),
                str(files["images_uri"]),
                annotations_uri=files["annotations_uri"],
                image_name=files["image_name"],
                store=context.store,
                name=f"questions-{split}",
                shard_size=config.data.shard_size,
                limit=limit,
                progress=progress.advance,
                expect=progress.expect,
            )

    return context.run(Stage(name, "import-questions", vqa.REVISION, depends, DatasetRef, work))


def _world_files(context: BootstrapContext, split: str) -> dict[str, str | None]:
    """The sample world's questions, written beside it, with its human pictures."""
    from components.data.sampleworld.questions import REVISION, world_questions

    world, store = world_key(context.config), context.store
    key = f"{world}-questions-{REVISION}/questions_{split}.json"
    if not store.exists(key):
        store.write(key, json.dumps(world_questions(context.config.world(), split)).encode())
    own: dict[str, str | None] = dict.fromkeys(("annotations_uri", "image_name"))
    own["questions_uri"] = join_uri(store.uri, key)
    return own | {"images_uri": join_uri(store.uri, world, "human/images")}


def _content(files: dict[str, str | None], limit: int | None) -> list[str]:
    """What an import depends on: the questions, and which images are there."""
    from components.data.coco import image_sizes, sizes_digest
    from components.data.vqa import read_questions

    asked = read_questions(
        str(files["questions_uri"]), files["annotations_uri"], image_name=files["image_name"], limit=limit
    )
    return [asked.sha256, sizes_digest(image_sizes(open_store(str(files["images_uri"])), asked.annotations))]
