"""CapFilt as a flow of its own: its filter measured on the validation split, and a threshold chosen for a target."""

import json
import logging
from pathlib import Path

import pytest
import torch
from prefect import flow
from safetensors.torch import load_file, save_file

from components.common.contracts import Calibration, ModelRef, RoundResult, ScoreWeights
from components.common.errors import GateError
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import SAMPLE_CONFIG, BootstrapConfig, load_config
from components.data.manifest import load_manifest
from components.data.texts import dataset_candidates
from components.pages.passing import describe_capfilt
from components.regeneration.recut import recut_dataset
from flows.preparation import prepare
from flows.regeneration import calibrate, compare_filters, regeneration
from flows.stages import BootstrapContext
from tests.helpers.ended import round_result
from tests.helpers.tiny import overrides
from tests.helpers.tiny_models import save_tiny_models

Models = tuple[ModelRef, ModelRef]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return save_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all tests: the imported data are found there."""
    return tmp_path_factory.mktemp("store") / "root"


def settings(root: Path, **more: object) -> list[str]:
    return overrides(store=str(root), tracking__enabled="false", **more)


def test_the_threshold_is_chosen_on_the_validation_split(models: Models, root: Path) -> None:
    sure = {"capfilt__target_precision": 0.12, "capfilt__calibration__bad_share": 0.9}
    result = regeneration(str(SAMPLE_CONFIG), *models, settings(root, **sure))
    (record,) = (json.loads(path.read_text()) for path in (root / "stages" / "calibrate").iterdir())
    calibration = Calibration.model_validate(record["result"])
    manifest = load_manifest(result.dataset.uri)
    assert calibration.images == 8
    assert calibration.chosen.purity >= 0.12
    assert manifest.config["threshold"] == calibration.chosen.threshold != 0.2


@pytest.mark.parametrize("score", ["both", "itc"])
def test_a_score_other_than_itm_is_weighed_by_the_validation_split_and_decides(
    models: Models, root: Path, tmp_path: Path, score: str
) -> None:
    result = regeneration(
        str(SAMPLE_CONFIG), *models, settings(root, capfilt__calibrated=score, capfilt__threshold=0.5)
    )
    config = load_manifest(result.dataset.uri).config
    weights = ScoreWeights.model_validate(config["weights"])
    records = [json.loads(path.read_text())["result"] for path in (root / "stages" / "calibrate").iterdir()]
    assert weights in [Calibration.model_validate(one).weights for one in records]
    assert (config["calibrated"], weights.itm == 0) == (score, score == "itc")
    rows = [row for row in dataset_candidates(result.dataset.uri) if row.itm_probability is not None]
    judged = {
        (row.key, row.source, row.text): (row.kept, weights.probability(row.itm_probability, row.itc_similarity) >= 0.5)
        for row in rows
        if row.reason in ("", "below_threshold")
    }
    assert all(kept == passes for kept, passes in judged.values())
    assert {passes for _, passes in judged.values()} == {True, False}
    web = [one for (_, source, _), one in judged.items() if source == "web"]
    assert result.metrics["capfilt/noise_ratio_web"] == pytest.approx(sum(not kept for kept, _ in web) / len(web))
    again = recut_dataset(
        result.dataset.uri, threshold=0.5, policy="keep_both", store=open_store(str(tmp_path)), name="again"
    )
    assert again.dataset.pairs == result.dataset.pairs
    assert load_manifest(again.dataset.uri).config["weights"] == config["weights"]
    (example, *_) = describe_capfilt(result.dataset, made_by=0).examples
    for text in example.texts:
        if text.score is not None:
            assert text.kept == (text.score >= 0.5) or text.reason == "duplicate"


def test_a_target_out_of_reach_stops_before_anything_is_captioned(models: Models, root: Path) -> None:
    made = list(root.glob("datasets/web-capfilt-1/*"))
    with pytest.raises(GateError, match="no threshold of this filter reaches a precision of 0.9999"):
        regeneration(str(SAMPLE_CONFIG), *models, settings(root, capfilt__target_precision=0.9999))
    assert list(root.glob("datasets/web-capfilt-1/*")) == made


def refusing(filter: ModelRef, folder: Path) -> ModelRef:
    """A filter that says no to everything."""
    save_tiny_models(folder)
    path = folder / "filter" / "model.safetensors"
    weights = load_file(path)
    weights["itm_head.weight"][:] = 0
    weights["itm_head.bias"][:] = torch.tensor([9.0, -9.0])
    save_file(weights, path, metadata={"format": "pt"})
    return filter.model_copy(update={"uri": str(folder / "filter"), "digest": "refusing"})


def test_a_filter_that_drifts_is_warned_of(
    models: Models, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config: BootstrapConfig = load_config(None, settings(root, capfilt__threshold=0.2))
    context = BootstrapContext(config, open_store(config.store), Tracker(), tmp_path / "scratch")

    rounds: list[RoundResult] = []

    @flow(name="three-rounds")
    def three_rounds() -> None:
        val = prepare(context).val
        for number, filter in enumerate([models[1], models[1], refusing(models[1], tmp_path)]):
            calibration = calibrate(context, number, filter, val)
            drift = compare_filters(context, rounds, calibration)
            rounds.append(round_result(number, calibration.metrics, calibration=calibration, drift=drift))

    with caplog.at_level(logging.INFO, logger="flows"):
        three_rounds()
    told = [record for record in caplog.records if "since the round before" in record.getMessage()]
    assert [record.getMessage().partition(":")[0] for record in told] == ["round-2/calibrate"]
    assert [one.drift is not None for one in rounds] == [False, False, True]
    points = [one.calibration.chosen for one in rounds]
    assert points[0] == points[1]
    assert rounds[2].drift is not None and rounds[2].drift.worse
    assert told[0].levelno == logging.WARNING
    assert [report.cached for report in context.reports if report.stage.endswith("calibrate")] == [False, True, False]
