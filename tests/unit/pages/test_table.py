import sys
from pathlib import Path

import pytest

from components.pages.table import markdown_table, mlflow_words, print_result
from components.pages.verdict import verdict, word
from tests.helpers.ended import DRIFT, bootstrap_result, round_result, uncertain

RECALL, CIDER = "eval/retrieval/mean_recall", "eval/caption/cider"


def test_rounds_side_by_side_with_changes() -> None:
    more = {"capfilt/kept_pairs": 2400.0, "truth/filter_recall": 1.0}
    table = markdown_table(
        [round_result(0, {RECALL: 0.5, CIDER: 1.25}), round_result(1, {RECALL: 0.625, CIDER: 1.0, **more})]
    )
    assert table.splitlines() == [
        "| | round 0 | round 1 |",
        "|---|---:|---:|",
        "| retrieval, mean recall | 0.5000 | 0.6250 (+0.1250) |",
        "| captions, CIDEr | 1.2500 | 1.0000 (-0.2500) |",
        "| pairs kept by CapFilt | – | 2,400 |",
        "| filter recall | – | 1.0000 |",
    ]


def test_changes_are_since_the_first_figure() -> None:
    """Small steps add up; the page compares in the same way (test_report.py)."""
    figures = [(0.5, None), (0.6, 100.0), (0.58, 150.0)]
    rounds = [
        round_result(k, {RECALL: recall} | ({"capfilt/kept_pairs": kept} if kept else {}))
        for k, (recall, kept) in enumerate(figures)
    ]
    lines = markdown_table(rounds).splitlines()
    assert lines[2:4] == [
        "| retrieval, mean recall | 0.5000 | 0.6000 (+0.1000) | 0.5800 (+0.0800) |",
        "| pairs kept by CapFilt | – | 100 | 150 (+50) |",
    ]
    assert lines[-1] == "changes: since round 0; of what CapFilt did, since its first pass"


def test_the_terminal_shows_what_the_words_mean(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"truth/web_true": 0.75, "truth/synthetic_facts_right": float("nan")}
    print_result(bootstrap_result([round_result(0, {CIDER: 1.0}), round_result(1, {CIDER: 2.0} | facts)]))
    shown = capsys.readouterr().out
    assert "+1.0000" in shown
    assert "true: everything a text says fits its image; facts right: the share" in shown
    assert "champion: round 1 (better beyond noise: CIDEr)" in shown
    assert "pages:" not in shown


def test_intervals_and_what_changes_are_worth_stand_beside_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = {RECALL: 0.5, CIDER: 1.25}, {RECALL: 0.625, CIDER: 1.26}
    rounds = [
        round_result(0, before, uncertainty=uncertain(before, {})),
        round_result(1, after, uncertainty=uncertain(after, {RECALL: (0.125, 0.05), CIDER: (0.01, 0.05)}), drift=DRIFT),
    ]
    assert markdown_table(rounds).splitlines()[2:] == [
        "| retrieval, mean recall | 0.5000 [0.490–0.510] | 0.6250 [0.615–0.635] (+0.1250, +0.075 … +0.175: clear) |",
        "| captions, CIDEr | 1.2500 [1.240–1.260] | 1.2600 [1.250–1.270] (+0.0100, -0.040 … +0.060: within noise) |",
        "",
        "intervals: 95 %, by the choice of test images alone; another seed of the training varies besides",
    ]
    print_result(bootstrap_result(rounds))
    shown = capsys.readouterr().out
    assert "+0.1250 clear" in shown and "+0.075 … +0.175" in shown
    assert "+0.0100 within noise" in " ".join(shown.split())
    assert "another seed of the training varies besides" in shown
    assert "Round 1 is better than round 0: retrieval recall rises from 50.0 % to 62.5 %" in shown
    assert "warning: round 1: at threshold 0.5 its purity fell" in shown
    assert max(map(len, shown.partition("intervals")[0].splitlines())) <= 80


VQA = "eval/vqa/accuracy_official"


@pytest.mark.parametrize(
    ("answers", "said", "begins"),
    [
        (0.1, "clear", "Round 1 is better than round 0: retrieval recall rises from 50.0 % to 60.0 % ("),
        (-0.1, "mixed", "Round 1 is a mixed result against round 0: retrieval recall rises"),
    ],
)
def test_answers_are_spoken_of_where_they_are_a_task(answers: float, said: str, begins: str) -> None:
    before = {RECALL: 0.5, CIDER: 1.25, VQA: 0.7}
    after = {RECALL: 0.6, CIDER: 1.26, VQA: 0.7 + answers}
    changes = {RECALL: (0.1, 0.05), CIDER: (0.01, 0.05), VQA: (answers, 0.05)}
    rounds = [
        round_result(0, before, uncertainty=uncertain(before, {})),
        round_result(1, after, uncertainty=uncertain(after, changes)),
    ]
    assert word(rounds[1]) == said
    told = verdict(rounds)
    assert told.startswith(begins)
    assert "clear), CIDEr rises from 1.250 to 1.260 (-0.040 to +0.060: within noise) and VQA accuracy" in told
    table = markdown_table(rounds)
    assert f"| answers, VQA accuracy (official) | 0.7000 [0.690–0.710] | {after[VQA]:.4f} [" in table
    assert f"({answers:+.4f}, " in table


def test_where_the_rounds_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = "#/experiments/1/runs?workflowType=machine_learning"
    assert mlflow_words("http://tracking:5000/", page) == f"http://tracking:5000/{page}"
    installed = Path(sys.executable).parent
    for path, command in ((str(installed), "mlflow"), (str(tmp_path), f"{installed}/mlflow")):
        monkeypatch.setenv("PATH", path)
        monkeypatch.chdir(tmp_path)
        words = mlflow_words("sqlite:////runs/mlflow.db", page)
        assert words == f"{command} ui --backend-store-uri sqlite:////runs/mlflow.db, then http://127.0.0.1:5000/{page}"
    monkeypatch.chdir(installed.parent)
    assert mlflow_words("sqlite:////m.db", page).startswith(f"{installed.name}/mlflow ui ")
