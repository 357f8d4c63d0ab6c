"""The catalogue of metrics names everything that is logged or shown."""

import ast
import re
from pathlib import Path

import pytest

from components.common.metrics import CATALOGUE, change, compared, find_metric, measured, metric
from components.data.candidates import Candidate
from components.data.manifest import Counts
from components.pages import table
from components.pages.report import curves, figures
from components.pages.views import views
from components.regeneration.stats import run_metrics, shard_stats

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for folder in ("capfilt", "components", "flows") for path in (ROOT / folder).rglob("*.py"))
PREFIXES = "train|pretrain|captioner|filter|eval|base|interval|change|capfilt|truth|calibration"
NAME = re.compile(rf"({PREFIXES})/[a-z0-9_/]*[a-z0-9]")
KEYS_AND_FILES = {"capfilt/cli"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_in_the_code_is_in_the_catalogue(path: Path) -> None:
    """Also those that are logged only on a GPU, or when something fails."""
    found = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    ]
    assert [name for name in found if find_metric(name) is None and name not in KEYS_AND_FILES] == []


def test_what_capfilt_counts_is_in_the_catalogue() -> None:
    rows = [
        Candidate("1", "0" * 64, "web", "", None, None, False, "empty_text"),
        Candidate("1", "0" * 64, "synthetic", "a red circle", 0.9, 0.2, True, ""),
        Candidate("2", "0" * 64, "web", "a blue star", 0.1, 0.2, False, "below_threshold"),
    ]
    counts = Counts(samples=3, kept=1, dropped=1, failed={"not_an_image": 1}, kept_pairs=1, dropped_pairs=2)
    logged = run_metrics(shard_stats(rows, 0.5), counts, 2.0, 3)
    assert "capfilt/failed_not_an_image" in logged
    assert [name for name in logged if find_metric(name) is None] == []


def test_names_and_labels_are_told_apart() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    labels = [
        entry.label
        for entry in CATALOGUE
        if not entry.name.startswith(("train/", "captioner/", "filter/", "retrieval/", "vqa/"))
    ]
    assert len(set(labels)) == len(labels)
    for entry in CATALOGUE:
        assert entry.about.endswith("."), entry.name
        assert entry.label, entry.name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("capfilt/failed_truncated", "capfilt/failed_<reason>"),
        ("truth/rejected/alt-text", "truth/rejected/<kind>"),
        ("capfilt/failed", "capfilt/failed"),
        ("captioner/nll_lm", "captioner/nll_lm"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert metric(name).name == family


@pytest.mark.parametrize("name", ["capfilt/kept", "capfilt/failed_", "eval/x", "loss", "filter/loss_"])
def test_what_nobody_entered_is_not_found(name: str) -> None:
    assert find_metric(name) is None


def test_what_is_shown_is_in_the_catalogue() -> None:
    columns = [name.split("`")[1] for view in views(["seed"]) for name in view.columns if name.startswith("metrics.")]
    shown = [*table.SHOWN, *figures.DATA_TABLE, *(name for _, names in figures.TABLE for name in names), *columns]
    shown += [f"train/{name}" for name in curves.CURVES] + list(curves.CHARTS) + list(figures.EXPLAINED)
    assert [name for name in shown if find_metric(name) is None] == []
    assert set(compared(dict.fromkeys(table.SHOWN, 0.0))) == set(table.SHOWN)
    assert "eval/caption/cider" in measured()


@pytest.mark.parametrize(
    ("values", "at", "expected"),
    [
        ([1.0, 2.0, 4.0], 2, 3.0),
        ([1.0, 2.0, 4.0], 0, None),
        ([None, 2.0, 5.0], 1, None),
        ([None, 2.0, 5.0], 2, 3.0),
        ([1.0, None, 5.0], 1, None),
        ([None, None], 1, None),
        ([1.0, float("nan")], 1, None),
        ([float("inf"), float("inf")], 1, None),
    ],
)
def test_changes_are_since_the_first_figure(values: list[float | None], at: int, expected: float | None) -> None:
    assert change(values, at) == expected
