"""Import questions about images: VQA v2's two files, or a plain list, with the image folder become a sharded dataset.

Known by their shape:

    VQA v2   {"questions": [{"question_id", "image_id", "question"}], "data_subtype": "train2014"}, and in a second file
             {"annotations": [{"question_id", "answers": [{"answer"}], "answer_type"}]}
    plain    [{"image", "question", "answers": [texts]}]; also `question_id`, and `kind` of the answer; BLIP's own lists
             (`answer`; `dataset`: `vg` weighs 0.2) are of this form

Every annotator's answer is kept, so that training can weigh answers by agreement. An entry that is of no use does not
end the import: it is told of with file and place, and listed among the dataset's failed samples.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.common.contracts import DatasetRef
from components.common.errors import ConfigError, DataError
from components.common.seeding import canonical_json, digest_of
from components.common.storage import Store, join_uri, open_store, sha256_hex, split_uri
from components.data.annotations import HumanImage, read_json
from components.data.candidates import Candidate, text_problem
from components.data.coco import (
    Annotations,
    FolderImport,
    extension_of,
    image_sizes,
    sizes_digest,
    with_keys,
)
from components.data.imports import imported_once
from components.data.manifest import BadSample, ShardRecord
from components.data.publish import ShardBuilder, check_sizes
from components.data.questions import SOURCE, Question

REVISION = 1  # counts changes of what the same input becomes
VISUAL_GENOME_WEIGHT = 0.2
_NO_ANSWERS, _NO_IMAGE, _BAD_ROW = "no_answers", "no_image", "bad_row"


@dataclass(frozen=True)
class QuestionFile:
    """Questions as read: where they lie, a digest of the files, by image, and the entries that are of no use."""

    where: str
    sha256: str
    images: tuple[HumanImage, ...]
    faults: tuple[BadSample, ...]

    @property
    def annotations(self) -> Annotations:
        """The images as those who look for their files want them."""
        return Annotations(self.where, self.sha256, self.images, self.faults)


@dataclass(frozen=True)
class _Row:
    """An entry: its place in its file, the image's file, the question, and what is wrong with it."""

    place: str
    image: str
    question: Question | None
    reason: str = ""
    detail: str = ""


def import_questions(
    questions_uri: str,
    images_uri: str,
    *,
    store: Store,
    name: str,
    annotations_uri: str | None = None,
    image_name: str | None = None,
    shard_size: int = 1000,
    limit: int | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    expect: Callable[[int], object] | None = None,
) -> DatasetRef:
    """Make a dataset of questions and their images, or find it made.

    Args:
        questions_uri: VQA v2's questions, or the plain list.
        images_uri: folder or S3 prefix that image names are relative to.
        store: root of the project's store.
        name: the dataset's name.
        annotations_uri: VQA v2's annotations; none with a plain list.
        image_name: for VQA v2, an image's file, e.g. `{:012d}.jpg`; COCO 2014's names by default.
        shard_size: images per shard.
        limit: use the first so many images only.
        threads: that read and decode (default: one per CPU).
        progress: called with the number of images just done.
        expect: called with the number of all of them, before the first is done.

    Raises:
        DataError: before any work, if files or image folder are missing or of no use; afterwards, if more than half of
            the images cannot be used.
    """
    check_sizes(shard_size, limit)
    asked = read_questions(questions_uri, annotations_uri, image_name=image_name, limit=limit)
    source = open_store(images_uri)
    sizes = image_sizes(source, asked.annotations)
    plan = {
        "kind": "vqa",
        "revision": REVISION,
        "questions_sha256": asked.sha256,
        "images": sizes_digest(sizes),
        "shard_size": shard_size,
        "limit": limit,
    }

    def work(target: Store) -> list[ShardRecord]:
        if expect is not None:
            expect(len(asked.images))
        found = _QuestionImport(asked.annotations, source, target, sizes, threads=threads, progress=progress)
        return found.run(asked.images, shard_size)

    return imported_once(store, name, "vqa", plan, asked.where, work)


def read_questions(
    questions_uri: str,
    annotations_uri: str | None = None,
    *,
    image_name: str | None = None,
    limit: int | None = None,
) -> QuestionFile:
    """Read questions, and keep those of the first `limit` images.

    Raises:
        DataError: a file is missing, has none of the known shapes, or no usable question; says where.
    """
    where, data = _read(questions_uri)
    document = read_json(data, where)
    digests = [sha256_hex(data)]
    if isinstance(document, list):
        if annotations_uri is not None:
            raise DataError(f"{where} is a plain list, which holds its answers itself: give no annotations with it")
        rows = list(_plain_rows(document))
    elif isinstance(document, dict) and isinstance(document.get("questions"), list):
        if annotations_uri is None:
            raise DataError(f"{where} holds questions without answers: give VQA v2's annotations JSON too")
        given, answers = _read(annotations_uri)
        digests += [sha256_hex(answers), image_name or ""]
        rows = list(_official_rows(document, _answers_of(read_json(answers, given), given), image_name))
    else:
        raise DataError(f"{where} is neither VQA v2's questions ({{questions: […]}}) nor a list of {{image, question}}")
    faults = tuple(
        BadSample(key=f"{where.rpartition('/')[2]} {row.place}", reason=row.reason, detail=_told(where, row)[:300])
        for row in rows
        if row.question is None
    )
    images = _by_image(rows)
    if not images:
        raise DataError(f"{where}: not one of its {len(rows)} entries can be used{_example(faults)}")
    return QuestionFile(where, digest_of(digests), tuple(with_keys(images)[:limit]), faults)


def _example(faults: Sequence[BadSample]) -> str:
    return f"; for example {faults[0].detail}" if faults else ""


def _read(uri: str) -> tuple[str, bytes]:
    """Where a file lies, and its bytes."""
    folder, key = split_uri(uri)
    source = open_store(folder)
    where = join_uri(source.uri, key)
    if not source.exists(key):
        raise DataError(f"{where} is no file: give VQA v2's JSON or a list of {{image, question, answers}}")
    return where, source.read(key)


def _plain_rows(document: Sequence[Any]) -> Iterator[_Row]:
    for at, row in enumerate(document):
        place = f"row {at}"
        if not isinstance(row, dict):
            yield _Row(place, "", None, _BAD_ROW, "it is no object")
            continue
        image = row.get("image")
        if not isinstance(image, str) or not image:
            yield _Row(place, "", None, _NO_IMAGE, "it names no image")
            continue
        weight = VISUAL_GENOME_WEIGHT if row.get("dataset") == "vg" else 1.0
        kind = row.get("kind", row.get("answer_type", ""))
        one = row.get("question_id", at)
        yield _row(place, image, one, row.get("question"), row.get("answers", row.get("answer")), kind, weight)


def _official_rows(
    document: dict[str, Any], answers: dict[str, dict[str, Any]], image_name: str | None
) -> Iterator[_Row]:
    """Questions in their order, each with its annotation."""
    pattern = image_name or f"COCO_{_subtype(document)}_{{:012d}}.jpg"
    for at, row in enumerate(document["questions"]):
        place = f"questions[{at}]"
        if not isinstance(row, dict) or "question_id" not in row:
            yield _Row(place, "", None, _BAD_ROW, "it lacks question_id")
            continue
        image_id = row.get("image_id")
        if not isinstance(image_id, int):
            yield _Row(place, "", None, _NO_IMAGE, f"image_id is {image_id!r}, no number")
            continue
        note = answers.get(canonical_json(row["question_id"]))
        if note is None:
            detail = f"the annotations know no question {row['question_id']}"
            yield _Row(place, "", None, _NO_ANSWERS, detail)
            continue
        given, kind = note.get("answers"), note.get("answer_type", "")
        yield _row(place, _image_file(pattern, image_id), row["question_id"], row.get("question"), given, kind)


def _image_file(pattern: str, image_id: int) -> str:
    try:
        return pattern.format(image_id)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"{pattern!r} makes no file name of an image's number: write e.g. '{{:012d}}.jpg'") from error


def _subtype(document: dict[str, Any]) -> str:
    """`train2014`; the images of `test-dev2015` are those of `test2015`."""
    return str(document.get("data_subtype", "train2014")).replace("-dev", "")


def _answers_of(document: Any, where: str) -> dict[str, dict[str, Any]]:
    """Annotations by their question."""
    rows = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{where} has no `annotations` list: give VQA v2's annotations JSON")
    found: dict[str, dict[str, Any]] = {}
    for at, row in enumerate(rows):
        if not isinstance(row, dict) or "question_id" not in row:
            raise DataError(f"{where}: annotations[{at}] lacks question_id: are these a question file's annotations?")
        found[canonical_json(row["question_id"])] = row
    return found


def _row(place: str, image: str, question_id: Any, question: Any, answers: Any, kind: Any, weight: float = 1.0) -> _Row:
    if (trouble := text_problem(question)) is not None:
        return _Row(place, image, None, trouble, f"question is {question!r}")
    given = _texts(answers)
    if not given:
        return _Row(place, image, None, _NO_ANSWERS, f"answers are {answers!r}")
    one = question_id if isinstance(question_id, int) else str(question_id)
    return _Row(place, image, Question(one, str(question).strip(), given, str(kind or ""), weight))


def _texts(answers: Any) -> tuple[str, ...]:
    """Annotators' answers as texts, in their order: one text, a list of them, or VQA v2's `{"answer": text}`."""
    listed = answers if isinstance(answers, list) else [answers]
    texts = (one.get("answer") if isinstance(one, dict) else one for one in listed)
    plain = (str(text) if isinstance(text, int | float) and not isinstance(text, bool) else text for text in texts)
    return tuple(str(text) for text in plain if text_problem(text) is None)


def _by_image(rows: Sequence[_Row]) -> list[HumanImage]:
    """Images in the order of their first question."""
    asked: dict[str, list[_Row]] = {}
    for row in rows:
        if row.question is not None:
            asked.setdefault(row.image, []).append(row)
    return [
        HumanImage("", name, name, tuple(row.question for row in rows), rows[0].place) for name, rows in asked.items()
    ]


def _told(where: str, row: _Row) -> str:
    return f"{where}: {row.place}: {row.detail} ({row.reason})"


class _QuestionImport(FolderImport):
    """The work of one import of questions."""

    def add(self, builder: ShardBuilder, item: HumanImage, data: bytes) -> None:
        """Write one image with its questions."""
        digest = sha256_hex(data)
        rows = [Candidate(item.key, digest, SOURCE, one.question, None, None, True) for one in item.captions]
        document = {
            "key": item.key,
            "file_name": item.file_name,
            "sha256": digest,
            "questions": [asdict(one) for one in item.captions],
        }
        fields = json.dumps(document, ensure_ascii=False)
        members = {extension_of(item.file_name): data, "json": fields.encode(errors="backslashreplace")}
        builder.add(item.key, rows, members)
