"""A round's VQA model measured: every test question answered, and scored as VQA v2's official scorer does."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.common.contracts import DatasetRef, EvalReport, ModelRef
from components.common.errors import DataError
from components.common.progress import Progress
from components.common.seeding import digest_of
from components.common.storage import Store, join_uri
from components.common.tracking import Tracker
from components.data.decoding import decode_image, resize_square
from components.data.questions import AskedImage, Question, iterate_asked
from components.evaluation.config import EvaluationConfig
from components.evaluation.vqa import NEEDED, Scored, accuracy, vqa_metrics
from components.inference.arithmetic import Arithmetic, pick_device
from components.inference.memory import with_halving
from components.inference.vqa import Answerer
from components.model.checkpoints.answers import read_answers
from components.model.checkpoints.publishing import fetch_model
from components.model.checkpoints.weights import load_vqa
from components.model.config import AnsweringConfig

logger = logging.getLogger(__name__)

REVISION = 1  # counts changes of what the same model and questions are measured to have


def run_answering(
    model: ModelRef,
    test: DatasetRef,
    config: AnsweringConfig,
    evaluation: EvaluationConfig,
    *,
    round: int,
    store: Store,
    tracker: Tracker,
    work_dir: Path,
) -> EvalReport:
    """Measure a VQA model on test questions.

    Args:
        model: ranks the answers listed in its folder (`answers.json`), or writes its own: as `config` says.
        test: imported questions.
        config: how questions are answered.
        evaluation: `limit` images, `caption_batch` questions at a time, `precision`.
        round: number, for the names of what is left.
        store: where the answers go.
        tracker: gets the figures.
        work_dir: copies of the model.

    Returns:
        `eval/vqa/…`; its `uri` is a JSON with every question, answer and mark.

    Raises:
        DataError: the test split holds no questions.
        ConfigError: answers shall be ranked, and the model's folder lists none.
        ModelError: a model folder does not load.
    """
    folder = fetch_model(model.uri, work_dir / "models", digest=model.digest)
    arithmetic = Arithmetic(pick_device(), evaluation.precision, fp32_weights=True)
    answerer = Answerer(load_vqa(folder, finetuned=True), config, arithmetic, read_answers(folder))
    rows: list[dict[str, Any]] = []
    with Progress(_images(test, evaluation.limit), "images", f"round-{round}/evaluate-vqa") as bar:
        for images in _grouped(iterate_asked(test), evaluation.limit, evaluation.caption_batch):
            rows += [row for part in with_halving(lambda some: _answered(answerer, some), images) for row in part]
            bar.advance(len(images))
    if not rows:
        raise DataError(f"{test.uri}: the test split has no questions to measure on")
    _tell_few(rows, test)
    metrics = vqa_metrics(Scored(row["answer"], row["answers"], row["kind"]) for row in rows)
    inputs: dict[str, Any] = {"model": model.digest, "test": test.digest, "config": config.model_dump(mode="json")}
    inputs |= {"limit": evaluation.limit, "precision": evaluation.precision}
    tracker.log_dataset(test, "test-questions")
    tracker.log_metrics(metrics, step=round)
    key = f"evaluations/round-{round}-vqa-{digest_of(inputs)[:16]}.json"
    details = {"round": round, **inputs, "metrics": metrics, "questions": rows}
    store.write(key, json.dumps(details, indent=1, ensure_ascii=False, sort_keys=True).encode())
    return EvalReport(round=round, metrics=metrics, uri=join_uri(store.uri, key))


def _images(test: DatasetRef, limit: int | None) -> int:
    return test.images if limit is None else min(limit, test.images)


def _grouped(images: Iterator[AskedImage], limit: int | None, questions: int) -> Iterator[list[AskedImage]]:
    """Images in order, some at a time: as many as have about so many questions together."""
    group: list[AskedImage] = []
    for number, image in enumerate(images):
        if number == limit:
            break
        group.append(image)
        if sum(len(one.questions) for one in group) >= questions:
            yield group
            group = []
    if group:
        yield group


def _answered(answerer: Answerer, images: Sequence[AskedImage]) -> list[list[dict[str, Any]]]:
    """Per image what was asked, answered and scored."""
    squares = np.stack([resize_square(decode_image(one.image), answerer.size) for one in images])
    asked = [(number, question) for number, one in enumerate(images) for question in one.questions]
    answers = answerer.answer(squares, [one.question for _, one in asked], [number for number, _ in asked])
    rows: list[list[dict[str, Any]]] = [[] for _ in images]
    for (number, question), answer in zip(asked, answers, strict=True):
        rows[number].append(_row(images[number].key, question, answer))
    return rows


def _row(key: str, question: Question, answer: str) -> dict[str, Any]:
    return {
        "key": key,
        "question_id": question.question_id,
        "question": question.question,
        "kind": question.kind,
        "answer": answer,
        "answers": list(question.answers),
        "accuracy": round(accuracy(answer, question.answers), 6),
    }


def _tell_few(rows: Sequence[dict[str, Any]], test: DatasetRef) -> None:
    if few := sum(len(row["answers"]) < NEEDED for row in rows):
        logger.warning(
            "%s: %d of %d test questions have fewer than %d answers, which the official accuracy gives no full mark "
            "(it expects ten); look at eval/vqa/accuracy_any",
            test.name, few, len(rows), NEEDED,
        )  # fmt: skip
