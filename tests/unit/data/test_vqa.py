"""Questions and answers: VQA v2's two files, plain lists, what is wrong with them, and how they are read again."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.storage import open_store
from components.data.candidates import read_candidates
from components.data.coco import import_coco
from components.data.config import LoaderConfig
from components.data.loader import PairLoader
from components.data.manifest import load_manifest, read_commit
from components.data.questions import Question, common_answers, iterate_asked, read_question
from components.data.versions.verify import verify
from components.data.vqa import import_questions, read_questions
from tests.helpers.datasets import shard_file
from tests.helpers.webshards import encoded, photo

TEN = ["red"] * 6 + ["Red "] + ["crimson"] * 3


def write_images(folder: Path, names: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(photo(number)))
    return str(folder)


def write(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def plain(count: int = 4) -> list[dict[str, Any]]:
    rows = [
        {"image": f"p_{at}.jpg", "question": f"What is {word} {at}?", "answers": TEN, "kind": "colour"}
        for word in ("here", "there")
        for at in range(count)
    ]
    return [*rows, {"image": "p_0.jpg", "question": "how many ?", "question_id": 77, "answer": "2", "dataset": "vg"}]


@pytest.fixture
def ref(tmp_path: Path) -> DatasetRef:
    images = write_images(tmp_path / "images", [f"p_{at}.jpg" for at in range(4)])
    return imported(tmp_path, write(tmp_path / "plain.json", plain()), images, shard_size=3)


def imported(folder: Path, questions: str, images: str, **options: Any) -> DatasetRef:
    return import_questions(questions, images, store=open_store(str(folder / "store")), name="questions", **options)


def test_a_plain_list(ref: DatasetRef, tmp_path: Path) -> None:
    assert (ref.images, ref.pairs) == (4, 9)
    assert load_manifest(ref.uri).kind == "vqa"
    assert verify(ref.uri).problems == ()
    rows = read_candidates(shard_file(ref.uri, "00000", ".parquet"))
    assert [(row.key, row.text, row.source) for row in rows[:3]] == [
        ("p_0", "What is here 0?", "question"),
        ("p_0", "What is there 0?", "question"),
        ("p_0", "how many ?", "question"),
    ]
    asked = list(iterate_asked(ref))
    assert [one.image for one in asked] == [(tmp_path / "images" / f"p_{at}.jpg").read_bytes() for at in range(4)]
    assert asked[0].questions[0] == Question(0, "What is here 0?", tuple(TEN), "colour")
    assert asked[0].questions[2] == Question(77, "how many ?", ("2",), "", 0.2)


def test_answers_weigh_by_the_annotators_agreement() -> None:
    assert Question(0, "?", tuple(TEN)).weights() == pytest.approx({"red": 0.7, "crimson": 0.3})
    assert Question(0, "?", ("2",), weight=0.2).weights() == {"2": 0.2}


def test_common_answers_in_their_commonest_spelling(ref: DatasetRef) -> None:
    assert common_answers([ref]) == ["red", "crimson", "2"]
    assert common_answers([ref], 1) == ["red"]


def test_the_loader_reads_questions_with_their_answers(ref: DatasetRef) -> None:
    config = LoaderConfig(batch_size=3, image_size=32, augment=False, prefetch=1)
    with PairLoader([(ref, 1)], config, seed=1, read=read_question) as loader:
        assert loader.pairs_per_epoch == 9
        batches = [next(loader) for _ in range(3)]
    met = [Question.from_json(text) for batch in batches for text in batch.texts]
    assert sorted(one.question for one in met) == sorted(row["question"] for row in plain())
    keys = [key for batch in batches for key in batch.keys]
    for key, one in zip(keys, met, strict=True):
        assert one.question in {row["question"] for row in plain() if row["image"] == f"{key.rpartition('/')[2]}.jpg"}
    assert {one.question: one.answers for one in met}["how many ?"] == ("2",)


def official() -> tuple[dict[str, Any], dict[str, Any]]:
    asked = [
        {"question_id": 10 * image + at, "image_id": image, "question": f"is it {at}?"}
        for image in (7, 9)
        for at in (0, 1)
    ]
    notes = [
        {
            "question_id": one["question_id"],
            "image_id": one["image_id"],
            "answer_type": "yes/no",
            "question_type": "is it",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": text, "answer_id": at + 1} for at, text in enumerate(TEN)],
        }
        for one in asked
    ]  # fmt: skip
    return {"questions": asked, "data_subtype": "train2014", "data_type": "mscoco"}, {"annotations": notes[::-1]}


def test_vqa_v2(tmp_path: Path) -> None:
    questions, annotations = official()
    names = [f"COCO_train2014_{number:012d}.jpg" for number in (7, 9)]
    images = write_images(tmp_path / "images", names)
    files = write(tmp_path / "q.json", questions), write(tmp_path / "a.json", annotations)
    ref = imported(tmp_path, files[0], images, annotations_uri=files[1])
    asked = list(iterate_asked(ref))
    assert [one.key for one in asked] == [Path(name).stem for name in names]
    assert asked[1].questions[1] == Question(91, "is it 1?", tuple(TEN), "yes/no")
    write_images(tmp_path / "images", ["000000000007.jpg", "000000000009.jpg"])
    short = imported(tmp_path, files[0], images, annotations_uri=files[1], image_name="{:012d}.jpg")
    assert [one.key for one in iterate_asked(short)] == ["000000000007", "000000000009"]
    with pytest.raises(DataError, match="give VQA v2's annotations JSON too"):
        read_questions(files[0])
    with pytest.raises(ConfigError, match="makes no file name"):
        read_questions(*files, image_name="{:z}")


def test_entries_of_no_use_are_named_with_file_and_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = write_images(tmp_path / "images", [f"p_{at}.jpg" for at in range(4)])
    bad = [
        "a text",
        {"question": "where?", "answers": ["here"]},
        {"image": "p_0.jpg", "question": "  ", "answers": ["x"]},
        {"image": "p_0.jpg", "question": "why?", "answers": []},
        {"image": "p_0.jpg", "question": "why?", "answers": [None, 3.5, ""]},
    ]
    path = write(tmp_path / "mixed.json", [*bad, *plain()])
    with caplog.at_level(logging.WARNING):
        ref = imported(tmp_path, path, images)
    record = read_commit(open_store(ref.uri), "00000")
    assert record is not None
    assert [(one.key, one.reason) for one in record.bad] == [
        ("mixed.json row 0", "bad_row"),
        ("mixed.json row 1", "no_image"),
        ("mixed.json row 2", "empty_text"),
        ("mixed.json row 3", "no_answers"),
    ]
    assert f"{path}: row 3: answers are [] (no_answers)" in caplog.text
    path = write(tmp_path / "gone.json", [*plain(), {"image": "gone.jpg", "question": "where?", "answers": ["here"]}])
    record = read_commit(open_store(imported(tmp_path, path, images).uri), "00000")
    assert record is not None
    assert [one.detail for one in record.bad] == [f"{path}: row {len(plain())}: {images}/gone.jpg does not exist"]
    assert next(iter(iterate_asked(ref))).questions[0].answers == ("3.5",)
    questions, annotations = official()
    del annotations["annotations"][0]
    questions["questions"][0]["image_id"] = "x"
    files = write(tmp_path / "q.json", questions), write(tmp_path / "a.json", annotations)
    faults = read_questions(*files).faults
    assert [one.detail.partition(": ")[2] for one in faults] == [
        "questions[0]: image_id is 'x', no number (no_image)",
        "questions[3]: the annotations know no question 91 (no_answers)",
    ]
    with pytest.raises(DataError, match=r"not one of its 1 entries can be used; for example .*row 0: it is no object"):
        read_questions(write(tmp_path / "none.json", ["x"]))
    with pytest.raises(DataError, match="neither VQA v2's questions"):
        read_questions(write(tmp_path / "other.json", {"images": []}))


def test_made_again_it_is_found(ref: DatasetRef, tmp_path: Path) -> None:
    again = imported(tmp_path, str(tmp_path / "plain.json"), str(tmp_path / "images"), shard_size=3)
    assert again == ref
    with pytest.raises(DataError, match="holds no questions"):
        captions = write(tmp_path / "c.json", [{"image": "p_0.jpg", "caption": "a dog"}])
        human = import_coco(captions, str(tmp_path / "images"), store=open_store(str(tmp_path / "s")), name="human")
        list(iterate_asked(human))
