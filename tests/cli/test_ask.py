"""`capfilt ask` and `capfilt.ask`: one answer per image and question, and what is wrong is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import capfilt
from capfilt.cli.main import app
from components.common.errors import ConfigError, DataError, ModelError
from components.inference.config import AskConfig
from components.model.checkpoints.answers import write_answers
from tests.helpers.tiny_models import save_tiny_models, save_tiny_vqa
from tests.helpers.webshards import encoded, photo

QUESTIONS = ["what colour is the ball ?", "where is the cat ?"]
LIST = ["red", "blue", "on the house", "two", "yes"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    save_tiny_models(folder)
    save_tiny_vqa(folder / "plain")
    save_tiny_vqa(folder / "vqa")
    write_answers(folder / "vqa", LIST)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(photo(number)))
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def rows(*arguments: object) -> list[dict[str, str]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def test_the_command_and_python_say_the_same(world: Path) -> None:
    images = [world / f"{number}.jpg" for number in range(3)]
    asked = [part for question in QUESTIONS for part in ("--question", question)]
    typed = rows("--model", world / "vqa", *asked, *images)
    assert [(row["image"], row["question"]) for row in typed] == [(str(i), q) for i in images for q in QUESTIONS]
    assert all(row.keys() == {"image", "question", "answer"} and row["answer"] in LIST for row in typed)
    assert capfilt.ask(world / "vqa", images, QUESTIONS) == typed
    assert capfilt.ask(world / "vqa", images, QUESTIONS, config=AskConfig(batch_size=2)) == typed
    alone = capfilt.ask(world / "vqa", [images[1].read_bytes()], QUESTIONS[:1])
    assert alone == [{"image": "image 0", "question": QUESTIONS[0], "answer": typed[2]["answer"]}]
    text = run("--model", world / "vqa", "--question", QUESTIONS[0], images[0])
    assert text.stdout == f"{images[0]}: {typed[0]['answer']}\n"


def test_a_list_of_ones_own_and_written_answers(world: Path) -> None:
    (world / "own.txt").write_text("green\n\ndog\ngreen\n")
    image, asked = world / "0.jpg", ("--question", QUESTIONS[0])
    own = rows("--model", world / "plain", "--answers", world / "own.txt", *asked, image)
    assert own[0]["answer"] in ("green", "dog")
    written = rows("--model", world / "plain", *asked, image)
    assert written == rows("--model", world / "vqa", "--method", "generate", *asked, image)
    assert capfilt.ask(world / "vqa", [image], QUESTIONS[:1], method="generate") == written
    assert capfilt.ask(world / "plain", [image], QUESTIONS[:1], answers=["one"])[0]["answer"] == "one"


def test_what_is_wrong_is_said(world: Path) -> None:
    image, asked = world / "0.jpg", ("--question", "?")
    other = run("--model", world / "captioner", *asked, image)
    assert other.exit_code == 1 and "is no VQA model but BlipForConditionalGeneration" in other.stderr
    ranked = run("--model", world / "plain", "--method", "rank", *asked, image, "--json")
    assert ranked.exit_code == 2 and "ranking needs a list of answers" in json.loads(ranked.stdout)["error"]
    missing = run("--model", world / "vqa", *asked, world / "none.jpg")
    assert missing.exit_code == 2 and "none.jpg" in missing.stderr
    (world / "no.json").write_text("{}")
    listed = run("--model", world / "vqa", "--answers", world / "no.json", *asked, image)
    assert listed.exit_code == 1 and "is no list of answers" in listed.stderr
    assert run("--model", world / "vqa", image).exit_code == 2
    with pytest.raises(ConfigError, match="brackets"):
        capfilt.ask(world / "vqa", [image], "what?")
    with pytest.raises(ConfigError, match="top_k: Input should be greater than or equal to 1"):
        capfilt.ask(world / "vqa", [image], ["what?"], top_k=0)
    with pytest.raises(DataError, match="image 0: "):
        capfilt.ask(world / "vqa", [b"no image"], ["what?"])
    with pytest.raises(ModelError, match="no model folder"):
        capfilt.ask(world / "nowhere", [image], ["what?"])
