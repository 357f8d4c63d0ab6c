"""A small set of human pairs, and a tokenizer for them: what the real trainings of tests learn from."""

import json
from pathlib import Path

from components.common.contracts import DatasetRef
from components.common.storage import Store
from components.data.coco import import_coco
from components.model.tokenizer import BlipTokenizer
from tests.helpers.webshards import encoded, photo

CAPTIONS = ("a red ball left of a blue cube", "two green cubes on sand", "a small dog", "stripes and a yellow ring")


def import_pairs(folder: Path, store: Store) -> DatasetRef:
    """Twelve images with two captions each."""
    images, annotations = [], []
    for number in range(12):
        (folder / f"{number}.jpg").write_bytes(encoded(photo(number)))
        images.append({"id": number, "file_name": f"{number}.jpg"})
        for extra in range(2):
            text = CAPTIONS[(number + extra) % len(CAPTIONS)]
            annotations.append({"id": 2 * number + extra, "image_id": number, "caption": text})
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return import_coco(str(folder / "captions.json"), str(folder), store=store, name="human")


def save_tokenizer(folder: Path) -> str:
    """Trained on the captions; the folder's name."""
    BlipTokenizer.train(CAPTIONS, 120, min_count=1).save(folder)
    return str(folder)
