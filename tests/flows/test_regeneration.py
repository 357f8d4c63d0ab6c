"""CapFilt as a flow of its own: its filter measured on the validation split, and a threshold chosen for a target."""

import json
import logging
from pathlib import Path

import pytest
from prefect import flow
from safetensors.torch import load_file, save_file

from components.common.contracts import Calibration, ModelRef, RoundResult
from components.common.errors import GateError
from components.common.storage import open_store
from components.common.tracking import Tracker
from components.config import SAMPLE_CONFIG, BootstrapConfig, load_config
from components.data.manifest import load_manifest
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


def test_a_target_out_of_reach_stops_before_anything_is_captioned(models: Models, root: Path) -> None:
    made = list(root.glob("datasets/web-capfilt-1/*"))
    with pytest.raises(GateError, match="no threshold of this filter reaches a precision of 0.9999"):
        regeneration(str(SAMPLE_CONFIG), *models, settings(root, capfilt__target_precision=0.9999))
    assert list(root.glob("datasets/web-capfilt-1/*")) == made


def turned(filter: ModelRef, folder: Path) -> ModelRef:
    """A filter that says no where the other says yes."""
    save_tiny_models(folder)
    path = folder / "filter" / "model.safetensors"
    weights = load_file(path)
    for name in ("itm_head.weight", "itm_head.bias"):
        weights[name] = weights[name].flip(0)
    save_file(weights, path, metadata={"format": "pt"})
    return filter.model_copy(update={"uri": str(folder / "filter"), "digest": "turned"})


def test_a_filter_that_drifts_is_warned_of(
    models: Models, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config: BootstrapConfig = load_config(None, settings(root, capfilt__threshold=0.5))
    context = BootstrapContext(config, open_store(config.store), Tracker(), tmp_path / "scratch")

    rounds: list[RoundResult] = []

    @flow(name="three-rounds")
    def three_rounds() -> None:
        val = prepare(context).val
        for number, filter in enumerate([models[1], models[1], turned(models[1], tmp_path)]):
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
    fell = min(points[2].purity - points[1].purity, points[2].yield_share - points[1].yield_share) < -0.05
    assert told[0].levelno == (logging.WARNING if fell else logging.INFO)
    assert [report.cached for report in context.reports if report.stage.endswith("calibrate")] == [False, True, False]
