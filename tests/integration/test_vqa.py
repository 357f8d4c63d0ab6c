"""The loop with its further tasks, tiny: each round finetunes and measures a model that answers, which `capfilt ask`
uses, and one for retrieval alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.common.metrics import RECALL, VQA, find_metric
from tests.helpers.tiny import options
from tests.integration.test_bootstrap import _environment, _run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ASKED = {
    "tasks": "[captioning,retrieval,vqa]",
    "retrieval__steps": 2,
    "vqa__steps": 3,
    "vqa__batch_size": 8,
    "vqa__optim__warmup_steps": 1,
    "vqa__log_every": 1,
    "vqa__launch__threads": 1,
    "evaluation__gate__metrics": "[eval/retrieval/mean_recall,eval/vqa/accuracy_official]",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder, the result of a run, and of the same run again."""
    folder = tmp_path_factory.mktemp("vqa")
    arguments = options(store=folder / "store", **ASKED)
    results = []
    for _ in range(2):
        done = _run(arguments, folder)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    return folder, results[0], results[1]


def test_every_round_answers(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    _, result, _ = finished
    assert [one["vqa"]["role"] for one in result["rounds"]] == ["vqa", "vqa"]
    assert result["weighed"][0]["against"] == "round 0"
    assert [one["metric"] for one in result["weighed"][0]["comparisons"]] == [RECALL, VQA]
    assert VQA in result["rounds"][0]["uncertainty"]["values"] and VQA in result["rounds"][1]["uncertainty"]["changes"]
    assert result["rounds"][0]["vqa"]["digest"] != result["rounds"][1]["vqa"]["digest"]
    for one in result["rounds"]:
        own = {name for name in one["metrics"] if "vqa" in name}
        assert {"eval/vqa/accuracy_official", "eval/vqa/accuracy_any", "vqa/loss_vqa", "vqa/nll_vqa"} <= own
        assert any(name.startswith("eval/vqa/accuracy_official_") for name in own)
        assert all(find_metric(name) for name in own)
        told = json.loads(Path(one["answers_uri"]).read_text())
        assert {row["kind"] for row in told["questions"]} <= {"colour", "count", "shape", "place", "yes/no", "relation"}
        assert one["histories"].keys() == {"pretrain", "captioner", "filter", "retrieval", "vqa"}
    page = Path(result["report"]).read_text()
    assert "VQA accuracy" in page and "Answering" in page


def test_retrieval_is_measured_of_its_own_model(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    _, result, _ = finished
    for one in result["rounds"]:
        assert one["retrieval"]["role"] == "retrieval"
        assert one["retrieval"]["digest"] != one["filter"]["digest"]
        assert json.loads(Path(one["details_uri"]).read_text())["filter"] == one["retrieval"]["digest"]
        assert {"retrieval/loss_itc", "retrieval/loss_itm", "filter/loss_itm"} <= one["metrics"].keys()


def test_again_everything_is_found(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    _, first, again = finished
    assert all(stage["cached"] for stage in again["stages"])
    assert [one["metrics"] for one in again["rounds"]] == [one["metrics"] for one in first["rounds"]]
    names = {stage["stage"] for stage in again["stages"]}
    assert {"import/questions-train", "import/questions-test", "round-1/vqa", "round-1/evaluate-vqa"} <= names
    assert "round-1/retrieval" in names


def test_the_models_answer_from_the_command_line(finished: tuple[Path, dict[str, Any], dict[str, Any]]) -> None:
    folder, result, _ = finished
    images = sorted(map(str, (folder / "store" / "sampleworld").glob("*/human/images/test_*.jpg")))[:2]
    command = [sys.executable, "-m", "capfilt.cli.main", "ask", "--model", result["rounds"][1]["vqa"]["uri"], "--json"]
    asked = [*command, "--question", "what colour is the circle ?", *images]
    done = subprocess.run(asked, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["image"] for row in rows] == images
    answers = json.loads((Path(result["rounds"][1]["vqa"]["uri"]) / "answers.json").read_text())
    assert all(row.keys() == {"image", "question", "answer"} and row["answer"] in answers for row in rows)
