"""Finetuning on questions by the real launcher: from the base model, killed and gone on, ready to answer afterwards."""

import json
from pathlib import Path

import pytest
import torch

import capfilt
from components.common.contracts import DatasetRef
from components.common.storage import open_store
from components.common.tracking import UNTRACKED
from components.data.vqa import import_questions
from components.evaluation.answering import run_answering
from components.evaluation.config import EvaluationConfig
from components.model.blip import BlipPretrain
from components.model.checkpoints.publishing import publish_model
from components.model.checkpoints.weights import load_base, load_vqa, save_model
from components.model.config import AnsweringConfig
from components.model.tokenizer import BlipTokenizer
from components.training.config import TrainConfig
from components.training.finetune import run_finetuning
from tests.distributed.test_training import TINY, going_on, killed_in_step, losses
from tests.helpers.webshards import encoded, photo

ANSWERS = ("red", "blue", "two", "a small dog")


def write_questions(folder: Path) -> DatasetRef:
    rows = []
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(encoded(photo(number)))
        for word in ("what colour is it ?", "how many dogs are there in the whole picture ?"):
            right, other = ANSWERS[(number + len(rows)) % 4], ANSWERS[(number + 1) % 4]
            rows.append({"image": f"{number}.jpg", "question": word, "answers": [right] * 7 + [other] * 3, "kind": "k"})
    (folder / "questions.json").write_text(json.dumps(rows))
    store = open_store(str(folder / "store"))
    return import_questions(str(folder / "questions.json"), str(folder), store=store, name="questions", shard_size=5)


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "steps": 5,
            "batch_size": 4,
            "optim": {"lr": 1e-3, "clip": 1.0},
            "deepspeed": {"zero_stage": 1},
            "checkpoint": {"every_steps": 2},
            "log_every": 1,
            "launch": {"processes": 1, "threads": 1},
        }
    )


@pytest.mark.slow
def test_a_killed_finetuning_goes_on_bit_for_bit_and_its_model_answers(tmp_path: Path, config: TrainConfig) -> None:
    tokenizer = BlipTokenizer.train([*ANSWERS, "what colour is it how many dogs are there in the whole picture"], 150)
    torch.manual_seed(0)
    save_model(BlipPretrain(TINY.for_tokenizer(tokenizer)), tokenizer, tmp_path / "base")
    store = open_store(str(tmp_path / "store"))
    base = publish_model(tmp_path / "base", store.child("base"), "base")
    asked, work = write_questions(tmp_path), tmp_path / "work"
    with killed_in_step(4):
        run_finetuning("vqa", base, [(asked, 1)], config, store=store, work_dir=work)
    before = losses(work)
    result = run_finetuning("vqa", base, [(asked, 1)], config, store=store, work_dir=work)
    assert len(before) == 3 and losses(work)[:3] == before
    assert "step-00000002" in going_on(work)
    assert {"train/loss_vqa", "train/nll_vqa"} <= set(losses(work)[-1])
    assert result.model.role == "vqa" and result.metrics["train/loss_vqa"] > 0

    folder = Path(result.model.uri)
    assert set(json.loads((folder / "answers.json").read_text())) == set(ANSWERS)
    model, start = load_vqa(folder, finetuned=True).model, load_base(tmp_path / "base").model
    moved = (model.text_decoder.words.weight - start.text.words.weight).abs().max()
    assert 0 < moved < 0.01, "learned a little, from the base model on"

    report = run_answering(
        result.model, asked, AnsweringConfig(top_k=2), EvaluationConfig(caption_batch=3, limit=7), round=1,
        store=store, tracker=UNTRACKED, work_dir=tmp_path,
    )  # fmt: skip
    told = json.loads(Path(str(report.uri)).read_text())
    assert len(told["questions"]) == 14
    assert report.metrics.keys() == {
        "eval/vqa/accuracy_official", "eval/vqa/accuracy_any", "eval/vqa/accuracy_official_k"
    }  # fmt: skip
    one = told["questions"][3]
    asked_alone = capfilt.ask(folder, [tmp_path / f"{one['key']}.jpg"], [one["question"]], top_k=2, precision="fp32")
    assert asked_alone[0]["answer"] == one["answer"]
