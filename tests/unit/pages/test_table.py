import sys
from pathlib import Path

import pytest

from components.common.contracts import DatasetRef, ModelRef, RoundResult
from components.pages.table import markdown_table, mlflow_words


def _round(number: int, **metrics: float) -> RoundResult:
    web = DatasetRef(name="web", uri="/w", digest="d", images=1, pairs=1)
    models = {role: ModelRef(role=role, uri="/m", digest="d") for role in ("base", "captioner", "filter")}  # type: ignore[arg-type]
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return RoundResult(round=number, web=web, metrics=named, **models)


def test_rounds_side_by_side_with_changes() -> None:
    table = markdown_table(
        [
            _round(0, eval__retrieval__mean_recall=0.5, eval__caption__cider=1.25),
            _round(
                1,
                eval__retrieval__mean_recall=0.625,
                eval__caption__cider=1.0,
                capfilt__kept_pairs=2400.0,
                truth__filter_recall=1.0,
            ),
        ]
    )
    assert table.splitlines() == [
        "| | round 0 | round 1 |",
        "|---|---:|---:|",
        "| retrieval, mean recall | 0.5000 | 0.6250 (+0.1250) |",
        "| captions, CIDEr | 1.2500 | 1.0000 (-0.2500) |",
        "| pairs kept by CapFilt | – | 2,400 |",
        "| filter recall | – | 1.0000 |",
    ]


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
