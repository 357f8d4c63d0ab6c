"""Questions about images as a sealed dataset holds them: in the candidate table each question, in the json its answers.

A shard's tar has `KEY.jpg` and `KEY.json`; under `questions` of the json are the kept ones, in the order of their rows:

    {"question_id": 42, "question": "what colour is the circle ?", "answers": ["red", "red", "crimson"],
     "kind": "colour", "weight": 1.0}

`answers` are as annotators gave them, one each; `kind` is the kind of answer, empty where nobody said.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from components.common.contracts import DatasetRef
from components.common.errors import DataError
from components.data.fetch import ShardCache
from components.data.views import ImagePlace, ShardView, checked_manifest

SOURCE: Final = "question"
"""Source of their rows in candidate tables."""

MOST_ANSWERS = 3128
"""As many answers as BLIP ranks on VQA v2."""


@dataclass(frozen=True)
class Question:
    """A question about an image, and what annotators answered."""

    question_id: int | str
    question: str
    answers: tuple[str, ...]
    kind: str = ""
    weight: float = 1.0
    """What the answers of this question weigh together in training (BLIP: 0.2 for Visual Genome's)."""

    def weights(self) -> dict[str, float]:
        """Each answer with its weight: the share of the annotators who gave it. Case and outer spaces do not matter."""
        counts = Counter(answer.strip().lower() for answer in self.answers)
        return {answer: self.weight * count / counts.total() for answer, count in counts.items()}

    def to_json(self) -> str:
        """One line; `from_json` reads it back."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Question":
        """Read what `to_json` wrote."""
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Question":
        """From the fields of a sample's json; KeyError, TypeError or ValueError if they are none."""
        return cls(
            fields["question_id"],
            str(fields["question"]),
            tuple(map(str, fields["answers"])),
            str(fields.get("kind", "")),
            float(fields.get("weight", 1.0)),
        )


@dataclass(frozen=True)
class AskedImage:
    """An image, as a file's bytes, with all its questions."""

    key: str
    image: bytes
    questions: tuple[Question, ...]


def iterate_asked(ref: DatasetRef, *, cache_dir: Path | None = None) -> Iterator[AskedImage]:
    """All images of a dataset with their questions, in its order.

    Raises:
        DataError: it holds no questions, or is another version.
    """
    for view in _views(ref, cache_dir):
        for image in view.images:
            yield AskedImage(image.key, view.read(image), _questions(view, image))


def read_question(view: ShardView, pair: int) -> str:
    """A pair of a shard as JSON of its question: what a loader reads for VQA (`Question.from_json`).

    Raises:
        DataError: candidate table and json do not fit.
    """
    number, place, text = view.pairs[pair]
    questions = _questions(view, view.images[number])
    if place >= len(questions) or questions[place].question != text:
        raise DataError(f"{view.where}: the json of {view.images[number].key!r} lacks the question {text!r}")
    return questions[place].to_json()


def common_answers(refs: Iterable[DatasetRef], most: int = MOST_ANSWERS, *, cache_dir: Path | None = None) -> list[str]:
    """The answers of these datasets, those given most often first; at most so many, each in its commonest spelling."""
    given: Counter[str] = Counter()
    for ref in refs:
        for view in _views(ref, cache_dir):
            for image in view.images:
                given.update(answer.strip() for one in _questions(view, image) for answer in one.answers)
    commonest = sorted(given, key=lambda answer: (-given[answer], answer))
    spelled: dict[str, str] = {}
    total: Counter[str] = Counter()
    for answer in commonest:
        spelled.setdefault(answer.lower(), answer)
        total[answer.lower()] += given[answer]
    best = sorted(total, key=lambda answer: (-total[answer], answer))
    return [spelled[answer] for answer in best[:most]]


def _views(ref: DatasetRef, cache_dir: Path | None) -> Iterator[ShardView]:
    cache = ShardCache(cache_dir)
    for entry in checked_manifest(ref).shards:
        yield ShardView(ref.uri, entry, cache)


def _questions(view: ShardView, image: ImagePlace) -> tuple[Question, ...]:
    try:
        return tuple(Question.of(one) for one in view.fields(image)["questions"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{view.where}: the json of {image.key!r} holds no questions: is it a dataset of `import-questions`?"
        ) from error
